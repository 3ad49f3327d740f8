"""Batch norm, layer norm, RMS norm and dropout for JAX: compiled calls inside XLA's programs."""

from bnfast.jax._dropout import dropout
from bnfast.jax._norms import batch_norm, layer_norm, rms_norm

__all__ = ["batch_norm", "dropout", "layer_norm", "rms_norm"]
