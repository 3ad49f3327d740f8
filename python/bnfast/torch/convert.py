"""convert and convert_back: a model's norms and dropouts become bnfast's, and torch's again."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from bnfast.torch import modules
from bnfast.torch.attention import MultiheadAttention
from bnfast.torch.fusing import Sequential
from bnfast.torch.sync import SyncBatchNorm
from bnfast.torch.transformer import TransformerDecoderLayer, TransformerEncoderLayer

if TYPE_CHECKING:
    from collections.abc import Mapping

    Kind = type[nn.Module]

Model = TypeVar("Model", bound=nn.Module)

_OURS: dict[Kind, Kind] = {
    getattr(nn, kind.__name__): kind
    for kind in (
        modules.BatchNorm1d,
        modules.BatchNorm2d,
        modules.BatchNorm3d,
        modules.InstanceNorm1d,
        modules.InstanceNorm2d,
        modules.InstanceNorm3d,
        modules.GroupNorm,
        modules.LayerNorm,
        modules.RMSNorm,
        modules.Dropout,
        modules.Dropout1d,
        modules.Dropout2d,
        modules.Dropout3d,
        MultiheadAttention,
        TransformerEncoderLayer,
        TransformerDecoderLayer,
        Sequential,
    )
}
_THEIRS: dict[Kind, Kind] = {kind: theirs for theirs, kind in _OURS.items()}
_THEIRS[SyncBatchNorm] = nn.SyncBatchNorm
_NORMS_AND_DROPOUTS = (
    _NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    nn.MultiheadAttention,
    _DropoutNd,
    nn.RNNBase,
)
# Where convert notes the class that a module had, if `fuse` named it.
_BEFORE = "_class_before_convert"


def convert(model: Model, fuse: Mapping[Kind, Kind] | None = None) -> Model:
    """Return a copy of a model whose normalizations and dropouts are computed by bnfast.

    The class of a module changes, and nothing else: parameters, buffers, hooks, flags, names and
    whatever modules share stay as in a deep copy, and so do the keys of ``state_dict``. A
    normalization does the activation and the dropout that follow it in an ``nn.Sequential``;
    ``nn.MultiheadAttention`` drops its weights by bnfast; and the Transformer layers of torch have
    dropout, sum and norm in one pass.

    Parameters
    ----------
    model : nn.Module
        Is not changed.
    fuse : mapping from class to class, optional
        What no table can know: for a class of the model's own, such as a residual block, the
        subclass that runs in its place, whose ``forward`` says with :func:`fused` which calls are
        one. It has the attributes of the block that it was: no constructor is called.

    Returns
    -------
    nn.Module of model's class, or of that in `fuse`
        :func:`left_alone` tells what in it is not bnfast's, and why. Subclasses of torch's modules,
        such as parametrized ones, stay as they are.

    Raises
    ------
    TypeError
        If a class in `fuse` is not a subclass of the one that it replaces.
    ValueError
        From torch, which cannot copy a lazy module that has not run yet.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Dropout(0.1))
    >>> converted = bnfast.torch.convert(model)
    >>> type(converted[0]), list(converted.state_dict()) == list(model.state_dict())
    (<class 'bnfast.torch.modules.BatchNorm1d'>, True)
    >>> type(bnfast.torch.convert_back(converted)[0])
    <class 'torch.nn.modules.batchnorm.BatchNorm1d'>
    """
    named = dict(fuse or {})
    for before, after in named.items():
        if not (isinstance(after, type) and issubclass(after, before)):
            raise TypeError(f"convert: fuse has {after!r}, expected a subclass of {before!r}")
    converted = copy.deepcopy(model)
    for module in converted.modules():
        before = type(module)
        if before in named:
            module.__class__ = named[before]
            setattr(module, _BEFORE, before)
        elif before in _OURS:
            module.__class__ = _OURS[before]
    return converted


def convert_back(model: Model) -> Model:
    """Return a copy of a model in which every module that :func:`convert` changed is torch's again.

    Parameters
    ----------
    model : nn.Module
        Is not changed. It may have been trained, moved or copied since it was converted.

    Returns
    -------
    nn.Module
        With the classes, parameters, buffers and keys of the model before it was converted.

    Raises
    ------
    ValueError
        If a module, made as bnfast's, has an activation or dropout of its own: no module of torch
        does what it does.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> model = bnfast.torch.convert(torch.nn.LayerNorm(3))
    >>> bnfast.torch.convert_back(model)
    LayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=True)
    """
    restored = copy.deepcopy(model)
    for name, module in restored.named_modules():
        if isinstance(module, modules._Fused) and (module.activation or module.dropout):
            raise ValueError(
                f"convert_back: {name or 'the model'} is {module!r}, expected no activation or "
                "dropout in it, which torch's module does not have"
            )
        before = vars(module).pop(_BEFORE, None) or _THEIRS.get(type(module))
        if isinstance(module, modules._Fused):
            for own in ("activation", "activation_slope", "dropout"):
                vars(module).pop(own, None)
        if before is not None:
            module.__class__ = before
    return restored


def left_alone(model: nn.Module) -> dict[str, str]:
    """Return which normalizations and dropouts of a model are not bnfast's, and why.

    Parameters
    ----------
    model : nn.Module
        Converted or not.

    Returns
    -------
    dict from str to str
        A sentence for the name of each such module in ``model.named_modules()``; empty where all
        are bnfast's. What ``forward`` methods of the model call by ``torch.nn.functional`` is not
        seen.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> model = torch.nn.Sequential(torch.nn.AlphaDropout(0.1), torch.nn.Dropout(0.1))
    >>> bnfast.torch.left_alone(bnfast.torch.convert(model))
    {'0': 'AlphaDropout: bnfast has none of its kind'}
    """
    return {
        name: f"{type(module).__name__}: {_reason(module)}"
        for name, module in model.named_modules()
        if isinstance(module, _NORMS_AND_DROPOUTS)
        and not isinstance(module, tuple(_THEIRS))
        and not (isinstance(module, nn.RNNBase) and module.dropout == 0)
    }


def _reason(module: nn.Module) -> str:
    """Why convert does not change a module."""
    if type(module) in _OURS:
        return "not converted"
    if isinstance(module, LazyModuleMixin):
        return "run the model once and convert it then"
    if is_parametrized(module):
        return "it is parametrized"
    if type(module) is nn.SyncBatchNorm:
        return "on the CPU, use bnfast.torch.SyncBatchNorm.convert_sync_batchnorm"
    if isinstance(module, nn.RNNBase):
        return "its dropout is part of torch's own loop over time"
    if isinstance(module, tuple(_OURS)):
        return "a subclass, whose code may not be torch's"
    return "bnfast has none of its kind"
