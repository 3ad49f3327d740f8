"""fold_batch_norm: inference-mode batch norm inside the linear or convolution layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._checks import (
    as_array,
    one_of,
    real_number,
    real_numbers,
    refuse_negative,
    whole_number,
)
from bnfast._libraries import is_foreign, to_library, to_numpy

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_DTYPES = ("float16", "bfloat16", "float32", "float64")


def fold_batch_norm(
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    mean: ArrayLike,
    var: ArrayLike,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    axis: int = 0,
    eps_placement: str = "var",
    groups: int = 1,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Fold inference-mode batch norm into the linear or convolution layer before it.

    Parameters
    ----------
    weight : ndarray of float16, bfloat16, float32 or float64
        The layer's weight, of any shape with the C output channels on `axis`, or those of one
        group (see the table).
    bias : ndarray of shape (C,) or None
        The layer's bias, of one of weight's dtypes; None means 0.
    mean, var : array_like of float32 or float64, shape (C,)
        Running mean and variance of the batch norm.
    gamma, beta : array_like of float32 or float64, shape (C,), optional
        Its scale (default 1) and shift (default 0).
    eps : float, default 1e-5
        Finite and not negative.
    axis : int, default 0
        The output-channel axis of `weight`, see the table.
    eps_placement : {"var", "std"}, default "var"
        sqrt(var + eps) or sqrt(var) + eps.
    groups : int, default 1
        The layer's number of groups, a divisor of C. It matters only where `axis` has C / groups
        channels, those of one group; the groups then follow each other along the axis before it.

    Returns
    -------
    weight2 : ndarray of weight's shape and dtype
        weight * scale, with scale = gamma / sqrt(var + eps) on `axis`.
    bias2 : ndarray of shape (C,) and weight's dtype
        (bias - mean) * scale + beta.

    Raises
    ------
    TypeError
        If an argument is of another dtype or kind.
    ValueError
        If a shape does not match, `axis` is out of range, `eps` or an entry of `var` is negative,
        or if `groups` does not fit.

    Notes
    -----
    =================================  =======  ==================
    layer                              `axis`   `groups`
    =================================  =======  ==================
    torch Linear, Conv; ONNX Conv      0        1
    torch and ONNX ConvTranspose       1        the layer's
    Keras Dense, Conv                  -1       1
    Keras Conv2DTranspose              -2       1
    Keras DepthwiseConv2D              -1       its input channels
    ONNX Gemm, transB = 0              1        1
    ONNX Gemm, transB = 1              0        1
    =================================  =======  ==================

    Computed in float64 and rounded once. Where var and eps are both 0, scale is 0 as in
    `batch_norm_inference`, so that the layer gives beta.

    The formula is that of Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference" (2018), section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from bnfast import fold_batch_norm
    >>> weight = np.ones((1, 2))
    >>> fold_batch_norm(weight, None, mean=[1.0], var=[4.0], beta=[3.0], eps=0.0)
    (array([[0.5, 0.5]]), array([2.5]))
    """
    name = "fold_batch_norm"
    like = weight
    weight = _layer_array(name, "weight", weight)
    axis = whole_number(name, "axis", axis, low=-64)  # arrays have at most 64 dimensions
    if not -weight.ndim <= axis < weight.ndim:
        limits = f"[{-weight.ndim}, {weight.ndim}) for weight with shape {weight.shape}"
        raise ValueError(f"{name}: axis is {axis}, expected one in {limits}")
    groups = whole_number(name, "groups", groups, low=1)
    channels = _channel_values(name, "mean", mean, None).size
    channel = _output_channels(name, weight, axis % weight.ndim, channels, groups)
    shift: NDArray[Any] | float = 0.0
    if bias is not None:
        shift = _layer_array(name, "bias", bias)
        if shift.shape != (channels,):
            raise ValueError(f"{name}: bias has shape {shift.shape}, expected ({channels},)")
    values: dict[str, Any] = {"mean": mean, "var": var, "gamma": gamma, "beta": beta}
    given = {
        key: _channel_values(name, key, value, (channels,))
        for key, value in values.items()
        if value is not None or key in ("mean", "var")
    }
    refuse_negative(name, "var", given["var"])
    eps = real_number(name, "eps", eps, low=0)
    one_of(name, "eps_placement", eps_placement, ("var", "std"))

    in_var, after = (eps, 0.0) if eps_placement == "var" else (0.0, eps)
    with np.errstate(all="ignore"):
        wide = {key: value.astype(np.float64) for key, value in given.items()}
        deviation = np.sqrt(wide["var"] + in_var) + after
        scale = np.zeros(channels)
        np.divide(wide.get("gamma", 1.0), deviation, out=scale, where=deviation != 0)
        weight2 = weight.astype(np.float64) * scale[channel]
        bias2 = (np.asarray(shift, np.float64) - wide["mean"]) * scale + wide.get("beta", 0.0)
        folded = weight2.astype(weight.dtype), bias2.astype(weight.dtype)
    return to_library(folded[0], like), to_library(folded[1], like)


def _output_channels(
    operation: str, weight: NDArray[Any], axis: int, channels: int, groups: int
) -> NDArray[np.intp]:
    """Return the number of the output channel that each entry belongs to, to broadcast to weight.

    Raise if they are not `channels` in all.
    """
    here = weight.shape[axis]
    shown = f"axis {axis} of weight with shape {weight.shape}"
    if channels not in (here, here * groups):
        several = f" or ({here * groups},)" if groups > 1 else ""
        got = f"mean has shape ({channels},)"
        raise ValueError(f"{operation}: {got}, expected ({here},){several} to match {shown}")
    if channels % groups:
        expected = f"a divisor of the number of channels, {channels}"
        raise ValueError(f"{operation}: groups is {groups}, expected {expected}")
    numbers = np.arange(here)
    if channels != here:
        if axis == 0 or weight.shape[axis - 1] % groups:
            expected = f"a divisor of the length of an axis before {shown}"
            raise ValueError(f"{operation}: groups is {groups}, expected {expected}")
        group = np.repeat(np.arange(groups), weight.shape[axis - 1] // groups)
        numbers = group[:, None] * here + numbers
    return numbers.reshape(*numbers.shape, *[1] * (weight.ndim - 1 - axis))


def _channel_values(
    operation: str, argument: str, value: Any, shape: tuple[int, ...] | None
) -> NDArray[Any]:
    here = to_numpy(operation, argument, value) if is_foreign(value) else value
    return real_numbers(operation, argument, here, shape)


def _layer_array(operation: str, argument: str, value: Any) -> NDArray[Any]:
    numpy = to_numpy if is_foreign(value) else as_array  # which also takes lists
    array = numpy(operation, argument, value)
    # Compared by name, as ml_dtypes, whose type bfloat16 is, need not be imported for the others.
    if array.dtype.name not in _DTYPES or not array.dtype.isnative:
        expected = f"{', '.join(_DTYPES[:-1])} or {_DTYPES[-1]} in native byte order"
        raise TypeError(f"{operation}: {argument} has dtype {array.dtype}, expected {expected}")
    return array
