"""Arrays to test with: every dtype, every kind of view; and how far a result may be off."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

Wide = np.longdouble
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
ACTIVATIONS = [None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu"]
SMOOTH = [None, "sigmoid", "tanh", "silu", "gelu", "elu"]
VIEWS = ["C", "F", "channels_last", "strided", "negative", "broadcast", "unaligned"]


def channel_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of per-channel results for x of this dtype."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def as_view(a: np.ndarray, kind: str) -> np.ndarray:
    """The same values in other memory ("broadcast": the first entry along the last axis only)."""
    if kind == "F":
        return np.asfortranarray(a)
    if kind == "channels_last":
        return np.moveaxis(
            np.ascontiguousarray(np.moveaxis(a, min(1, a.ndim - 1), -1)), -1, min(1, a.ndim - 1)
        )
    if kind == "strided":
        big = np.full([3 * n for n in a.shape], 77, a.dtype)
        big[tuple(slice(1, None, 3) for _ in a.shape)] = a
        return big[tuple(slice(1, None, 3) for _ in a.shape)]
    if kind == "negative":
        back = tuple(slice(None, None, -1) for _ in a.shape)
        return np.ascontiguousarray(a[back])[back]
    if kind == "broadcast":
        return np.broadcast_to(a[..., :1], a.shape)
    if kind == "unaligned":
        raw = np.empty(a.nbytes + 1, np.uint8)[1:]
        view = raw.view(a.dtype).reshape(a.shape)
        view[...] = a
        return view
    assert kind == "C"
    return np.ascontiguousarray(a)


def unit_roundoff(dtype: np.dtype) -> float:
    """Of the arithmetic: 16-bit elements are computed with as float32."""
    return 2.0**-53 if dtype == np.float64 else 2.0**-24


def assert_near(got: np.ndarray, want: Any, scale: Any, units: float = 16) -> None:
    """Within `units` roundings of values as large as `scale`, and half an ulp of a 16-bit dtype."""
    want = np.asarray(want, Wide)
    tolerance = units * unit_roundoff(got.dtype) * np.asarray(scale, Wide) + Wide(1e-44)
    if got.dtype.itemsize == 2:
        info = ml_dtypes.finfo(got.dtype)
        tolerance = tolerance + np.abs(want) * Wide(info.eps) / 2 + Wide(info.smallest_subnormal)
    off = np.abs(got.astype(Wide) - want)
    bad = ~(off <= tolerance)  # NaN is bad
    most = Wide(ml_dtypes.finfo(got.dtype).max)
    bad &= ~(
        (got == np.copysign(np.inf, want).astype(got.dtype)) & (np.abs(want) + tolerance > most)
    )
    assert got.shape == want.shape
    if bad.any():
        at = tuple(int(i[0]) for i in np.nonzero(bad))
        allowed = np.broadcast_to(tolerance, off.shape)[at]
        raise AssertionError(
            f"{bad.sum()} of {bad.size} are off: at {at} got {got[at]}, want {want[at]}, "
            f"difference {off[at]}, allowed {allowed}"
        )


def per_channel(values: Any, ndim: int, axis: int) -> np.ndarray:
    """Values a channel, shaped to broadcast over x."""
    shape = [1] * ndim
    shape[axis] = -1
    return np.asarray(values).reshape(shape)


def spread(flat: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """(channels, elements) back in the shape of x."""
    moved = np.moveaxis(np.empty(x.shape, bool), axis, 0).shape
    return np.moveaxis(flat.reshape(moved), 0, axis)


@dataclass
class Case:
    """One call: what goes in, and the gradient at y."""

    x: np.ndarray
    dy: np.ndarray
    gamma: np.ndarray | None
    beta: np.ndarray | None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def axis(self) -> int:
        return self.options["axis"]


@st.composite
def shapes(draw: st.DrawFn, most: int = 1500) -> tuple[int, ...]:
    """Shapes of rank 1 to 5 with odd lengths, ones, and now and then a longer axis."""
    rank = draw(st.integers(1, 5))
    longest = {1: 200, 2: 70, 3: 40, 4: 9, 5: 6}[rank]
    shape = draw(st.lists(st.integers(1, longest), min_size=rank, max_size=rank))
    while math.prod(shape) > most:
        shape[shape.index(max(shape))] //= 2
    return tuple(shape)


@st.composite
def cases(draw: st.DrawFn, dtypes: list[np.dtype] = DTYPES, masked: bool = True) -> Case:
    shape = draw(shapes())
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    dtype = draw(st.sampled_from(dtypes))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = shape[axis]

    def tensor(view: str, kept: np.ndarray | None, poison: float) -> np.ndarray:
        values = generator.normal(1.0, 2.0, shape)
        if kept is not None and view != "broadcast":
            values = np.where(kept, values, poison)
        return as_view(values.astype(dtype), view)

    kept, options = None, {"axis": axis}
    if masked and draw(st.booleans()):
        mask_shape = list(shape)
        mask_shape[axis] = 1
        for d in range(len(shape)):
            if draw(st.integers(0, 4)) == 0:
                mask_shape[d] = 1  # broadcast along this axis
        kept = generator.random(mask_shape) < draw(st.sampled_from([0.05, 0.5, 0.9, 1.0]))
        where = np.squeeze(kept, axis) if draw(st.booleans()) else kept
        options["where"] = (
            as_view(where, draw(st.sampled_from(["C", "F"]))) if where.ndim else where
        )
    poisons = st.sampled_from([math.nan, math.inf, -math.inf])
    views = st.sampled_from(VIEWS)
    x = tensor(draw(views), kept, draw(poisons))
    dy = tensor(draw(views), kept, draw(poisons))
    if draw(st.booleans()):
        options["residual"] = tensor(draw(views), kept, draw(poisons))
    options["activation"] = draw(st.sampled_from(ACTIVATIONS))
    if options["activation"] == "leaky_relu":
        options["activation_slope"] = draw(st.sampled_from([0.01, 0.25, -0.5, 0.0]))
    options["eps"] = draw(st.sampled_from([1e-5, 1e-3, 0.1]))
    options["eps_placement"] = draw(st.sampled_from(["var", "std"]))
    parameters = []
    for low in (0.5, -1.0):
        own = draw(st.sampled_from([np.float32, np.float64, None]))
        values = generator.uniform(low, 1.5, 2 * channels)[::2]  # strided, too
        parameters.append(None if own is None else values.astype(np.float32).astype(own))
    return Case(x, dy, *parameters, options)


def z_size(case: Case, ctx: Any) -> np.ndarray:
    """How large the terms of z are, of which it has a few roundings; (channels, elements).

    The mean of float64 data is known to the roundings of a float64 sum about a pivot that may be
    several standard deviations off, that of narrower data far beyond theirs.
    """
    terms = np.abs(ctx.gamma * ctx.centred * ctx.invstd) + np.abs(ctx.beta) + ctx.added
    of_mean = np.abs(ctx.gamma * ctx.invstd) * (np.abs(ctx.mean) + np.sqrt(ctx.var))
    return terms + (4 * of_mean if case.x.dtype == np.float64 else 0)


def away_from_kinks(case: Case, ctx: Any) -> bool:
    """Whether rounding cannot move an argument of relu across 0, where the derivative jumps."""
    if case.options["activation"] not in ("relu", "leaky_relu"):
        return True
    size = z_size(case, ctx)
    safe = np.abs(ctx.z) > 64 * unit_roundoff(case.x.dtype) * size
    return bool(np.all(safe | ((ctx.z == 0) & (ctx.centred == 0))))
