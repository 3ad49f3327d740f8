"""Dropout of tensors, whose gradient is dropout with the same mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import bnfast
from bnfast.torch import _kernels
from bnfast.torch._operators import drop_by_operator
from bnfast.torch._route import Route, draw_seed, gradient_route, route


def drop(x: Tensor, rate: float, channels: bool = False, inplace: bool = False) -> Tensor:
    """Drop elements of x, or whole channels: what lies beyond the first two axes."""
    way = route("dropout", x)
    if way is Route.TORCH:
        if channels:
            return (torch.feature_dropout_ if inplace else torch.feature_dropout)(x, rate, True)
        return F.dropout(x, rate, True, inplace)
    if way is Route.OPERATOR:
        y = drop_by_operator(x, rate, channels)
        return x.copy_(y) if inplace else y
    seed = draw_seed()
    if torch.is_grad_enabled() and x.requires_grad:
        dropped: Tensor = _apply(x, rate, seed, channels, inplace)
        return dropped
    y = _kernels.drop(x, rate, seed, channels, inplace)
    if inplace:
        torch.autograd.graph.increment_version(x)
    return y


def drop_again(x: Tensor, rate: float, seed: int, channels: bool = False) -> Tensor:
    """Apply the mask of a seed, as gradients do; this can be differentiated any number of times."""
    if gradient_route(x) is not Route.KERNEL:
        mask = bnfast.dropout_mask(
            tuple(x.shape), rate, seed=seed, broadcast_axes=_kernels.shared_axes(x, channels)
        )
        scale = 1 / (1 - rate) if rate < 1 else 0.0
        return torch.where(torch.from_numpy(mask), x * scale, 0)
    if torch.is_grad_enabled() and x.requires_grad:
        dropped: Tensor = _apply(x, rate, seed, channels, False)
        return dropped
    return _kernels.drop(x, rate, seed, channels)


class _Dropout(torch.autograd.Function):
    """Dropout in torch's graph; it saves no tensor."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rate: float, seed: int, channels: bool, inplace: bool
    ) -> Tensor:
        ctx.mask = rate, seed, channels
        if inplace:
            ctx.mark_dirty(x)
        return _kernels.drop(x, rate, seed, channels, inplace)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return drop_again(dy, *ctx.mask), None, None, None, None


_apply: Callable[..., Any] = _Dropout.apply
