"""Which way a call goes: to a kernel, through torch's dispatcher, or to torch's own operations."""

from __future__ import annotations

import enum
import threading
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_PLAIN = {Tensor, torch.nn.Parameter, type(None)}
_DTYPES = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_modes = torch._C._len_torch_dispatch_stack
_transformations = torch._C._are_functorch_transforms_active
_get_tracing_state = torch._C._get_tracing_state
_BATCHED = torch._C._dispatch_key_parse("Batched")
# The tensors with which torch's compiler and exporter trace a program.
_TRACED = {"FakeTensor", "FunctionalTensor"}

_told: set[str] = set()
_local = threading.local()


class Route(enum.Enum):
    """The ways that a call may go."""

    KERNEL = enum.auto()  # straight to bnfast
    OPERATOR = enum.auto()  # to bnfast by an operator that torch's dispatcher knows
    TORCH = enum.auto()  # to torch's own operations


def route(operation: str, x: Tensor, *others: Tensor | None) -> Route:
    """Choose the way of a call, and say once of each reason why there is no kernel for it."""
    if (
        _PLAIN.issuperset(map(type, (x, *others)))
        and x.is_cpu
        and x.dtype in _DTYPES
        and x.layout is torch.strided
        and not torch.compiler.is_compiling()
        and not _is_watched()
        and not x.is_neg()
    ):
        return Route.KERNEL
    return _other_route(operation, x, others)


def gradient_route(dy: Tensor, *others: Tensor | None) -> Route:
    """Choose the way of a gradient, which may be many at once (``is_grads_batched``)."""
    if torch._C._dispatch_keys(dy).has(_BATCHED):
        return Route.TORCH
    return route("a gradient", dy, *others)


def _is_watched() -> Any:
    """Whether torch has to see each operation: for a mode, a transformation or a trace."""
    return _modes() or _transformations() or _get_tracing_state() or forward_ad._current_level >= 0


def _other_route(operation: str, x: Tensor, others: tuple[Tensor | None, ...]) -> Route:
    compiling = torch.compiler.is_compiling()
    reason = _reason(x, others)
    if reason is None:
        return Route.OPERATOR
    if reason and not compiling and reason not in _told:
        _told.add(reason)
        warnings.warn(
            f"bnfast.torch: {operation} of {reason} is computed by torch's own operations",
            stacklevel=5,  # where a function is called
        )
    return Route.TORCH


def _reason(x: Tensor, others: tuple[Tensor | None, ...]) -> str | None:
    """Why no kernel can take these tensors; "" where nobody needs to know, None if one can."""
    if x.is_meta:
        return ""  # there is nothing to compute but a shape
    if not x.is_cpu:
        return f"tensors on {x.device.type}"
    if x.layout is not torch.strided:
        return f"tensors of layout {x.layout}"
    if x.dtype not in _DTYPES:
        return f"tensors of {x.dtype}"
    for kind in map(type, (x, *others)):
        if kind not in _PLAIN and kind.__name__ not in _TRACED:
            return f"the tensor type {kind.__name__}"
    if _transformations():
        return "tensors in a transformation of torch.func"
    if forward_ad._current_level >= 0:
        return "tensors in forward-mode differentiation"
    return None


def draw_seed() -> int:
    """Draw the seed of a mask from torch's default generator, in [0, 2**63)."""
    try:
        cell: Tensor = _local.cell
    except AttributeError:
        cell = _local.cell = torch.empty((), dtype=torch.int64)
    return int(cell.random_().item())
