"""Bernoulli dropout without state: the mask is a function of a seed, never stored."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnfast import _core
from bnfast._checks import one_of, real_number, whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Seed = int | np.integer[Any] | np.random.Generator | None

MODES = ("inverted", "classic", "alpha")
# How many dimensions an array of this NumPy may have.
_MOST_DIMENSIONS = 64 if int(np.__version__.split(".")[0]) >= 2 else 32
_MODE_NUMBERS = {mode: number for number, mode in enumerate(MODES)}  # as the core knows them


class DropoutContext(NamedTuple):
    """What :func:`dropout_backward` needs, which is all that it takes to make the mask again.

    A named tuple.

    Attributes
    ----------
    shape : tuple of int
        Of x.
    rate : float
        The probability that an element was dropped.
    seed, offset : int
        What the mask was made from; `seed` is a number, even where a Generator was given.
    mode : {"inverted", "classic", "alpha"}
    broadcast_axes : tuple of int

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> y, ctx = bnfast.dropout(np.ones((2, 3)), 0.25, seed=7)
    >>> ctx
    DropoutContext(shape=(2, 3), rate=0.25, seed=7, offset=0, mode='inverted', broadcast_axes=())
    """

    shape: tuple[int, ...]
    rate: float
    seed: int
    offset: int
    mode: str
    broadcast_axes: tuple[int, ...]


def check_rate(operation: str, argument: str, rate: Any) -> float:
    """Return a probability as a float in [0, 1]."""
    if type(rate) is float and 0 <= rate <= 1:
        return rate  # the usual case without a further call: small dropouts take 2 us in all
    return real_number(operation, argument, rate, low=0, high=1)


def _whole_below(operation: str, argument: str, value: Any, bits: int) -> int:
    if type(value) is int and value >> bits == 0:  # a negative number gives -1 or less
        return value
    number = whole_number(operation, argument, value, low=0)
    if number >> bits:
        raise ValueError(f"{operation}: {argument} is {number}, expected less than 2**{bits}")
    return number


def check_offset(operation: str, offset: Any) -> int:
    """Return the number of a stream as an int in [0, 2**63)."""
    return _whole_below(operation, "offset", offset, 63)


def check_axes(operation: str, axes: Any) -> tuple[int, ...]:
    """Return axes as a tuple of ints that a C int holds; the core knows which of them x has."""
    if type(axes) is tuple and not axes:
        return ()
    lowest = -(2**31)
    try:
        axes = tuple(axes)
        numbers = tuple(
            whole_number(operation, "broadcast_axes", axis, low=-(2**63)) for axis in axes
        )
    except TypeError:
        got = f"{operation}: broadcast_axes is {axes!r}"
        raise TypeError(f"{got}, expected a tuple of int") from None
    if any(not lowest <= number < -lowest for number in numbers):
        raise ValueError(f"{operation}: broadcast_axes is {numbers}, expected axes of x")
    return numbers


def check_shape_of_gradient(operation: str, dy: Any, shape: tuple[int, ...]) -> None:
    """Raise unless dy, where it is an array, has x's shape; the core says what else it may be."""
    if hasattr(dy, "__dlpack__") and dy.shape != shape:
        raise ValueError(f"{operation}: dy has shape {dy.shape}, expected {shape} as x")


def random_source(operation: str, rng: Any) -> int | np.random.Generator | None:
    """Return `rng` if it is None, an int in [0, 2**64) or a Generator; else raise."""
    if rng is None or isinstance(rng, np.random.Generator):
        return rng
    return _seed_number(operation, "rng", rng)


def _seed_number(operation: str, argument: str, value: Any) -> int:
    if not hasattr(value, "__index__") or isinstance(value, (bool, np.bool_)):
        got = f"{argument} is of type {type(value).__name__}"
        expected = "None, an int in [0, 2**64) or a numpy.random.Generator"
        raise TypeError(f"{operation}: {got}, expected {expected}")
    return _whole_below(operation, argument, value, 64)


def draw_seed(operation: str, seed: Any) -> int:
    """Return a seed as an int in [0, 2**64).

    Parameters
    ----------
    operation : str
        What error messages begin with.
    seed : int, numpy.random.Generator or None
        A number is itself. 64 bits are drawn from a Generator, for None from the operating system.

    Returns
    -------
    int

    Examples
    --------
    >>> import numpy as np
    >>> from bnfast._dropout import draw_seed
    >>> draw_seed("dropout", 2**64 - 1)
    18446744073709551615
    >>> draw_seed("dropout", np.random.default_rng(0))
    11749869230777074271
    """
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True))
    return _seed_number(operation, "seed", seed)


def dropout(
    x: NDArray[Any],
    rate: float = 0.5,
    *,
    seed: Seed = None,
    offset: int = 0,
    mode: str = "inverted",
    broadcast_axes: Iterable[int] = (),
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], DropoutContext]:
    """Drop elements of x at random, as in training.

    Each element is dropped with probability `rate`, independently of the others [1]_.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Any shape and any strides. To drop connections in place of units [2]_, pass the weights.
    rate : float
        The probability that an element is dropped, in [0, 1]. 0 copies x, 1 gives zeros.
    seed : int in [0, 2**64), numpy.random.Generator or None
        What the mask is made from. 64 bits are drawn from a Generator; None draws them from the
        operating system. ``ctx.seed`` tells the number.
    offset : int in [0, 2**63)
        Names an independent stream of the same seed, such as the number of a training step. It is
        not a position.
    mode : {"inverted", "classic", "alpha"}
        With `keep` = 1 - `rate` and P the mask: "inverted" is ``x * P / keep``, "classic"
        is ``x * P``, and "alpha" is ``a * (x where kept, else alpha) + b``, which leaves mean 0 and
        variance 1 as they are and is meant for self-normalising networks [3]_.
    broadcast_axes : iterable of int
        Along these axes all elements share one decision: ``(2, 3)`` for x of shape (N, C, H, W)
        drops whole channels.
    out : ndarray like `x`, optional
        Where to write y: disjoint from x, or exactly the memory of x.

    Returns
    -------
    y : ndarray like `x`
        A dropped element is 0 (in mode "alpha" a constant) whatever x held there, NaN and Inf too.
    ctx : DropoutContext
        For :func:`dropout_backward`. It holds no array: the mask is computed anew.

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes or overlap, and for bad kinds or dtypes, before anything is written.

    Notes
    -----
    The mask depends on the shape, `rate`, the seed, `offset` and `broadcast_axes` only: not on
    dtype, strides, threads or machine. It comes from the generator Philox4x32-10 [4]_;
    docs/dropout.md tells how, for another implementation to make the same one. In mode "alpha",
    alpha = -1.7580993408473766, ``a = (keep + alpha**2 * keep * rate)**-0.5`` and
    ``b = -a * rate * alpha``.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: A
       Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.
    .. [2] L. Wan, M. Zeiler, S. Zhang, Y. LeCun and R. Fergus, "Regularization of Neural Networks
       using DropConnect", ICML 2013.
    .. [3] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-Normalizing Neural
       Networks", NIPS 2017.
    .. [4] J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel Random Numbers: As Easy
       as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.arange(1, 9, dtype=np.float32)
    >>> y, ctx = bnfast.dropout(x, 0.5, seed=1)
    >>> y
    array([ 2.,  4.,  0.,  0., 10.,  0., 14.,  0.], dtype=float32)
    >>> bnfast.dropout_backward(np.ones_like(x), ctx)
    array([2., 2., 0., 0., 2., 0., 2., 0.], dtype=float32)
    """
    name = "dropout"
    rate = check_rate(name, "rate", rate)
    if type(mode) is not str or mode not in _MODE_NUMBERS:
        mode = one_of(name, "mode", mode, MODES)
    offset = check_offset(name, offset)
    axes = check_axes(name, broadcast_axes)
    number = draw_seed(name, seed)
    y = _core.dropout(
        x,
        rate=rate,
        seed=number,
        offset=offset,
        mode=_MODE_NUMBERS[mode],
        broadcast_axes=axes,
        out=out,
    )
    return y, DropoutContext(x.shape, rate, number, offset, mode, axes)


def dropout_backward(
    dy: NDArray[Any], ctx: DropoutContext, *, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Gradient of :func:`dropout`: dy where x was kept, scaled as x was, and 0 elsewhere.

    Parameters
    ----------
    dy : ndarray of x's shape
        Gradient of the loss at y.
    ctx : DropoutContext
        What the forward call returned.
    out : ndarray like `dy`, optional
        Where to write dx: disjoint from dy, or exactly the memory of dy.

    Returns
    -------
    ndarray like `dy`

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> y, ctx = bnfast.dropout(np.ones(6), 0.5, seed=1, mode="classic")
    >>> bnfast.dropout_backward(np.arange(6.0), ctx)
    array([0., 1., 0., 0., 4., 0.])
    """
    name = "dropout_backward"
    if not isinstance(ctx, DropoutContext):
        raise TypeError(f"{name}: ctx has type {type(ctx).__name__}, expected DropoutContext")
    check_shape_of_gradient(name, dy, ctx.shape)
    return _core.dropout_backward(
        dy,
        rate=ctx.rate,
        seed=ctx.seed,
        offset=ctx.offset,
        mode=_MODE_NUMBERS[ctx.mode],
        broadcast_axes=ctx.broadcast_axes,
        out=out,
    )


def dropout_inference(
    x: NDArray[Any],
    rate: float = 0.5,
    *,
    mode: str = "classic",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """What takes the place of :func:`dropout` at test time: its expectation.

    Parameters
    ----------
    x : ndarray of float32, float64, float16 or bfloat16
        Any shape and any strides.
    rate : float
        The rate that was used in training.
    mode : {"classic", "inverted", "alpha"}
        The mode that was used in training. "classic" gives ``x * (1 - rate)``; the others have
        scaled already, and give a copy of x.
    out : ndarray like `x`, optional
        Where to write y: disjoint from x, or exactly the memory of x.

    Returns
    -------
    ndarray like `x`

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> bnfast.dropout_inference(np.array([4.0, -8.0]), 0.25)
    array([ 3., -6.])
    """
    name = "dropout_inference"
    rate = check_rate(name, "rate", rate)
    mode = one_of(name, "mode", mode, MODES)
    return _core.dropout_inference(x, rate=rate, mode=_MODE_NUMBERS[mode], out=out)


def dropout_inference_backward(
    dy: NDArray[Any], shape: tuple[int, ...], rate: float, mode: str
) -> NDArray[Any]:
    """Return the gradient of :func:`dropout_inference`, whose x had this shape."""
    check_shape_of_gradient("dropout_inference_backward", dy, shape)
    return _core.dropout_inference_backward(dy, rate=rate, mode=_MODE_NUMBERS[mode])


def dropout_mask(
    shape: tuple[int, ...],
    rate: float,
    *,
    seed: Seed,
    offset: int = 0,
    broadcast_axes: Iterable[int] = (),
) -> NDArray[np.bool_]:
    """Return the mask that :func:`dropout` applies to x of a shape.

    Parameters
    ----------
    shape : tuple of int
        Shape of x.
    rate, seed, offset, broadcast_axes
        As in :func:`dropout`.

    Returns
    -------
    ndarray of bool
        True where an element is kept.

    Examples
    --------
    >>> import bnfast
    >>> bnfast.dropout_mask((2, 4), 0.5, seed=1)
    array([[ True,  True, False, False],
           [ True, False,  True, False]])
    """
    name = "dropout_mask"
    rate = check_rate(name, "rate", rate)
    offset = check_offset(name, offset)
    axes = check_axes(name, broadcast_axes)
    number = draw_seed(name, seed)
    return _core.dropout_mask(
        _check_shape(name, shape), rate=rate, seed=number, offset=offset, broadcast_axes=axes
    )


def _check_shape(operation: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)):
        got = type(shape).__name__
        raise TypeError(f"{operation}: shape is of type {got}, expected a tuple of int")
    lengths = tuple(_whole_below(operation, "shape", length, 63) for length in shape)
    if len(lengths) > _MOST_DIMENSIONS:
        got = f"shape has {len(lengths)} dimensions"
        raise ValueError(f"{operation}: {got}, expected at most {_MOST_DIMENSIONS}")
    if math.prod(filter(None, lengths)) >> 63:
        raise ValueError(f"{operation}: shape is {lengths}, expected less than 2**63 elements")
    return lengths
