"""Which way a call goes: to a kernel, through torch's dispatcher, or to torch's own operations."""

from __future__ import annotations

import enum
import threading
import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bnfast import cuda

_PLAIN = {Tensor, torch.nn.Parameter, type(None)}
_DTYPES = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_STRIDED = torch.strided
_is_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack
_transformations = torch._C._are_functorch_transforms_active
_trace = torch._C._get_tracing_state
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
    """Choose the way of a call, and say once of each reason why there is no kernel for it.

    A norm of few elements takes some 4 us in all, hence the order of the questions, and no helpers.
    """
    if (
        _PLAIN.issuperset(map(type, (x, *others)))
        and (x.is_cpu or _is_on_gpu(x))
        and x.dtype in _DTYPES
        and x.layout is _STRIDED
        # Torch has to see each operation when it compiles, for a mode, a transformation or a trace.
        and not _is_compiling()
        and not _modes()
        and not _transformations()
        and not _trace()
        and forward_ad._current_level < 0
        and not x.is_neg()
    ):
        return Route.KERNEL
    return _other_route(operation, x, others)


def gradient_route(dy: Tensor, *others: Tensor | None) -> Route:
    """Choose the way of a gradient, which may be many at once (``is_grads_batched``)."""
    if torch._C._dispatch_keys(dy).has(_BATCHED):
        return Route.TORCH
    return route("a gradient", dy, *others)


def _other_route(operation: str, x: Tensor, others: tuple[Tensor | None, ...]) -> Route:
    reason = _reason(x, others)
    if reason is None:
        return Route.OPERATOR
    if reason and not _is_compiling() and reason not in _told:
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
    if not x.is_cpu and not _is_on_gpu(x):
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


@torch.compiler.assume_constant_result
def _has_gpu_kernels() -> bool:
    """Whether bnfast has kernels for GPUs, as a constant for torch's compiler."""
    return cuda.is_available()


def _is_on_gpu(x: Tensor) -> bool:
    """Whether `x` is on a GPU for which bnfast has kernels."""
    return x.is_cuda and _has_gpu_kernels()


def draw_seed() -> int:
    """Draw the seed of a mask from torch's default generator, in [0, 2**63)."""
    try:
        cell: Tensor = _local.cell
    except AttributeError:
        with torch.inference_mode(False):  # such a tensor could not be filled outside of that mode
            cell = _local.cell = torch.empty((), dtype=torch.int64)
    return int(cell.random_().item())
