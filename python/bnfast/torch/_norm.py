"""What a normalization computes, and its three ways: kernels, an operator, torch's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnfast.torch._dropout import drop_again
from bnfast.torch._kernels import UNTRACKED, Norm, Running, forward, gradients
from bnfast.torch._operators import by_operator
from bnfast.torch._route import Route, draw_seed, gradient_route, route

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
}


def normalise(
    norm: Norm,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running = UNTRACKED,
) -> tuple[Tensor, Tensor]:
    """Return y, and h where residual and dropout stand before the norm (else x)."""
    if residual is not None and residual.dtype is not x.dtype:
        dtype = torch.promote_types(x.dtype, residual.dtype)
        x, residual = x.to(dtype), residual.to(dtype)
    way = route(norm.kind + " norm", x, weight, bias, residual, running.mean, running.var)
    if way is Route.TORCH:
        return by_torch(norm, x, weight, bias, residual, running, _drop_by_torch)
    if way is Route.OPERATOR:
        return by_operator(norm, x, weight, bias, residual, running)
    seed = draw_seed() if norm.dropout else 0
    if torch.is_grad_enabled() and _needs_graph(x, weight, bias, residual):
        y, h = _apply(norm, seed, running, x, weight, bias, residual)
    else:
        y, h, _ = forward(norm, seed, x, weight, bias, residual, running)
    return y, x if h is None else h


def _needs_graph(*tensors: Tensor | None) -> bool:
    for tensor in tensors:  # noqa: SIM110  a generator takes longer than all of it
        if tensor is not None and tensor.requires_grad:
            return True
    return False


class _Norm(torch.autograd.Function):
    """A normalization in torch's graph: tensors are saved by torch, all else in a context."""

    @staticmethod
    def forward(
        ctx: Any,
        norm: Norm,
        seed: int,
        running: Running,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        y, h, context = forward(norm, seed, x, weight, bias, residual, running)
        context.set_arrays(None)  # torch keeps the tensors
        behind = None if norm.residual_first else residual
        ctx.save_for_backward(x if h is None else h, weight, bias, behind)
        ctx.norm, ctx.seed, ctx.context = norm, seed, context
        ctx.set_materialize_grads(False)
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Any, ...]:
        x, weight, bias, residual = ctx.saved_tensors
        some = dh if dy is None else dy
        if some is None:
            return (None,) * 7
        again = torch.is_grad_enabled()
        if not again and gradient_route(some, dh) is Route.KERNEL:
            return None, None, None, *gradients(ctx.context, dy, dh, x, residual)
        grads = _graph_of_gradients(ctx, dy, dh, (x, weight, bias, residual), again)
        return None, None, None, *grads


_apply: Callable[..., tuple[Tensor, Tensor | None]] = _Norm.apply


# --- torch's own operations -----------------------------------------------------------------------


def by_torch(
    norm: Norm,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    drop: Callable[[Tensor, float], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return y and h as :func:`normalise` does, computed by torch, step by step."""
    if norm.residual_first:
        if norm.dropout:
            x = drop(x, norm.dropout)
        if residual is not None:
            x = residual + x
    kind, eps = norm.kind, norm.eps
    mean, var, momentum = running
    if kind in ("batch", "frozen"):
        batch = kind == "batch"
        z = F.batch_norm(x, mean, var, weight, bias, batch, momentum, eps)
    elif kind == "instance":
        z = F.instance_norm(x, mean, var, weight, bias, True, momentum, eps)
    elif kind == "group":
        z = F.group_norm(x, norm.extent, weight, bias, eps)
    elif kind == "layer":
        z = F.layer_norm(x, x.shape[-norm.extent :], weight, bias, eps)
    else:
        z = F.rms_norm(x, x.shape[-norm.extent :], weight, eps)
    if residual is not None and not norm.residual_first:
        z = z + residual
    if norm.activation == "leaky_relu":
        z = F.leaky_relu(z, norm.slope)
    elif norm.activation is not None:
        z = _ACTIVATIONS[norm.activation](z)
    if norm.dropout and not norm.residual_first:
        z = drop(z, norm.dropout)
    return z, x


def _drop_by_torch(x: Tensor, rate: float) -> Tensor:
    return F.dropout(x, rate)


def _graph_of_gradients(
    ctx: Any,
    dy: Tensor | None,
    dh: Tensor | None,
    tensors: tuple[Tensor | None, ...],
    again: bool,
) -> list[Tensor | None]:
    """Return dx, dweight, dbias, dresidual as results of torch's operations.

    They can be differentiated `again`. The derivative is taken at aliases of the tensors, so that a
    path from one of the tensors to another is no part of it.
    """
    norm: Norm = ctx.norm

    def mask(t: Tensor, rate: float) -> Tensor:
        return drop_again(t, rate, ctx.seed)

    grads: list[Tensor | None] = [None] * 4
    if dy is not None:
        behind = norm._replace(dropout=0.0) if norm.residual_first else norm
        running = UNTRACKED
        if norm.kind == "frozen":
            running = Running(ctx.context.mean, ctx.context.var, 0.0)
        with torch.enable_grad():
            aliases: list[Any] = [None if t is None else t.view_as(t) for t in tensors]
            x, weight, bias, residual = aliases
            y, _ = by_torch(behind, x, weight, bias, residual, running, mask)
        at = [i for i, t in enumerate(aliases) if t is not None and t.requires_grad]
        found = torch.autograd.grad(y, [aliases[i] for i in at], dy, create_graph=again)
        for i, grad in zip(at, found, strict=True):
            grads[i] = grad
    if norm.residual_first:
        if dh is not None:
            grads[0] = dh if grads[0] is None else grads[0] + dh
        grads[3] = grads[0] if ctx.needs_input_grad[-1] else None
        if norm.dropout and grads[0] is not None:
            grads[0] = mask(grads[0], norm.dropout)
    return grads
