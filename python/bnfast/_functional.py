"""The stateless functions: names, defaults and documentation over one compiled call each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnfast import _core
from bnfast._choices import ACTIVATIONS, EPS_PLACEMENTS, refuse_choice
from bnfast._core import BatchNormContext
from bnfast._dropout import check_offset, check_rate, draw_seed
from bnfast._moments import GradientSums, Moments

if TYPE_CHECKING:
    from bnfast._dropout import Seed

Array = NDArray[Any]
_NO_DROPOUT, _FIRST_STREAM = 0.0, 0


class BatchNormGrads(NamedTuple):
    """Gradients of :func:`batch_norm`. An entry is None where its argument was not given."""

    dx: Array
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = _NO_DROPOUT,
    seed: Seed = None,
    offset: int = _FIRST_STREAM,
    where: NDArray[np.bool_] | None = None,
    stats: Moments | None = None,
    eps_placement: str = "var",
    out: Array | None = None,
) -> tuple[Array, BatchNormContext]:
    """Batch normalization in training mode, with what follows it in the same pass over memory.

    ``y = drop(act(gamma * (x - mean) / sqrt(var + eps) + beta + residual))`` with the mean and the
    biased variance of every channel over all axes but `axis` [1]_.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Any rank of at least 1 and any strides. Channels first and channels last are read in place.
    gamma, beta : ndarray of float32 or float64, shape (channels,), optional
        Learnt scale and shift; 1 and 0 when None.
    axis : int
        The channel axis. Every other axis is reduced.
    eps : float
        Added to the variance, finite and not negative.
    residual : ndarray like `x`, optional
        Added before the activation.
    activation : {None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu"}
        "gelu" is the form with erf.
    activation_slope : float
        Slope of "leaky_relu" for negative arguments.
    dropout : float
        Rate in [0, 1] of dropout behind the activation, with inverted scaling: what
        :func:`dropout` would do to y, from the same `seed` and `offset` (bit for bit, but in 16-bit
        types, where y is rounded once and not twice).
    seed : int, numpy.random.Generator or None
        As in :func:`dropout`; ``ctx.seed`` tells the one that was used.
    offset : int
        As in :func:`dropout`.
    where : ndarray of bool, optional
        Broadcasts to the shape of `x` with the channel axis removed or of length 1. Elements where
        it is False take no part: y and gradients are 0 whatever x, residual and dy hold there.
    stats : Moments, optional
        Statistics to normalise with in place of the batch's own, such as those of all workers.
    eps_placement : {"var", "std"}
        ``sqrt(var + eps)`` or ``sqrt(var) + eps``.
    out : ndarray like `x`, optional
        Where to write y: disjoint from every input, or exactly the memory of `x`. In that case
        backward works from y alone, so that training keeps one array a layer and not two [2]_. It
        takes an `activation` of None, "leaky_relu" with a slope > 0 or, but in 16-bit types, "elu";
        no `residual`, `dropout` or `where`; and no gamma of 0 or so small beside beta that y would
        keep less than half the digits of ``(x - mean) / std``. Where "elu" is nearly saturated
        (y near -1) its argument is known to as few digits as ``1 + y`` has.

    Returns
    -------
    y : ndarray like `x`
    ctx : BatchNormContext
        For :func:`batch_norm_backward`. It refers to `x` (or to y, where that is written over `x`),
        `where` and `residual`, which must keep their values until then, and tells ``.moments``,
        ``.mean``, ``.var`` and ``.invstd``. Copies and pickles have these arrays in them.

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes or overlap, and for bad kinds or dtypes, before anything is written.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", ICML 2015, algorithm 1.
    .. [2] S. Rota Bulo, L. Porzi and P. Kontschieder, "In-Place Activated BatchNorm for
       Memory-Optimized Training of DNNs", CVPR 2018.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> y, ctx = bnfast.batch_norm(x, eps=0.0)
    >>> y
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> ctx.mean
    array([ 2., 20.], dtype=float32)
    """
    try:
        act, placement = ACTIVATIONS[activation], EPS_PLACEMENTS[eps_placement]
    except (KeyError, TypeError):
        refuse_choice("batch_norm", activation, eps_placement)
    # Without dropout there is nothing to check: a batch norm of few elements takes 2 us in all.
    if dropout is _NO_DROPOUT and offset is _FIRST_STREAM and seed is None:
        seed = 0
    else:
        dropout = check_rate("batch_norm", "dropout", dropout)
        seed = draw_seed("batch_norm", seed)
        offset = check_offset("batch_norm", offset)
    return _core.batch_norm(
        x,
        gamma=gamma,
        beta=beta,
        axis=axis,
        eps=eps,
        residual=residual,
        activation=act,
        activation_slope=activation_slope,
        dropout=dropout,
        seed=seed,
        offset=offset,
        where=where,
        stats=stats,
        eps_placement=placement,
        out=out,
    )


def batch_norm_backward(
    dy: Array,
    ctx: BatchNormContext,
    *,
    sums: GradientSums | None = None,
    out: Array | None = None,
) -> BatchNormGrads:
    """Gradients of :func:`batch_norm` or :func:`batch_norm_frozen`.

    Parameters
    ----------
    dy : ndarray like x
        Gradient of the loss at y.
    ctx : BatchNormContext
        What the forward call returned.
    sums : GradientSums, optional
        Sums over the whole batch, where x is a part of it: dx is then that of the whole batch,
        while dgamma and dbeta stay those of this part.
    out : ndarray like x, optional
        Where to write dx: disjoint from every input, or exactly the memory of `dy`.

    Returns
    -------
    BatchNormGrads
        ``dx``, ``dgamma``, ``dbeta``, ``dresidual``; gradients flow through mean and var unless
        these were constants. dresidual is None when there was no residual, dgamma when gamma was
        None, dbeta when beta was None.

    Notes
    -----
    "relu" lets no gradient through where its argument is not above zero, whatever dy holds there
    (NaN, Inf); other derivatives are factors.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[1.0], [2.0], [6.0]], dtype=np.float32)
    >>> y, ctx = bnfast.batch_norm(x, gamma=np.ones(1), beta=np.zeros(1))
    >>> grads = bnfast.batch_norm_backward(np.ones_like(x), ctx)
    >>> grads.dbeta
    array([3.], dtype=float32)
    >>> bool(np.abs(grads.dx).max() < 1e-6)  # a constant added to x does not change y
    True
    """
    return _core.batch_norm_backward(dy, ctx, sums=sums, out=out)


def batch_norm_backward_sums(dy: Array, ctx: BatchNormContext) -> GradientSums:
    """Sums over the batch that dx depends on, to be added over the workers of a larger batch.

    Parameters
    ----------
    dy : ndarray like x
        Gradient of the loss at y.
    ctx : BatchNormContext
        What the forward call returned.

    Returns
    -------
    GradientSums
        Sums of the gradient at the affine's output and of its product with ``x - mean``, float64.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[1.0], [2.0], [6.0]], dtype=np.float32)
    >>> y, ctx = bnfast.batch_norm(x)
    >>> bnfast.batch_norm_backward_sums(np.ones_like(x), ctx).sum_dy
    array([3.])
    """
    return _core.batch_norm_backward_sums(dy, ctx)


def batch_norm_inference(
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    where: NDArray[np.bool_] | None = None,
    eps_placement: str = "var",
    out: Array | None = None,
) -> Array:
    """Batch normalization with given statistics, as at test time.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Any rank of at least 1 and any strides.
    mean, var : ndarray of float32 or float64, shape (channels,)
        Statistics to normalise with, such as running averages; var is not negative.
    gamma, beta, axis, eps, residual, activation, activation_slope, where, eps_placement
        As in :func:`batch_norm`.
    out : ndarray like `x`, optional
        Where to write y: disjoint from every input, or exactly the memory of `x`.

    Returns
    -------
    ndarray like `x`

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> mean, var = np.array([1.0, 10.0]), np.array([4.0, 100.0])
    >>> bnfast.batch_norm_inference(x, mean, var, eps=0.0)
    array([[0., 0.],
           [1., 2.]], dtype=float32)
    """
    try:
        act, placement = ACTIVATIONS[activation], EPS_PLACEMENTS[eps_placement]
    except (KeyError, TypeError):
        refuse_choice("batch_norm_inference", activation, eps_placement)
    return _core.batch_norm_inference(
        x,
        mean=mean,
        var=var,
        gamma=gamma,
        beta=beta,
        axis=axis,
        eps=eps,
        residual=residual,
        activation=act,
        activation_slope=activation_slope,
        where=where,
        eps_placement=placement,
        out=out,
    )


def batch_norm_frozen(
    x: Array,
    mean: Array,
    var: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    where: NDArray[np.bool_] | None = None,
    eps_placement: str = "var",
    out: Array | None = None,
) -> tuple[Array, BatchNormContext]:
    """Batch normalization with given statistics, which are constants to its derivative.

    The arguments are those of :func:`batch_norm_inference`, but for `out`, which may be the memory
    of `x` under the conditions of :func:`batch_norm` only: backward needs it.

    Returns
    -------
    y : ndarray like `x`
    ctx : BatchNormContext
        For :func:`batch_norm_backward`.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[1.0], [3.0]], dtype=np.float32)
    >>> y, ctx = bnfast.batch_norm_frozen(x, mean=np.array([1.0]), var=np.array([4.0]), eps=0.0)
    >>> bnfast.batch_norm_backward(np.ones_like(x), ctx).dx
    array([[0.5],
           [0.5]], dtype=float32)
    """
    try:
        act, placement = ACTIVATIONS[activation], EPS_PLACEMENTS[eps_placement]
    except (KeyError, TypeError):
        refuse_choice("batch_norm_frozen", activation, eps_placement)
    return _core.batch_norm_frozen(
        x,
        mean=mean,
        var=var,
        gamma=gamma,
        beta=beta,
        axis=axis,
        eps=eps,
        residual=residual,
        activation=act,
        activation_slope=activation_slope,
        where=where,
        eps_placement=placement,
        out=out,
    )


def moments(x: Array, *, axis: int = 1, where: NDArray[np.bool_] | None = None) -> Moments:
    """Count, mean and sum of squared deviations of every channel, to float64 accuracy.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Any rank of at least 1 and any strides.
    axis : int
        The channel axis. Every other axis is reduced.
    where : ndarray of bool, optional
        As in :func:`batch_norm`: elements where it is False are not counted.

    Returns
    -------
    Moments
        They merge: ``moments(a) + moments(b)`` are the moments of both.

    Notes
    -----
    x is read once. Blocks of a channel are summed in float64 and merged along a fixed tree [1]_, so
    that the result does not depend on threads or on the SIMD target.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm
       for Computing Sample Variances", Stanford report STAN-CS-79-773, 1979.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> m = bnfast.moments(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> m.mean, m.var()
    (array([ 2., 20.]), array([  1., 100.]))
    """
    return _core.moments(x, axis=axis, where=where)
