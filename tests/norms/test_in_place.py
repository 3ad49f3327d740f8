"""Group and instance norm over x itself, as batch norm has it; and arrays without elements."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, as_view, assert_same_bits, channel_dtype

import bnfast
from norms.cases import BEFORE, BEHIND, NAMES, case_of

pytestmark = pytest.mark.core


@pytest.mark.parametrize("activation", [None, "leaky_relu", "elu"])
@pytest.mark.parametrize("shape", [(3, 6, 5, 7), (2, 4, 4101), (9, 6)])
@pytest.mark.parametrize("name", BEHIND)
def test_in_place_is_the_ordinary_path(name, shape, activation):
    for dtype in DTYPES if activation != "elu" else DTYPES[:2]:
        for axis in (1, -1):
            given = (*shape[:1], *shape[2:], shape[1]) if axis == -1 else shape
            case = case_of(name, given, dtype, axis=axis, activation=activation)
            y, ctx = case.forward()
            want = case.backward(ctx)
            for view in ("C", "F", "strided", "negative"):
                x = case.x
                case.x = as_view(x.copy(), view)
                ordinary = case.forward()[0] if view != "C" else y
                over, in_place = case.forward(out=case.x)
                assert over is case.x
                assert_same_bits([over], [ordinary])
                got = case.backward(in_place)
                assert_same_bits([over], [ordinary])  # backward reads y only
                # The rounding of y, half a unit of its dtype, is divided by gamma, which is at
                # least 0.5, and by elu's slope, at least exp(-8): then it is one of the input.
                u = {2: 2.0**-8, 4: 2.0**-24, 8: 2.0**-53}[x.dtype.itemsize]
                lost = 16 * u * (np.exp(8) if activation == "elu" else 1)
                dy = np.abs(case.dy.astype(float))
                for a, b in zip(got[:3], want[:3], strict=True):
                    size = dy.sum() if a.ndim == 1 else 2 * dy.max() * ctx.invstd.max()
                    assert np.abs(a.astype(float) - b.astype(float)).max() <= lost * size
                case.x = x


NO_ROWS = [(0,), (0, 5), (3, 0), (0, 0), (2, 0, 4), (2, 4, 0)]
NO_SAMPLES = [(0, 4), (0, 4, 3), (2, 4, 0), (2, 0, 4), (0, 4, 0)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name in NAMES for shape in (NO_ROWS if name in BEFORE else NO_SAMPLES)],
)
def test_no_elements(name, shape):
    """No rows, and rows without elements: nothing to sum."""
    for dtype in DTYPES:
        for options in ({}, {"residual": np.zeros(shape, dtype), "dropout": 0.5, "seed": 1}):
            case = case_of(name, shape, dtype, activation="tanh", **options)
            y, ctx = case.forward()
            grads = case.backward(ctx)
            assert y.shape == grads.dx.shape == shape and y.dtype == grads.dx.dtype == dtype
            assert ctx.var.shape == ctx.invstd.shape == case.textbook()[1].parts.statistics_shape
            zeros = np.zeros(case.gamma.shape, channel_dtype(dtype))
            assert_same_bits(grads[1:3], [zeros, None if name == "rms_norm" else zeros])
            assert (grads.dresidual is not None) == ("residual" in options)
            if name in BEFORE:
                assert ctx.h.shape == shape


def test_a_negative_gamma_and_samples_apart():
    """In place, in every second sample of a buffer, whose others stay as they were."""
    buffer = np.full((6, 4, 30), 7.0)
    x = buffer[::2]
    x[...] = np.random.default_rng(0).normal(size=x.shape)
    gamma, beta = np.array([-1.0, 2.0, -0.5, 1.0]), np.arange(4.0)
    want, ctx = bnfast.group_norm(x.copy(), 2, gamma, beta)
    wanted = bnfast.norm_backward(np.sin(x), ctx)
    dy = np.sin(x)
    _, ctx = bnfast.group_norm(x, 2, gamma, beta, out=x)
    assert_same_bits([x.copy()], [want])
    got = bnfast.norm_backward(dy, ctx)
    for a, b in zip(got[:3], wanted[:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * np.abs(dy).sum())
    assert (buffer[1::2] == 7).all()
