"""Normalizations whose statistics are a sample's own: documentation over one compiled call each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from bnfast import _core
from bnfast._choices import ACTIVATIONS, refuse_choice
from bnfast._core import NormContext
from bnfast._dropout import check_offset, check_rate, draw_seed

if TYPE_CHECKING:
    from bnfast._dropout import Seed

Array = NDArray[Any]


class NormGrads(NamedTuple):
    """Gradients of a normalization. An entry is None where its argument was not given."""

    dx: Array
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


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
    dropout: float = 0.0,
    seed: Seed = None,
    offset: int = 0,
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
    try:
        act = ACTIVATIONS[activation]
    except (KeyError, TypeError):
        refuse_choice(name, activation, "var")
    dropout = check_rate(name, "dropout", dropout)
    return _core.instance_norm(
        x,
        gamma=gamma,
        beta=beta,
        axis=axis,
        eps=eps,
        residual=residual,
        activation=act,
        activation_slope=activation_slope,
        dropout=dropout,
        seed=draw_seed(name, seed) if dropout > 0 or seed is not None else 0,
        offset=check_offset(name, offset),
        out=out,
    )


def norm_backward(
    dy: Array, ctx: NormContext, *, dh: Array | None = None, out: Array | None = None
) -> NormGrads:
    """Gradients of :func:`instance_norm`.

    Parameters
    ----------
    dy : ndarray like x
        Gradient of the loss at y.
    ctx : NormContext
        What the forward call returned.
    dh : None
        The gradient that reaches a norm's input by another way. Instance norm has none.
    out : ndarray like x, optional
        Where to write dx: disjoint from every input, or exactly the memory of `dy`.

    Returns
    -------
    NormGrads
        ``dx``, ``dgamma``, ``dbeta``, ``dresidual``; gradients flow through mean and var. dgamma
        and dbeta are sums over the samples, in float64 and in the order of the samples. An entry is
        None where the forward call had no such argument.

    Raises
    ------
    ValueError
        If `dh` is given, and for bad shapes or overlap, before anything is written.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[[1.0, 2.0, 6.0]]], dtype=np.float32)
    >>> y, ctx = bnfast.instance_norm(x, beta=np.zeros(1))
    >>> grads = bnfast.norm_backward(np.ones_like(x), ctx)
    >>> grads.dbeta
    array([3.], dtype=float32)
    >>> bool(np.abs(grads.dx).max() < 1e-6)  # a constant added to x does not change y
    True
    """
    if dh is not None:
        raise ValueError("norm_backward: dh is given, expected None after instance_norm")
    return _core.norm_backward(dy, ctx=ctx, out=out)
