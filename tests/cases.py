"""Arrays of every dtype and kind of view to test with, and how far results may be off."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import reference
from hypothesis import strategies as st

import bnfast

Wide = reference.Wide
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]
ACTIVATIONS = [None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu"]
SMOOTH = [None, "sigmoid", "tanh", "silu", "gelu", "elu"]
# The SIMD builds to test: all that this machine can run, or the one chosen from outside.
TARGETS = [bnfast.active_target()] if "BNFAST_TARGET" in os.environ else list(bnfast.targets())
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


def assert_same_bits(got: Iterable[Any], want: Iterable[Any]) -> None:
    """Arrays of two calls, or None, are alike in dtype, shape and every bit."""
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.tobytes() == b.tobytes(), f"{np.sum(a != b)} of {a.size} differ"


def numbers(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Normal numbers, of mean 1 and deviation 2."""
    return np.asarray(np.random.default_rng(seed).normal(1, 2, shape)).astype(dtype)


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


# --- calls against the textbook -------------------------------------------------------------------


def check_forward(case: Case, out: np.ndarray | None = None) -> None:
    """Compare y and the statistics with the textbook's."""
    before = case.x.tobytes()
    y, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, out=out, **case.options)
    want, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
    assert y.dtype == case.x.dtype and y.shape == case.x.shape
    assert out is None or y is out
    assert_near(y, want, np.abs(want) + 1.2 * spread(z_size(case, ref), case.x, case.axis))
    assert case.x.tobytes() == before

    count, mean, var = reference.moments(case.x, axis=case.axis, where=case.options.get("where"))
    assert (ctx.moments.count == count).all()
    for got in (ctx.mean, ctx.var, ctx.invstd):
        assert got.dtype == channel_dtype(case.x.dtype)
    if count == 0:
        assert not ctx.moments.mean.any() and not ctx.moments.m2.any()
        return
    largest = np.abs(mean) + np.sqrt(var)
    # 16-bit x: mean within 2**-20 of std, var within 2**-16.
    of_mean, of_var = (2.0**33, 2.0**37) if case.x.dtype.itemsize == 2 else (16, 1e4)
    assert_near(ctx.moments.mean, mean, largest, units=of_mean)
    assert_near(ctx.moments.var(), var, var, units=of_var)
    assert_near(ctx.mean, mean, largest)
    assert_near(ctx.var, ctx.moments.var(), var, units=1e4 if case.x.dtype == np.float64 else 2)
    assert_near(ctx.invstd, ref.invstd[:, 0], ref.invstd[:, 0], units=1e4)


def check_gradients(case: Case, grads: bnfast.BatchNormGrads, ctx, frozen=False) -> None:
    """Compare gradients with the textbook's; `ctx` is the reference's."""
    dx, dgamma, dbeta, dresidual = reference.batch_norm_backward(case.dy, ctx, frozen=frozen)
    dtype = case.x.dtype
    assert grads.dx.dtype == dtype and grads.dx.shape == case.x.shape
    # Errors of dz: a few roundings, and those of z times the second derivative (at most 1).
    dy = np.where(ctx.kept, reference.channels_first(case.dy, case.axis), 0)
    dz = np.abs(dy) * (1.2 + z_size(case, ctx))
    normalised = np.abs(ctx.centred * ctx.invstd)
    most = functools.partial(np.max, axis=1, keepdims=True, initial=0)
    scale = np.abs(ctx.gamma * ctx.invstd) * most(dz) * (2 + most(normalised)) + 0 * dz
    if frozen:
        scale = np.abs(ctx.gamma * ctx.invstd) * dz
    assert_near(grads.dx, dx, spread(scale, case.x, case.axis), units=24)
    for got, want, parameter, terms in (
        (grads.dgamma, dgamma, case.gamma, dz * normalised),
        (grads.dbeta, dbeta, case.beta, dz),
    ):
        if parameter is None:
            assert got is None
        else:
            assert got.dtype == channel_dtype(dtype)
            assert_near(got, want, terms.sum(1), units=24)
    if "residual" not in case.options:
        assert grads.dresidual is None
    else:
        assert grads.dresidual.dtype == dtype
        assert_near(grads.dresidual, dresidual, spread(dz, case.x, case.axis), units=24)
    masked = spread(np.broadcast_to(~ctx.kept, dz.shape), case.x, case.axis)
    assert not grads.dx[masked].any()


# --- bits of all results --------------------------------------------------------------------------


def every_result(case: Case, stats: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """All results of all functions for one input, by name; `stats` are mean and var to be given."""
    x, options, axis = case.x, case.options, case.axis
    y, ctx = bnfast.batch_norm(x, case.gamma, case.beta, **options)
    sums = bnfast.batch_norm_backward_sums(case.dy, ctx)
    measured = bnfast.moments(x, axis=axis, where=options.get("where"))
    assert measured == ctx.moments
    again, _ = bnfast.batch_norm(x, case.gamma, case.beta, stats=measured, **options)
    assert bits(again) == bits(y)
    results = {"y": y, "mean": ctx.mean, "var": ctx.var, "invstd": ctx.invstd}
    results |= bnfast.batch_norm_backward(case.dy, ctx)._asdict()
    results |= {f"moments {k}": a for k, a in enumerate(measured._arrays())}
    results |= {f"sums {k}": a for k, a in enumerate(sums._arrays())}

    fixed = {k: v for k, v in options.items() if k not in ("dropout", "seed")}
    if stats is None:
        stats = np.linspace(0.5, 2, 2 * x.shape[axis]).reshape(2, -1)
    results["inference"] = bnfast.batch_norm_inference(x, *stats, case.gamma, case.beta, **fixed)
    results["frozen"], ctx = bnfast.batch_norm_frozen(x, *stats, case.gamma, case.beta, **fixed)
    of_frozen = bnfast.batch_norm_backward(case.dy, ctx)._asdict()
    results |= {f"frozen {name}": a for name, a in of_frozen.items()}

    results["dropped"], dropped = bnfast.dropout(x, 0.4, seed=1)
    results["dropped dx"] = bnfast.dropout_backward(case.dy, dropped)
    return {name: a for name, a in results.items() if a is not None}


def bits(a: np.ndarray) -> bytes:
    """Bytes in logical order; NaN is NaN, its sign and payload are not promised."""
    nan = np.isnan(a)
    return (np.where(nan, np.array(np.nan, a.dtype), a) if nan.any() else a).tobytes()


def bits_of_every_result(case: Case) -> dict[str, bytes]:
    return {name: bits(a) for name, a in every_result(case).items()}


def assert_equal_bits(got: dict[str, bytes], want: dict[str, bytes]) -> None:
    assert [name for name in want if got[name] != want[name]] == []


@contextmanager
def random_schedule(seed: int) -> Iterator[None]:
    """The library's decisions on how to cut and share out work are drawn at random."""
    bnfast._core.randomise_schedule(seed)
    try:
        yield
    finally:
        bnfast._core.randomise_schedule(None)
