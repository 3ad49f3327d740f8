"""Group and instance normalization: documentation over one compiled call each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfast import _core
from bnfast._norms import FIRST_STREAM, NO_DROPOUT, Array, activation_number, check_mask

if TYPE_CHECKING:
    from bnfast._core import NormContext
    from bnfast._dropout import Seed


def group_norm(
    x: Array,
    num_groups: int,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = NO_DROPOUT,
    seed: Seed = None,
    offset: int = FIRST_STREAM,
    out: Array | None = None,
) -> tuple[Array, NormContext]:
    """Group normalization, with what follows it in the same pass over memory.

    ``y = drop(act(gamma * (x - mean) / sqrt(var + eps) + beta + residual))`` with the mean and the
    biased variance of groups of neighbouring channels of each sample [1]_.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Samples along axis 0. Any rank of at least 2 and any strides; channels first and channels
        last are read in place.
    num_groups : int
        How many groups the channels are cut into; the number of channels is a multiple of it.
    gamma, beta : ndarray of float32 or float64, shape (channels,), optional
        Learnt scale and shift; 1 and 0 when None.
    axis : int
        The channel axis, not 0.
    eps : float
        Added to the variance, finite and not negative.
    residual, activation, activation_slope, dropout, seed, offset
        As in :func:`batch_norm`.
    out : ndarray like `x`, optional
        Where to write y: disjoint from every input, or exactly the memory of `x`, on the terms of
        :func:`batch_norm`.

    Returns
    -------
    y : ndarray like `x`
    ctx : NormContext
        For :func:`norm_backward`. It refers to `x` (or to y, where that is written over `x`) and
        `residual`, which must keep their values until then, and tells ``.mean``, ``.var`` (biased)
        and ``.invstd``, of shape (samples, num_groups).

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes or overlap, and for bad kinds or dtypes, before anything is written.

    References
    ----------
    .. [1] Y. Wu and K. He, "Group Normalization", ECCV 2018, equation 7.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]], dtype=np.float32)  # a sample of four channels
    >>> y, ctx = bnfast.group_norm(x, 2, eps=0.0)
    >>> y
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    >>> ctx.mean
    array([[ 2., 20.]], dtype=float32)
    """
    name = "group_norm"
    dropout, seed, offset = check_mask(name, dropout, seed, offset)
    return _core.group_norm(
        x,
        num_groups=num_groups,
        gamma=gamma,
        beta=beta,
        axis=axis,
        eps=eps,
        residual=residual,
        activation=activation_number(name, activation),
        activation_slope=activation_slope,
        dropout=dropout,
        seed=seed,
        offset=offset,
        out=out,
    )


def instance_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = NO_DROPOUT,
    seed: Seed = None,
    offset: int = FIRST_STREAM,
    out: Array | None = None,
) -> tuple[Array, NormContext]:
    """Instance normalization, with what follows it in the same pass over memory.

    ``y = drop(act(gamma * (x - mean) / sqrt(var + eps) + beta + residual))`` with the mean and the
    biased variance of every channel of every sample [1]_: over all axes but 0 and `axis`.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Samples along axis 0. Any rank of at least 2 and any strides; channels first and channels
        last are read in place.
    gamma, beta : ndarray of float32 or float64, shape (channels,), optional
        Learnt scale and shift; 1 and 0 when None.
    axis : int
        The channel axis, not 0.
    eps : float
        Added to the variance, finite and not negative.
    residual, activation, activation_slope, dropout, seed, offset
        As in :func:`batch_norm`.
    out : ndarray like `x`, optional
        Where to write y: disjoint from every input, or exactly the memory of `x`, on the terms of
        :func:`batch_norm`.

    Returns
    -------
    y : ndarray like `x`
    ctx : NormContext
        For :func:`norm_backward`. It refers to `x` (or to y, where that is written over `x`) and
        `residual`, which must keep their values until then, and tells ``.mean``, ``.var`` (biased)
        and ``.invstd``, of shape (samples, channels).

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes or overlap, and for bad kinds or dtypes, before anything is written.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance Normalization: The Missing Ingredient
       for Fast Stylization", arXiv:1607.08022, 2016, equation 4.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[[1.0, 3.0]], [[10.0, 30.0]]], dtype=np.float32)  # two samples, one channel
    >>> y, ctx = bnfast.instance_norm(x, eps=0.0)
    >>> y
    array([[[-1.,  1.]],
    <BLANKLINE>
           [[-1.,  1.]]], dtype=float32)
    >>> ctx.mean
    array([[ 2.],
           [20.]], dtype=float32)
    """
    name = "instance_norm"
    dropout, seed, offset = check_mask(name, dropout, seed, offset)
    return _core.instance_norm(
        x,
        gamma=gamma,
        beta=beta,
        axis=axis,
        eps=eps,
        residual=residual,
        activation=activation_number(name, activation),
        activation_slope=activation_slope,
        dropout=dropout,
        seed=seed,
        offset=offset,
        out=out,
    )
