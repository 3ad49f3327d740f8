from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bnfast._functional import BatchNormGrads
from bnfast._moments import GradientSums, Moments
from bnfast._norms import NormGrads

__version__: str

Array = NDArray[Any]
_Moments = TypeVar("_Moments", bound=Moments)
_GradientSums = TypeVar("_GradientSums", bound=GradientSums)

class BatchNormContext:
    @property
    def numbers(self) -> Array: ...
    @property
    def moments(self) -> Moments: ...
    @property
    def mean(self) -> Array: ...
    @property
    def var(self) -> Array: ...
    @property
    def invstd(self) -> Array: ...
    @property
    def seed(self) -> int: ...
    @property
    def offset(self) -> int: ...
    def set_arrays(
        self, x: Array | None, residual: Array | None = ..., where: Array | None = ...
    ) -> None: ...

class NormContext:
    @property
    def numbers(self) -> Array: ...
    @property
    def h(self) -> Array: ...
    @property
    def mean(self) -> Array | None: ...
    @property
    def var(self) -> Array: ...
    @property
    def invstd(self) -> Array: ...
    @property
    def seed(self) -> int: ...
    @property
    def offset(self) -> int: ...
    def set_arrays(
        self, x: Array | None, residual: Array | None = ..., where: Array | None = ...
    ) -> None: ...

def as_numpy(operation: str, name: str, array: Any) -> Array: ...
def as_library(array: Array, like: Any) -> Any: ...

# Activations, placements of eps and modes of dropout are passed as numbers: see ACTIVATIONS and
# EPS_PLACEMENTS in _choices.py, MODES in _dropout.py.
def moments(x: Array, *, axis: int = ..., where: NDArray[np.bool_] | None = ...) -> Moments: ...
def update_running(
    ctx: BatchNormContext, mean: Array | None, var: Array | None, momentum: float
) -> None: ...
def merge_moments(one: _Moments, other: Moments) -> _Moments: ...
def merge_gradient_sums(one: _GradientSums, other: GradientSums) -> _GradientSums: ...
def batch_norm(
    x: Array,
    *,
    gamma: Array | None = ...,
    beta: Array | None = ...,
    axis: int = ...,
    eps: float = ...,
    residual: Array | None = ...,
    activation: int = ...,
    activation_slope: float = ...,
    dropout: float = ...,
    seed: int = ...,
    offset: int = ...,
    where: NDArray[np.bool_] | None = ...,
    stats: Moments | None = ...,
    eps_placement: int = ...,
    out: Array | None = ...,
) -> tuple[Array, BatchNormContext]: ...
def batch_norm_inference(
    x: Array,
    *,
    mean: Array,
    var: Array,
    gamma: Array | None = ...,
    beta: Array | None = ...,
    axis: int = ...,
    eps: float = ...,
    residual: Array | None = ...,
    activation: int = ...,
    activation_slope: float = ...,
    where: NDArray[np.bool_] | None = ...,
    eps_placement: int = ...,
    out: Array | None = ...,
) -> Array: ...
def batch_norm_frozen(
    x: Array,
    *,
    mean: Array,
    var: Array,
    gamma: Array | None = ...,
    beta: Array | None = ...,
    axis: int = ...,
    eps: float = ...,
    residual: Array | None = ...,
    activation: int = ...,
    activation_slope: float = ...,
    where: NDArray[np.bool_] | None = ...,
    eps_placement: int = ...,
    out: Array | None = ...,
) -> tuple[Array, BatchNormContext]: ...

# In backward, x and residual take the place of the context's own.
def batch_norm_backward_sums(
    dy: Array, ctx: BatchNormContext, x: Array | None = ..., residual: Array | None = ...
) -> GradientSums: ...
def batch_norm_backward(
    dy: Array,
    ctx: BatchNormContext,
    *,
    sums: GradientSums | None = ...,
    out: Array | None = ...,
    x: Array | None = ...,
    residual: Array | None = ...,
) -> BatchNormGrads: ...
def instance_norm(
    x: Array,
    *,
    gamma: Array | None = ...,
    beta: Array | None = ...,
    axis: int = ...,
    eps: float = ...,
    residual: Array | None = ...,
    activation: int = ...,
    activation_slope: float = ...,
    dropout: float = ...,
    seed: int = ...,
    offset: int = ...,
    out: Array | None = ...,
) -> tuple[Array, NormContext]: ...
def group_norm(
    x: Array,
    *,
    num_groups: int,
    gamma: Array | None = ...,
    beta: Array | None = ...,
    axis: int = ...,
    eps: float = ...,
    residual: Array | None = ...,
    dropout: float = ...,
    seed: int = ...,
    offset: int = ...,
    activation: int = ...,
    activation_slope: float = ...,
    out: Array | None = ...,
) -> tuple[Array, NormContext]: ...
def layer_norm(
    x: Array,
    *,
    gamma: Array | None = ...,
    beta: Array | None = ...,
    axis: int | tuple[int, ...] = ...,
    eps: float = ...,
    residual: Array | None = ...,
    dropout: float = ...,
    seed: int = ...,
    offset: int = ...,
    activation: int = ...,
    activation_slope: float = ...,
    out: Array | None = ...,
) -> tuple[Array, NormContext]: ...
def rms_norm(
    x: Array,
    *,
    gamma: Array | None = ...,
    axis: int | tuple[int, ...] = ...,
    eps: float = ...,
    residual: Array | None = ...,
    dropout: float = ...,
    seed: int = ...,
    offset: int = ...,
    activation: int = ...,
    activation_slope: float = ...,
    out: Array | None = ...,
) -> tuple[Array, NormContext]: ...
def norm_backward(
    dy: Array,
    *,
    ctx: NormContext,
    dh: Array | None = ...,
    out: Array | None = ...,
    x: Array | None = ...,
    residual: Array | None = ...,
) -> NormGrads: ...
def dropout(
    x: Array,
    *,
    rate: float,
    seed: int,
    offset: int,
    mode: int,
    broadcast_axes: tuple[int, ...],
    out: Array | None = ...,
) -> Array: ...
def dropout_backward(
    dy: Array,
    *,
    rate: float,
    seed: int,
    offset: int,
    mode: int,
    broadcast_axes: tuple[int, ...],
    out: Array | None = ...,
) -> Array: ...
def dropout_inference(x: Array, *, rate: float, mode: int, out: Array | None = ...) -> Array: ...
def dropout_inference_backward(dy: Array, *, rate: float, mode: int) -> Array: ...
def dropout_mask(
    shape: tuple[int, ...],
    *,
    rate: float,
    seed: int,
    offset: int,
    broadcast_axes: tuple[int, ...],
) -> NDArray[np.bool_]: ...
def num_threads() -> int: ...
def cache_limit() -> int: ...
def set_cache_limit(nbytes: int, /) -> None: ...
def set_num_threads(n: int, /) -> None: ...
def usable_cpus() -> int: ...
def threading_name() -> str: ...
def targets() -> list[str]: ...
def active_target() -> str: ...
def select_target(name: str, /) -> None: ...
def private_cache_bytes() -> int: ...
def shared_cache_bytes() -> int: ...
def shared_cache_is_near() -> bool: ...
def stream(
    dst: NDArray[np.float32], sources: Sequence[NDArray[np.float32]], threads: int, /
) -> None: ...
def lend_backend(lender: str, borrower: str, /) -> None: ...
def restore_backend(borrower: str, /) -> None: ...
def cuda_unavailable() -> str | None: ...
def cuda_device_count() -> int: ...
def cuda_device(index: int, /) -> tuple[str, int, int, int]: ...
def cuda_architectures() -> str: ...
def thresholds() -> dict[str, int]: ...
def randomise_schedule(seed: int | None, /) -> None: ...
