"""The kernels as operators that torch's dispatcher knows: for torch.compile, export and modes."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np
import torch
from torch import Tensor

import bnfast
from bnfast._choices import ACTIVATIONS, EPS_PLACEMENTS
from bnfast.torch._kernels import Norm, Running, drop, forward, gradients, update

_NONE = 0  # elements of a tensor that stands for no result: operators return tensors only


def by_operator(
    norm: Norm,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
) -> tuple[Tensor, Tensor]:
    """Return y and h as :func:`bnfast.torch._norm.normalise` does, in operations torch can see."""
    seed = _draw_seed() if norm.dropout else None
    given = running[:2] if norm.kind == "frozen" else (None, None)
    y, h, state = _norm(x, weight, bias, residual, *given, seed, *norm)
    if norm.kind in ("batch", "instance") and (running.mean is not None or running.var is not None):
        n = _statistics(norm, x)
        count, mean, mean_low, m2 = state.detach()[: 4 * n].view(4, -1, x.shape[1])
        update(running, mean + mean_low, m2 / count, x)
    return y, h if _has_h(norm, residual is not None) else x


def drop_by_operator(x: Tensor, rate: float, channels: bool) -> Tensor:
    return _drop(x, _draw_seed(), rate, channels)


def _draw_seed() -> Tensor:
    """Draw a seed by an operation that compilers know to be random."""
    return torch.randint(2**62, (), device="cpu")


# --- normalization --------------------------------------------------------------------------------


@torch.library.custom_op("bnfast::norm", mutates_args=())
def _norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    seed: Tensor | None,
    kind: str,
    extent: int,
    eps: float,
    activation: str | None,
    slope: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, h, and the numbers of the context."""
    norm = Norm(kind, extent, eps, activation, slope, dropout)
    drawn = 0 if seed is None else int(seed)
    y, h, context = forward(norm, drawn, x, weight, bias, residual, Running(mean, var, 0.0))
    state = context.numbers
    h = x.new_empty(_NONE) if h is None else _in_order_of(x, h)
    return _in_order_of(x, y), h, state


@_norm.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    seed: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    norm = Norm(*options)
    size = 5 * _statistics(norm, x) + 2 * _parameters(norm, x)
    h = torch.empty_like(x) if _has_h(norm, residual is not None) else x.new_empty(_NONE)
    return torch.empty_like(x), h, x.new_empty(size, dtype=torch.float64)


@torch.library.custom_op("bnfast::norm_backward", mutates_args=())
def _norm_backward(
    dy: Tensor | None,
    dh: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    state: Tensor,
    seed: Tensor | None,
    given: list[bool],
    kind: str,
    extent: int,
    eps: float,
    activation: str | None,
    slope: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dx, dweight, dbias, dresidual; `given` tells which of the last three there are."""
    norm = Norm(kind, extent, eps, activation, slope, dropout)
    context = _context(norm, x, state, seed, given)
    dx, dweight, dbias, dresidual = gradients(context, dy, dh, x, residual)
    if dresidual is dx:
        dresidual = None
    dx, dresidual = (None if t is None else _in_order_of(x, t) for t in (dx, dresidual))
    results = [x.new_empty(_NONE) if t is None else t for t in (dx, dweight, dbias, dresidual)]
    return results[0], results[1], results[2], results[3]


@_norm_backward.register_fake
def _(
    dy: Tensor | None,
    dh: Tensor | None,
    x: Tensor,
    residual: Tensor | None,
    state: Tensor,
    seed: Tensor | None,
    given: list[bool],
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norm = Norm(*options)
    shape = x.shape[-norm.extent :] if norm.residual_first else x.shape[1:2]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    dweight, dbias = (x.new_empty(shape if there else _NONE, dtype=dtype) for there in given[:2])
    own = given[2] and not (norm.residual_first and norm.dropout == 0)
    dresidual = torch.empty_like(x) if own else x.new_empty(_NONE)
    return torch.empty_like(x), dweight, dbias, dresidual


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, residual, _, _, seed, *options = inputs
    _, h, state = output
    ctx.norm = norm = Norm(*options)
    ctx.given = [t is not None for t in (weight, bias, residual)]
    behind = None if norm.residual_first else residual
    ctx.save_for_backward(h if _has_h(norm, residual is not None) else x, behind, state, seed)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dh: Tensor | None, _: Any) -> tuple[Any, ...]:
    x, residual, state, seed = ctx.saved_tensors
    norm: Norm = ctx.norm
    dh = dh if _has_h(norm, ctx.given[2]) else None
    *grads, dresidual = _norm_backward(dy, dh, x, residual, state, seed, ctx.given, *norm)
    if norm.residual_first and norm.dropout == 0:
        dresidual = grads[0]
    others = zip((*grads[1:], dresidual), ctx.given, strict=True)
    found = [grad if there else None for grad, there in others]
    return grads[0], *found, *(None,) * (3 + len(norm))


_norm.register_autograd(_differentiate, setup_context=_save)


# --- dropout --------------------------------------------------------------------------------------


@torch.library.custom_op("bnfast::dropout", mutates_args=())
def _drop(x: Tensor, seed: Tensor, rate: float, channels: bool) -> Tensor:
    return _in_order_of(x, drop(x, rate, int(seed), channels))


@_drop.register_fake
def _(x: Tensor, seed: Tensor, rate: float, channels: bool) -> Tensor:
    return torch.empty_like(x)


def _save_mask(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, seed, *ctx.mask = inputs
    ctx.save_for_backward(seed)


def _differentiate_drop(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return _drop(dy, *ctx.saved_tensors, *ctx.mask), None, None, None


_drop.register_autograd(_differentiate_drop, setup_context=_save_mask)


# --- what the operators of a normalization share --------------------------------------------------


def _in_order_of(x: Tensor, t: Tensor) -> Tensor:
    """Return t with the strides of ``empty_like(x)``, which the fakes promise.

    The kernels' order is another one only where elements of x overlap, as those of expanded axes.
    """
    promised = torch.empty_like(x, device="meta").stride()
    return t if t.stride() == promised else torch.empty_like(x).copy_(t)


def _has_h(norm: Norm, has_residual: bool) -> bool:
    return norm.residual_first and (has_residual or norm.dropout != 0)


def _statistics(norm: Norm, x: Tensor) -> int:
    """How many pairs of mean and variance there are."""
    if norm.residual_first:
        return math.prod(x.shape[: x.dim() - norm.extent])
    return {"instance": x.shape[0] * x.shape[1], "group": x.shape[0] * norm.extent}.get(
        norm.kind, x.shape[1]
    )


def _parameters(norm: Norm, x: Tensor) -> int:
    return math.prod(x.shape[-norm.extent :]) if norm.residual_first else x.shape[1]


def _context(norm: Norm, x: Tensor, state: Tensor, seed: Tensor | None, given: list[bool]) -> Any:
    """Make the context of a forward call again, with a stand-in for its arrays."""
    like_x = np.broadcast_to(np.zeros((), str(x.dtype).removeprefix("torch.")), x.shape)
    kind = norm.kind
    context: Any = bnfast.BatchNormContext if kind in ("batch", "frozen") else bnfast.NormContext
    made = context.__new__(context)
    made.__setstate__(
        {
            "x": like_x,
            "order": tuple(range(x.dim())),
            "residual": like_x if given[2] and not norm.residual_first else None,
            "where": None,
            "values": state,
            "axis": x.dim() - norm.extent if norm.residual_first else 1,
            "eps": norm.eps,
            "eps_placement": EPS_PLACEMENTS["var"],
            "activation": ACTIVATIONS[norm.activation],
            "activation_slope": norm.slope,
            "dropout": norm.dropout,
            "seed": 0 if seed is None else int(seed),
            "offset": 0,
            "scope": 2 if norm.residual_first else 1 if kind in ("group", "instance") else 0,
            "centre": 1 if kind == "rms" else 0,
            "groups": norm.extent if kind == "group" else 0,
            "has_gamma": given[0],
            "has_beta": given[1],
            "has_residual": given[2],
            "constant_statistics": kind == "frozen",
            "in_place": False,
            "foreign_stats": False,
        }
    )
    return made
