"""Layer and RMS normalization: documentation over one compiled call each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfast import _core
from bnfast._norms import FIRST_STREAM, NO_DROPOUT, Array, activation_number, check_mask

if TYPE_CHECKING:
    from bnfast._core import NormContext
    from bnfast._dropout import Seed


def layer_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    residual: Array | None = None,
    dropout: float = NO_DROPOUT,
    seed: Seed = None,
    offset: int = FIRST_STREAM,
    activation: str | None = None,
    activation_slope: float = 0.01,
    out: Array | None = None,
) -> tuple[Array, NormContext]:
    """Layer normalization, with what stands before it in a Transformer in the same call.

    ``h = residual + drop(x)`` and ``y = act(gamma * (h - mean) / sqrt(var + eps) + beta)`` with the
    mean and the biased variance of h over the last axes [1]_, a pair for each index of the others.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Any rank of at least 1 and any strides.
    gamma, beta : ndarray of float32 or float64, of the shape of the normalised axes, optional
        Learnt scale and shift; 1 and 0 when None.
    axis : int or tuple of int
        The normalised axes: the last one, or several last ones in order, as ``(-2, -1)``.
    eps : float
        Added to the variance, finite and not negative.
    residual : ndarray like `x`, optional
        Added before the norm, as the residual stream of a Transformer block.
    dropout : float
        Rate in [0, 1] of dropout of x before `residual` is added, with inverted scaling; the mask
        is that of :func:`dropout`, from the same `seed` and `offset`.
    seed, offset
        As in :func:`dropout`; ``ctx.seed`` tells the seed that was used.
    activation, activation_slope
        As in :func:`batch_norm`.
    out : ndarray like `x`, optional
        Where to write y: disjoint from every input.

    Returns
    -------
    y : ndarray like `x`
    ctx : NormContext
        For :func:`norm_backward`. ``ctx.h`` is h, a new array that may serve as the next residual
        (x itself where neither `residual` nor `dropout` is given); it must keep its values until
        backward. ``.mean``, ``.var`` (biased) and ``.invstd`` have the shape of x without the
        normalised axes.

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes or overlap, and for bad kinds or dtypes, before anything is written.

    Notes
    -----
    In float16 and bfloat16 h is rounded to x's dtype once, and y is the norm of that h.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", arXiv:1607.06450, 2016,
       equation 4.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[1.0, 3.0], [10.0, 30.0]], dtype=np.float32)
    >>> y, ctx = bnfast.layer_norm(x, eps=0.0)
    >>> y
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    >>> ctx.mean
    array([ 2., 20.], dtype=float32)
    >>> y, ctx = bnfast.layer_norm(x, residual=np.ones_like(x))
    >>> ctx.h
    array([[ 2.,  4.],
           [11., 31.]], dtype=float32)
    """
    name = "layer_norm"
    dropout, seed, offset = check_mask(name, dropout, seed, offset)
    return _core.layer_norm(
        x,
        gamma=gamma,
        beta=beta,
        axis=axis,
        eps=eps,
        residual=residual,
        dropout=dropout,
        seed=seed,
        offset=offset,
        activation=activation_number(name, activation),
        activation_slope=activation_slope,
        out=out,
    )


def rms_norm(
    x: Array,
    gamma: Array | None = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-6,
    residual: Array | None = None,
    dropout: float = NO_DROPOUT,
    seed: Seed = None,
    offset: int = FIRST_STREAM,
    activation: str | None = None,
    activation_slope: float = 0.01,
    out: Array | None = None,
) -> tuple[Array, NormContext]:
    """Root mean square normalization: layer normalization about zero.

    ``h = residual + drop(x)`` and ``y = act(gamma * h / sqrt(mean(h**2) + eps))`` with the mean
    over the last axes [1]_.

    Parameters
    ----------
    x, gamma, axis, residual, dropout, seed, offset, activation, activation_slope, out
        As in :func:`layer_norm`.
    eps : float
        Added to the mean square, finite and not negative.

    Returns
    -------
    y : ndarray like `x`
    ctx : NormContext
        As :func:`layer_norm` returns it, but ``.mean`` is None and ``.var`` the mean square.

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes or overlap, and for bad kinds or dtypes, before anything is written.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019,
       equation 4.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[3.0, 3.0], [-2.0, 2.0]], dtype=np.float32)
    >>> y, ctx = bnfast.rms_norm(x, eps=0.0)
    >>> y
    array([[ 1.,  1.],
           [-1.,  1.]], dtype=float32)
    >>> ctx.var
    array([9., 4.], dtype=float32)
    """
    name = "rms_norm"
    dropout, seed, offset = check_mask(name, dropout, seed, offset)
    return _core.rms_norm(
        x,
        gamma=gamma,
        axis=axis,
        eps=eps,
        residual=residual,
        dropout=dropout,
        seed=seed,
        offset=offset,
        activation=activation_number(name, activation),
        activation_slope=activation_slope,
        out=out,
    )
