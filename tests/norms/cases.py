"""Calls of the four norms to test with, and the comparison of their results with the textbook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import ACTIVATIONS, DTYPES, VIEWS, as_view, assert_near, bits, channel_dtype, shapes
from cases import unit_roundoff as roundoff
from hypothesis import strategies as st

import bnfast
from norms import reference

BEFORE = list(reference.BEFORE)
BEHIND = ["group_norm", "instance_norm"]
NAMES = BEFORE + BEHIND
EPS = {"layer_norm": 1e-5, "rms_norm": 1e-6, "group_norm": 1e-5, "instance_norm": 1e-5}

# Roundings of the arithmetic that float32 and float64 results may be off by, and what the contract
# adds for 16-bit types, in units of float32's 2**-24: their variance is right within 2**-16 (256
# units), so invstd within 128, and their mean within 2**-20 (16 units) of the standard deviation.
UNITS, UNITS_16_BIT, UNITS_16_BIT_VAR = 16, 16 + 128 + 16, 2 + 256


def units_of(dtype: np.dtype) -> int:
    return UNITS if dtype.itemsize > 2 else UNITS_16_BIT


@dataclass
class NormCase:
    """One call of a norm, and the gradients at y and, of layer and RMS norm, at h."""

    name: str
    x: np.ndarray
    dy: np.ndarray
    gamma: np.ndarray | None
    beta: np.ndarray | None
    options: dict[str, Any]
    dh: np.ndarray | None = None

    def forward(self, **more: Any) -> tuple[np.ndarray, bnfast.NormContext]:
        options = {"gamma": self.gamma, **self.options, **more}
        if self.name != "rms_norm":
            options["beta"] = self.beta
        return getattr(bnfast, self.name)(self.x, **options)

    def backward(self, ctx: bnfast.NormContext, **more: Any) -> bnfast.NormGrads:
        return bnfast.norm_backward(self.dy, ctx, dh=self.dh, **more)

    def textbook(self, h: np.ndarray | None = None) -> tuple[np.ndarray, Any]:
        options = {"eps": EPS[self.name], **self.options}
        return reference.forward(self.name, self.x, self.gamma, self.beta, h=h, **options)

    @property
    def has_prologue(self) -> bool:
        """Whether h is anything but x."""
        return "residual" in self.options or self.options.get("dropout", 0) > 0


def case_of(name: str, shape: tuple[int, ...], dtype: Any = np.float32, *, axis: Any = None,
            draw: int = 0, **options: Any) -> NormCase:  # fmt: skip
    """A case in C order, the `draw`-th of its kind: with gamma, beta and, where it may be, dh."""
    options["axis"] = axis if axis is not None else (-1 if name in BEFORE else 1)
    if name == "group_norm":
        options.setdefault("num_groups", 2)
    parts = reference.Parts(name, shape, axis=options["axis"], num_groups=options.get("num_groups"))
    generator = np.random.default_rng(draw)
    x, dy, dh = (generator.normal(1, 2, shape).astype(dtype) for _ in range(3))
    gamma, beta = generator.uniform(0.5, 2, (2, *parts.parameter_shape)).astype(np.float32)
    return NormCase(name, x, dy, gamma, None if name == "rms_norm" else beta, options,
                    dh if name in BEFORE else None)  # fmt: skip


@st.composite
def axes_of(draw: st.DrawFn, rank: int) -> int | tuple[int, ...]:
    """The last axes, however they may be written."""
    count = draw(st.integers(1, rank))
    first = draw(st.sampled_from([-count, rank - count]))
    axes = tuple(range(first, first + count))
    return axes[0] if count == 1 and draw(st.booleans()) else axes


@st.composite
def norm_cases(draw: st.DrawFn) -> NormCase:
    name = draw(st.sampled_from(NAMES))
    shape = draw(shapes())
    options: dict[str, Any] = {}
    if name in BEFORE:
        options["axis"] = draw(axes_of(len(shape)))
    else:
        if len(shape) == 1:
            shape = (draw(st.integers(1, 4)), *shape)
        channel = draw(st.integers(1, len(shape) - 1))
        options["axis"] = draw(st.sampled_from([channel, channel - len(shape)]))
        if name == "group_norm":
            channels = shape[channel]
            divisors = [n for n in range(1, channels + 1) if channels % n == 0]
            options["num_groups"] = draw(st.sampled_from(divisors))
    parts = reference.Parts(name, shape, axis=options["axis"], num_groups=options.get("num_groups"))
    dtype = draw(st.sampled_from(DTYPES))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def tensor() -> np.ndarray:
        return as_view(
            generator.normal(1.0, 2.0, shape).astype(dtype), draw(st.sampled_from(VIEWS))
        )

    parameters = []
    for low in (0.5, -1.0):
        own = draw(st.sampled_from([np.float32, np.float64, None]))
        values = generator.uniform(low, 1.5, [2 * n for n in parts.parameter_shape])
        values = values[tuple(slice(None, None, 2) for _ in parts.parameter_shape)]  # strided, too
        parameters.append(None if own is None else values.astype(np.float32).astype(own))
    if draw(st.booleans()):
        options["residual"] = tensor()
    if draw(st.booleans()):
        options["dropout"] = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
        options |= {
            "seed": draw(st.integers(0, 2**64 - 1)),
            "offset": draw(st.sampled_from([0, 5])),
        }
    options["activation"] = draw(st.sampled_from(ACTIVATIONS))
    if options["activation"] == "leaky_relu":
        options["activation_slope"] = draw(st.sampled_from([0.01, 0.25, -0.5, 0.0]))
    if draw(st.booleans()):
        options["eps"] = draw(st.sampled_from([0.0, 1e-3, 0.1]))
    dh = tensor() if name in BEFORE and draw(st.booleans()) else None
    gamma, beta = parameters
    return NormCase(
        name, tensor(), tensor(), gamma, None if name == "rms_norm" else beta, options, dh
    )


# --- against the textbook -------------------------------------------------------------------------


def normalised_size(case: NormCase, ref: Any) -> np.ndarray:
    """How large the terms of (h - mean) * invstd are, of which it has a few roundings.

    Sums of float64 data are of deviations from a pivot: their squares are up to 32 times the
    variance (docs/numerics.md), whose roundings then are as much larger, half as many of invstd.
    Of narrower data, sums are exact far beyond their roundings.
    """
    size = np.abs(ref.normalised)
    if case.x.dtype == np.float64:
        size = 16 * size
        if case.name != "rms_norm":
            size = size + 4 * ref.invstd * (np.abs(ref.mean) + np.sqrt(ref.var))
    return size


def z_size(case: NormCase, ref: Any) -> np.ndarray:
    """How large the terms of the activation's argument are.

    In 16 bits, the error of mean is relative to the deviation, which is 1 in normalised numbers.
    """
    of_mean = 1 if case.x.dtype.itemsize == 2 else 0
    terms = np.abs(ref.gamma) * (normalised_size(case, ref) + of_mean) + np.abs(ref.beta)
    return terms + (0 if case.name in BEFORE else ref.added)


def away_from_kinks(case: NormCase, ref: Any) -> bool:
    """Whether errors cannot move an argument of relu across 0, where the derivative jumps."""
    if case.options.get("activation") not in ("relu", "leaky_relu"):
        return True
    reach = 4 * units_of(case.x.dtype) * roundoff(case.x.dtype) * z_size(case, ref)
    return bool(np.all((np.abs(ref.z) > reach) | ((ref.z == 0) & (ref.normalised == 0))))


def check_forward(case: NormCase, **more: Any) -> tuple[bnfast.NormContext, Any]:
    """Compare h, y and the statistics with the textbook's; return both contexts."""
    before = case.x.tobytes()
    y, ctx = case.forward(**more)
    dtype, per_part = case.x.dtype, channel_dtype(case.x.dtype)
    assert y.dtype == dtype and y.shape == case.x.shape
    assert case.x.tobytes() == before
    h = None
    if case.name in BEFORE:
        h = ctx.h
        assert (h is case.x) == (not case.has_prologue)
        assert h.dtype == dtype and h.shape == case.x.shape
        _, ref = case.textbook()
        # x / (1 - rate), which is at most |h| + |residual|, has two roundings, and the sum one.
        assert_near(h, ref.h, ref.added + 2 * np.abs(ref.h), units=2)
    # y is the norm of h as it was rounded, which matters where the parts of h are nearly constant.
    want, ref = case.textbook(h)
    units = units_of(dtype)
    scale = 1 if case.name in BEFORE else ref.scale  # of dropout, which multiplies errors, too
    assert_near(y, want, np.abs(want) + 1.2 * scale * z_size(case, ref), units)

    shape = ref.parts.statistics_shape
    first = (ref.parts.split(a)[:, :1].reshape(shape) if case.x.size else np.zeros(shape)
             for a in (ref.mean, ref.var, ref.invstd))  # fmt: skip
    mean, var, invstd = first
    if case.name == "rms_norm":
        assert ctx.mean is None
    else:
        assert ctx.mean.dtype == per_part
        # The pivot of float64 data, see normalised_size, is up to 5.6 deviations off.
        deviations = 5.6 if dtype == np.float64 else 1
        assert_near(ctx.mean, mean, np.abs(mean) + deviations * np.sqrt(var))
    # Of float64 the bound of the contract, 1e-12; of float32 no more than the rounding to float32.
    units = {2: UNITS_16_BIT_VAR, 4: 2, 8: 1e-12 * 2**53}[dtype.itemsize]
    for got, expected in ((ctx.var, var), (ctx.invstd, invstd)):
        assert got.dtype == per_part
        assert_near(got, expected, expected, units)
    return ctx, ref


def check_gradients(case: NormCase, grads: bnfast.NormGrads, ref: Any) -> None:
    """Compare gradients with the textbook's; `ref` is its context."""
    dx, dgamma, dbeta, dresidual = reference.backward(case.dy, ref, case.dh)
    dtype = case.x.dtype
    units = 24 if dtype.itemsize > 2 else 24 + 2 * UNITS_16_BIT
    # Errors of dz: a few roundings, and those of z times the second derivative (at most 1).
    dy = case.dy if case.name in BEFORE else ref.drop(case.dy)
    dz = np.abs(dy) * (1.2 + z_size(case, ref))
    size = normalised_size(case, ref)

    def most(a: np.ndarray) -> np.ndarray:
        return ref.parts.over_parts(np.max, a) if a.size else a

    of_h = ref.invstd * most(np.abs(ref.gamma) * dz) * (2 + most(size))
    of_h = of_h + (0 if case.dh is None else np.abs(case.dh.astype(reference.Wide)))
    of_residual = of_h if case.name in BEFORE else dz
    assert grads.dx.dtype == dtype and grads.dx.shape == case.x.shape
    assert_near(grads.dx, dx, ref.drop(of_h) if case.name in BEFORE else of_h, units)
    total = ref.parts.sum_for_parameter
    of_mean = 1 if dtype.itemsize == 2 else 0
    for got, want, parameter, terms in (
        (grads.dgamma, dgamma, case.gamma, dz * (size + of_mean)),
        (grads.dbeta, dbeta, case.beta, dz),
    ):
        assert (got is None) == (parameter is None)
        if got is not None:
            assert got.dtype == channel_dtype(dtype)
            assert_near(got, want, total(terms), units)
    assert (grads.dresidual is None) == ("residual" not in case.options)
    if grads.dresidual is not None:
        assert grads.dresidual.dtype == dtype
        assert_near(grads.dresidual, dresidual, of_residual, units)
    if case.name in BEFORE:
        assert not grads.dx[~ref.kept].any()


# --- bits of all results --------------------------------------------------------------------------


def bits_of_every_result(case: NormCase) -> dict[str, bytes]:
    """All results of forward and backward, by name."""
    y, ctx = case.forward()
    results = {"y": y, "mean": ctx.mean, "var": ctx.var, "invstd": ctx.invstd}
    if case.name in BEFORE:
        results["h"] = ctx.h
    results |= case.backward(ctx)._asdict()
    return {name: bits(a) for name, a in results.items() if a is not None}
