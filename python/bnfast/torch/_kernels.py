"""A normalization as kernels compute it, on tensors that they can take."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bnfast import _core as _typed
from bnfast._choices import ACTIVATIONS
from bnfast._core import BatchNormContext
from bnfast._dropout import dropout as _dropout

Context = Any  # BatchNormContext or NormContext
# Its functions are typed for NumPy's arrays, and take tensors as well. They are called without the
# package's own, which would check once more what is checked here, in calls of a few microseconds.
_core: Any = _typed
dropout: Any = _dropout
_NARROW = {torch.float16, torch.bfloat16}


class Norm(NamedTuple):
    """What a call computes beyond its tensors.

    Attributes
    ----------
    kind : {"batch", "frozen", "instance", "group", "layer", "rms"}
        "frozen" is batch norm with given statistics.
    extent : int
        Groups of a group norm; how many axes a layer or RMS norm is taken over.
    eps, activation, slope, dropout
        As in the functions of bnfast.
    """

    kind: str
    extent: int
    eps: float
    activation: str | None
    slope: float
    dropout: float

    @property
    def residual_first(self) -> bool:
        """Whether residual and dropout stand before the norm."""
        return self.kind in ("layer", "rms")


class Running(NamedTuple):
    """Running statistics, and the weight of a new batch in them."""

    mean: Tensor | None
    var: Tensor | None
    momentum: float


UNTRACKED = Running(None, None, 0.0)


def forward(
    norm: Norm,
    seed: int,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
) -> tuple[Tensor, Tensor | None, Context]:
    """Return y, h (None where it is x) and the context; update running statistics.

    The context refers to x and residual.
    """
    mean, var, _ = running
    if x.dtype in _NARROW:
        weight, bias, mean, var = _wide(weight), _wide(bias), _wide(mean), _wide(var)
    options: dict[str, Any] = {
        "gamma": weight,
        "eps": norm.eps,
        "residual": residual,
        "activation": ACTIVATIONS[norm.activation],
        "activation_slope": norm.slope,
    }
    kind = norm.kind
    y: Tensor
    context: Context
    h = None
    if kind != "rms":
        options["beta"] = bias
    if kind == "frozen":
        y, context = _core.batch_norm_frozen(x, mean=mean, var=var, **options)
        return y, h, context
    if norm.dropout:
        options |= {"dropout": norm.dropout, "seed": seed}
    if kind == "batch":
        y, context = _core.batch_norm(x, **options)
    elif kind == "instance":
        y, context = _core.instance_norm(x, **options)
    elif kind == "group":
        y, context = _core.group_norm(x, num_groups=norm.extent, **options)
    else:
        compute = _core.layer_norm if kind == "layer" else _core.rms_norm
        y, context = compute(x, axis=tuple(range(-norm.extent, 0)), **options)
        h = context.h if residual is not None or norm.dropout else None
    mean, var, momentum = running
    if mean is None and var is None:
        return y, h, context
    # On a GPU torch's own operations update them, so that nobody waits for the batch's statistics.
    wide = all(t is None or t.dtype not in _NARROW for t in (mean, var))
    if kind == "batch" and wide and x.is_cpu:
        _core.update_running(context, mean, var, momentum)
    else:
        update(running, context.mean, context.var, x)
    return y, h, context


def gradients(
    context: Context, dy: Tensor | None, dh: Tensor | None, x: Tensor, residual: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return dx, dweight, dbias, dresidual from what forward left."""
    dy = torch.zeros_like(x) if dy is None else dy.resolve_neg()
    grads: tuple[Tensor | None, ...]
    if isinstance(context, BatchNormContext):
        grads = _core.batch_norm_backward(dy, ctx=context, x=x, residual=residual)
    else:
        dh = None if dh is None else dh.resolve_neg()
        grads = _core.norm_backward(dy, ctx=context, dh=dh, x=x, residual=residual)
    return grads


def update(running: Running, mean: Tensor, var: Tensor, x: Tensor) -> None:
    """Move running statistics towards those of a batch, or the average of those of its samples.

    mean and var may be overwritten.
    """
    if x.numel() == 0:
        return
    count = x.numel() // mean.numel()
    if mean.dim() > 1:
        mean, var = mean.mean(0), var.mean(0)
    for old in (running.mean, running.var):
        if old is not None and old.shape != mean.shape:
            got, expected = tuple(old.shape), tuple(mean.shape)
            raise ValueError(f"running statistics have shape {got}, expected {expected}")
    var = var.mul_(count / (count - 1))  # unbiased
    for old, new in ((running.mean, mean), (running.var, var)):
        if old is not None:
            old.lerp_(new if new.dtype is old.dtype else new.to(old.dtype), running.momentum)


def _wide(values: Tensor | None) -> Any:
    """Return parameters or statistics in a dtype that bnfast takes them in."""
    return values.float() if values is not None and values.dtype in _NARROW else values


def drop(x: Tensor, rate: float, seed: int, channels: bool, inplace: bool = False) -> Tensor:
    """Return x with the mask of a seed applied, written over x if `inplace`."""
    axes, out = shared_axes(x, channels), x if inplace else None
    y: Tensor = dropout(x, rate, seed=seed, broadcast_axes=axes, out=out)[0]
    return y


def shared_axes(x: Tensor, channels: bool) -> tuple[int, ...]:
    """Return the axes along which elements share one decision."""
    return tuple(range(2, x.dim())) if channels else ()
