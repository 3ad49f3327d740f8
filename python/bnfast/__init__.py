"""Batch normalization and dropout on NumPy arrays, as fast as memory allows: exact, fused."""

from bnfast import cuda
from bnfast._core import BatchNormContext, NormContext, __version__
from bnfast._dropout import (
    DropoutContext,
    dropout,
    dropout_backward,
    dropout_inference,
    dropout_mask,
)
from bnfast._dropout_layer import Dropout
from bnfast._embedding import get_cmake_dir, get_include
from bnfast._fold import fold_batch_norm
from bnfast._functional import (
    BatchNormGrads,
    batch_norm,
    batch_norm_backward,
    batch_norm_backward_sums,
    batch_norm_frozen,
    batch_norm_inference,
    moments,
)
from bnfast._group_norm import group_norm, instance_norm
from bnfast._layer_norm import layer_norm, rms_norm
from bnfast._layers import BatchNorm
from bnfast._moments import GradientSums, Moments
from bnfast._norm_layers import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from bnfast._norms import NormGrads, norm_backward
from bnfast._running import RunningStats
from bnfast._runtime import (
    active_target,
    get_cache_limit,
    get_num_threads,
    num_threads,
    set_cache_limit,
    set_num_threads,
    show_config,
    targets,
    use_target,
)

__all__ = [
    "BatchNorm",
    "BatchNormContext",
    "BatchNormGrads",
    "Dropout",
    "DropoutContext",
    "GradientSums",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Moments",
    "NormContext",
    "NormGrads",
    "RMSNorm",
    "RunningStats",
    "__version__",
    "active_target",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_backward_sums",
    "batch_norm_frozen",
    "batch_norm_inference",
    "cuda",
    "dropout",
    "dropout_backward",
    "dropout_inference",
    "dropout_mask",
    "fold_batch_norm",
    "get_cache_limit",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "moments",
    "norm_backward",
    "num_threads",
    "rms_norm",
    "set_cache_limit",
    "set_num_threads",
    "show_config",
    "targets",
    "use_target",
]
