"""Layer, RMS, group and instance norm: values, gradients, exactness, reproducibility, errors."""
