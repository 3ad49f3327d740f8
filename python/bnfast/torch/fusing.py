"""What stands around a norm, done in the norm's own passes over memory: fused, and Sequential."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook as has_global_hook

from bnfast.torch.modules import Dropout
from bnfast.torch.modules import _Fused as Fused

_NAMES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.ELU: "elu",
}
_DROPOUTS = (nn.Dropout, Dropout)
# Norms whose residual and dropout stand in front of them.
IN_FRONT = (nn.LayerNorm, nn.RMSNorm)


def fused(
    norm: nn.Module,
    x: Tensor,
    residual: Tensor | None = None,
    *,
    activation: Any = None,
    dropout: Any = None,
    return_h: bool = False,
) -> Any:
    """Call a norm with what stands around it, in one pass over memory where bnfast can.

    Batch, group and instance norm have it behind them, as blocks of convolutions do:
    ``dropout(activation(norm(x) + residual))``. Layer and RMS norm have residual and dropout in
    front, as a Transformer's blocks do: ``activation(norm(h))``, h = ``residual + dropout(x)``.

    The modules are called one after the other where the norm is torch's own, so that a block may
    be written with this function before it is converted; and where one of them has hooks, is of a
    kind that bnfast does not have, or is a dropout that trains while the norm does not, or the
    reverse.

    Parameters
    ----------
    norm : nn.Module
        A normalization of :mod:`bnfast.torch` or of torch.
    x : Tensor
        What the norm, or the dropout in front of it, is applied to.
    residual : Tensor, optional
        Of x's shape.
    activation : nn.Module, optional
        ReLU, LeakyReLU, Sigmoid, Tanh, SiLU, GELU (the form with erf) and ELU (alpha 1) are fused.
    dropout : nn.Module, optional
        nn.Dropout, or that of :mod:`bnfast.torch`.
    return_h : bool
        Of layer and RMS norm: return (y, h). h is the residual of a pre-norm Transformer's next
        block.

    Returns
    -------
    Tensor like x, or two of them

    Raises
    ------
    TypeError
        For an activation or a dropout that cannot be called, such as a name or a rate.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm, relu = bnfast.torch.BatchNorm1d(2), torch.nn.ReLU()
    >>> x = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    >>> y = bnfast.torch.fused(norm, x, residual=x, activation=relu)
    >>> bool((y == relu(norm(x) + x)).all())
    True
    """
    for name, value in (("activation", activation), ("dropout", dropout)):
        if value is not None and not callable(value):
            raise TypeError(f"fused: {name} is {value!r}, expected a module")
    in_front = isinstance(norm, IN_FRONT)
    of_call: dict[str, Any] = {}
    # What the norm does by itself stands between the sum and the rest, hooks or not.
    if isinstance(norm, Fused) and (norm.activation or norm.dropout or not _has_hooks(norm)):
        of_call["residual"], residual = residual, None
    if isinstance(norm, Fused) and not _has_hooks(norm):
        ends = norm.activation is None and (in_front or not norm.dropout)
        if ends and _is_known(activation):
            of_call["activation"] = _NAMES[type(activation)]
            of_call["activation_slope"] = getattr(activation, "negative_slope", 0.01)
            activation = None
        if (
            not norm.dropout
            and (in_front or activation is None)
            and _is_plain(dropout, _DROPOUTS)
            and dropout.training is norm.training
        ):
            of_call["dropout"] = dropout.p if dropout.training else 0.0
            dropout = None
    if in_front:
        x = x if dropout is None else dropout(x)
        x = x if residual is None else residual + x
        dropout = residual = None
    h = x
    if return_h and of_call:
        y, h = norm(x, return_h=True, **of_call)
    else:
        y = norm(x, **of_call)
    y = y if residual is None else y + residual
    y = y if activation is None else activation(y)
    y = y if dropout is None else dropout(y)
    return (y, h) if return_h else y


def _is_known(activation: Any) -> bool:
    """Whether a norm can compute an activation in exactly this form."""
    if type(activation) is nn.GELU and activation.approximate != "none":
        return False
    if type(activation) is nn.ELU and activation.alpha != 1.0:
        return False
    return _is_plain(activation, _NAMES)


def _is_plain(module: Any, kinds: Container[type]) -> bool:
    return type(module) in kinds and not _has_hooks(module)


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at what goes into a module or comes out of it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or has_global_hook()
    )


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` in which a norm does the activation and the dropout that follow it.

    Each stays a module of its own, with its place, name and settings; only their calls are one.
    Slices are of the same class.
    """

    def forward(self, input: Any) -> Any:
        modules = list(self)
        i = 0
        while i < len(modules):
            module, i = modules[i], i + 1
            if not isinstance(module, Fused):
                input = module(input)
                continue
            activation = dropout = None
            if i < len(modules) and type(modules[i]) in _NAMES:
                activation, i = modules[i], i + 1
            behind = not isinstance(module, IN_FRONT)
            if behind and i < len(modules) and type(modules[i]) in _DROPOUTS:
                dropout, i = modules[i], i + 1
            input = fused(module, input, activation=activation, dropout=dropout)
        return input
