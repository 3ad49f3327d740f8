"""Per-channel statistics that merge: Moments and GradientSums."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from bnfast import _core
from bnfast._checks import (
    real_number,
    real_numbers,
    refuse_negative,
    whole_number,
    whole_numbers,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self

# What to_bytes begins with: magic, version of the format, kind of statistics, padding and the
# number of channels, 16 bytes in little-endian order.
_HEADER = struct.Struct("<4sBBxxQ")
_MAGIC = b"bnfs"
_FORMAT_VERSION = 1


class _ChannelStatistics(ABC):
    """What Moments and GradientSums share: counts and float64 values a channel, never changed."""

    __slots__ = ("count",)
    __array_ufunc__ = None  # ndarray + Moments is a TypeError, not an object array
    _values: ClassVar[tuple[str, ...]]  # the names of the float64 arrays
    _kind: ClassVar[int]
    count: NDArray[np.int64]

    def __init__(self, count: ArrayLike, *values: ArrayLike | None) -> None:
        name = type(self).__name__
        arrays: list[NDArray[Any]] = [whole_numbers(name, "count", count, None)]
        shape = arrays[0].shape
        for argument, value in zip(self._values, values, strict=True):
            given = np.zeros(shape) if value is None else real_numbers(name, argument, value, shape)
            with np.errstate(all="ignore"):
                arrays.append(given.astype(np.float64, order="C"))
        self._own(arrays)

    def _own(self, arrays: list[NDArray[Any]]) -> None:
        for name, array in zip(("count", *self._values), arrays, strict=True):
            array.setflags(write=False)
            object.__setattr__(self, name, array[:])  # NumPy never makes this view writeable again

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}: {name} cannot be set, make a new one")

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.count, *(getattr(self, name) for name in self._values)

    @classmethod
    def _from_core(cls, *arrays: NDArray[Any]) -> Self:
        """Take the arrays (count int64, values float64) over, without a copy or a check."""
        made = cls.__new__(cls)
        made._own(list(arrays))
        return made

    @classmethod
    def empty(cls, channels: int) -> Self:
        """Return the statistics of no data at all: the start value of `sum`.

        `channels` is their number, at least 0.
        """
        size = whole_number(f"{cls.__name__}.empty", "channels", channels, low=0)
        return cls._from_core(np.zeros(size, np.int64), *(np.zeros(size) for _ in cls._values))

    def __len__(self) -> int:
        return self.count.size

    def merge(self, other: Self) -> Self:
        """Return the statistics of both parts together; neither part is changed.

        Parameters
        ----------
        other : same type as self
            Statistics of other elements of the same channels. Where the count is 0 on one side,
            the result is the other side, bit for bit.

        Raises
        ------
        TypeError or ValueError
            If `other` is of another type or has another number of channels, or if a count would be
            beyond int64.
        """
        name = type(self).__name__
        if not isinstance(other, type(self)):
            got = type(other).__name__
            raise TypeError(f"{name}.merge: other is of type {got}, expected {name}")
        return self._merge(other)

    @abstractmethod
    def _merge(self, other: Self) -> Self:
        """Return what `merge` does, for an instance of the same class."""

    def __add__(self, other: object) -> Self:
        return self.merge(other) if isinstance(other, type(self)) else NotImplemented

    def __eq__(self, other: object) -> bool:
        # NaN equals NaN here: statistics are equal to their own copy, whatever the data was
        if type(other) is not type(self):
            return NotImplemented
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def to_bytes(self) -> bytes:
        """Return a portable form, the same on every machine: a 16-byte header, then the arrays.

        Magic, version, kind and channels; int64 counts, float64 values, all little-endian.
        """
        little = (array.astype(array.dtype.newbyteorder("<")) for array in self._arrays())
        header = _HEADER.pack(_MAGIC, _FORMAT_VERSION, self._kind, len(self))
        return header + b"".join(array.tobytes() for array in little)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Return the statistics that `to_bytes` wrote.

        Parameters
        ----------
        data : bytes, bytearray or memoryview
            What `to_bytes` of the same class returned.

        Raises
        ------
        TypeError or ValueError
            If `data` is not bytes; if it is cut short, too long, of another class or version.
        """
        operation = f"{cls.__name__}.from_bytes"
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"{operation}: data is of type {type(data).__name__}, expected bytes")
        data = bytes(data)
        if len(data) < _HEADER.size:
            raise ValueError(f"{operation}: data has {len(data)} bytes, expected a header of 16")
        magic, version, kind, channels = _HEADER.unpack_from(data)
        wanted = {"magic": _MAGIC, "version": _FORMAT_VERSION, "kind": cls._kind}
        for (field, wants), got in zip(wanted.items(), (magic, version, kind), strict=True):
            if got != wants:
                raise ValueError(f"{operation}: data has {field} {got!r}, expected {wants!r}")
        size = _HEADER.size + 8 * channels * (1 + len(cls._values))
        if len(data) != size:
            expected = f"{size} for {channels} channels"
            raise ValueError(f"{operation}: data has {len(data)} bytes, expected {expected}")
        body = np.frombuffer(data[_HEADER.size :], "<i8")
        rows = body.reshape(1 + len(cls._values), channels)
        values = (row.view("<f8").astype(np.float64) for row in rows[1:])
        return cls(rows[0].astype(np.int64), *values)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        shown = (np.array2string(a, separator=", ", threshold=8) for a in self._arrays())
        fields = zip(("count", *self._values), shown, strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in fields)})"


class Moments(_ChannelStatistics):
    """Count, mean and sum of squared deviations of every channel; parts merge into the whole.

    Parameters
    ----------
    count : array_like of int, shape (channels,)
        Elements that took part, a channel.
    mean : array_like of float, shape (channels,)
        Their mean, rounded to float64.
    m2 : array_like of float, shape (channels,)
        The sum of (x - mean)**2, not negative.
    mean_low : array_like of float, shape (channels,), optional
        What rounding took from the mean: the mean is mean + mean_low, about twice float64's
        precision. It matters where float64 data have a mean far above their deviation. Zeros when
        not given.

    Raises
    ------
    TypeError
        If a dtype is not an integer one (count), or float32 or float64 (the rest).
    ValueError
        If the arrays are not 1-D and of one length, or an entry of count or m2 is negative.

    Notes
    -----
    The arguments are copied into attributes of the same names, int64 and float64, read-only.
    `a + b` is `a.merge(b)`: equation 2.1 of Chan, Golub & LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances" (1979), with the means as pairs of float64.
    Merged parts equal the whole to float64 rounding. `==` compares every array exactly.

    Examples
    --------
    >>> from bnfast import Moments
    >>> a = Moments([2], [1.5], [0.5])  # of 1, 2
    >>> b = Moments([3], [4.0], [2.0])  # of 3, 4, 5
    >>> a + b
    Moments(count=[5], mean=[3.], m2=[10.], mean_low=[0.])
    >>> sum([a, b], start=Moments.empty(1)).var(correction=1)
    array([2.5])
    """

    __slots__ = _values = ("mean", "m2", "mean_low")
    _kind = 1
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    mean_low: NDArray[np.float64]

    def __init__(
        self,
        count: ArrayLike,
        mean: ArrayLike,
        m2: ArrayLike,
        mean_low: ArrayLike | None = None,
    ) -> None:
        super().__init__(count, mean, m2, mean_low)
        refuse_negative("Moments", "m2", self.m2)

    def var(self, correction: float = 0) -> NDArray[np.float64]:
        """Return the variance, m2 / (count - correction).

        Parameters
        ----------
        correction : float, default 0
            0 gives the biased variance, 1 the unbiased one (Bessel).

        Returns
        -------
        ndarray of float64, shape (channels,)
            NaN where count does not exceed the correction.
        """
        lost = real_number("Moments.var", "correction", correction, low=0)
        freedom = self.count - lost
        variance = np.full(len(self), np.nan)
        with np.errstate(all="ignore"):
            np.divide(self.m2, freedom, out=variance, where=freedom > 0)
        return variance

    def std(self, correction: float = 0) -> NDArray[np.float64]:
        """Return the square root of `var(correction)`, float64 of shape (channels,)."""
        deviation: NDArray[np.float64] = np.sqrt(self.var(correction))
        return deviation

    def _merge(self, other: Self) -> Self:
        return _core.merge_moments(self, other)


class GradientSums(_ChannelStatistics):
    """The two sums over a channel that backward needs; parts add up to the whole (sync) batch.

    Parameters
    ----------
    count : array_like of int, shape (channels,)
        Elements that took part, a channel.
    sum_dy : array_like of float, shape (channels,)
        The sum of dy (after the activation's derivative), which is also dbeta.
    sum_dy_xmu : array_like of float, shape (channels,)
        The sum of dy * (x - mean), with the mean that the forward normalised by.

    Raises
    ------
    TypeError or ValueError
        As for `Moments`, but that the sums may be negative.

    Notes
    -----
    The arguments are copied into attributes of the same names, int64 and float64, read-only.
    The parts must have been normalised by the same mean (`stats=` of the forward), as the sums are
    about it. They are the sums in section 3 of Ioffe & Szegedy, "Batch Normalization" (2015).

    Examples
    --------
    >>> from bnfast import GradientSums
    >>> GradientSums([2], [0.5], [1.0]) + GradientSums([3], [1.5], [-3.0])
    GradientSums(count=[5], sum_dy=[2.], sum_dy_xmu=[-2.])
    """

    __slots__ = _values = ("sum_dy", "sum_dy_xmu")
    _kind = 2
    sum_dy: NDArray[np.float64]
    sum_dy_xmu: NDArray[np.float64]

    def __init__(self, count: ArrayLike, sum_dy: ArrayLike, sum_dy_xmu: ArrayLike) -> None:
        super().__init__(count, sum_dy, sum_dy_xmu)

    def _merge(self, other: Self) -> Self:
        return _core.merge_gradient_sums(self, other)
