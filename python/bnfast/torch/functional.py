"""Normalization and dropout with the arguments of torch.nn.functional, and what is fused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bnfast._choices import ACTIVATIONS, refuse_choice
from bnfast._dropout import check_rate
from bnfast.torch._dropout import drop
from bnfast.torch._kernels import Norm, Running
from bnfast.torch._norm import normalise


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
) -> Tensor:
    name = "batch_norm"
    if training:
        if x.dim() > 1:
            _check_count(name, x, x.shape[1])
    else:
        dropout = 0.0
        if running_mean is None or running_var is None:
            raise ValueError(f"{name}: running_mean or running_var is None, expected tensors")
    kind = "batch" if training else "frozen"
    norm = _norm(name, kind, 0, eps, activation, activation_slope, dropout)
    running = Running(running_mean, running_var, momentum)
    return normalise(norm, x, weight, bias, residual, running)[0]


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
) -> Tensor:
    name = "instance_norm"
    if use_input_stats:
        _check_count(name, x, math.prod(x.shape[:2]))
    else:
        dropout = 0.0
        if running_mean is None or running_var is None:
            raise ValueError(f"{name}: running_mean or running_var is None, expected tensors")
    kind = "instance" if use_input_stats else "frozen"
    norm = _norm(name, kind, 0, eps, activation, activation_slope, dropout)
    running = Running(running_mean, running_var, momentum)
    return normalise(norm, x, weight, bias, residual, running)[0]


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
) -> Tensor:
    name = "group_norm"
    if x.dim() >= 2 and num_groups > 0:
        _check_count(name, x, x.shape[0] * num_groups)
    norm = _norm(name, "group", num_groups, eps, activation, activation_slope, dropout)
    return normalise(norm, x, weight, bias, residual)[0]


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
    return_h: bool = False,
) -> Any:
    name = "layer_norm"
    axes = _check_shape(name, x, normalized_shape)
    norm = _norm(name, "layer", axes, eps, activation, activation_slope, dropout)
    y_and_h = normalise(norm, x, weight, bias, residual)
    return y_and_h if return_h else y_and_h[0]


def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
    return_h: bool = False,
) -> Any:
    name = "rms_norm"
    axes = _check_shape(name, x, normalized_shape)
    if eps is None:  # that of the type computed in
        eps = torch.finfo(torch.float64 if x.dtype is torch.float64 else torch.float32).eps
    norm = _norm(name, "rms", axes, eps, activation, activation_slope, dropout)
    y_and_h = normalise(norm, x, weight, None, residual)
    return y_and_h if return_h else y_and_h[0]


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropout("dropout", x, p, training, inplace)


def dropout1d(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropout("dropout1d", x, p, training, inplace, (2, 3), unbatched=2)


def dropout2d(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropout("dropout2d", x, p, training, inplace, (3, 4))


def dropout3d(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _dropout("dropout3d", x, p, training, inplace, (4, 5), unbatched=4)


def _dropout(
    name: str,
    x: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    dims: tuple[int, ...] = (),
    unbatched: int | None = None,
) -> Tensor:
    p = check_rate(name, "p", p)
    if dims and x.dim() not in dims:
        expected = " or ".join(map(str, dims))
        raise ValueError(f"{name}: x has {x.dim()} dimensions, expected {expected}")
    if not training or p == 0 or x.numel() == 0:
        return x
    if x.dim() != unbatched:
        return drop(x, p, bool(dims), inplace)
    return drop(x.unsqueeze(0), p, True, inplace).squeeze(0)


def _norm(
    name: str,
    kind: str,
    extent: int,
    eps: float,
    activation: str | None,
    slope: float,
    dropout: float,
) -> Norm:
    """Check what torch's own operations would not."""
    if activation is not None and activation not in ACTIVATIONS:
        refuse_choice(name, activation, "var")
    if dropout:
        dropout = check_rate(name, "dropout", dropout)
    return Norm(kind, extent, eps, activation, slope, dropout)


def _check_count(name: str, x: Tensor, statistics: int) -> None:
    if x.numel() == statistics != 0:
        shape = tuple(x.shape)
        raise ValueError(f"{name}: x has shape {shape}, expected more than 1 value per channel")


def _check_shape(name: str, x: Tensor, normalized_shape: Sequence[int]) -> int:
    """Return how many axes there are in normalized_shape."""
    count = len(normalized_shape)
    if count == 0 or x.dim() < count or x.shape[-count:] != tuple(normalized_shape):
        raise ValueError(
            f"{name}: normalized_shape is {tuple(normalized_shape)}, "
            f"expected the last lengths of x with shape {tuple(x.shape)}"
        )
    return count
