"""Norms and dropout for PyTorch: functions and modules that take the place of torch's own."""

from bnfast.torch._dropout import dropout, dropout1d, dropout2d, dropout3d
from bnfast.torch.attention import MultiheadAttention, scaled_dot_product_attention
from bnfast.torch.convert import convert, convert_back, left_alone
from bnfast.torch.functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from bnfast.torch.fusing import Sequential, fused
from bnfast.torch.modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)
from bnfast.torch.sync import SyncBatchNorm
from bnfast.torch.transformer import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "MultiheadAttention",
    "RMSNorm",
    "Sequential",
    "SyncBatchNorm",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "batch_norm",
    "convert",
    "convert_back",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "fused",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "left_alone",
    "rms_norm",
    "scaled_dot_product_attention",
]
