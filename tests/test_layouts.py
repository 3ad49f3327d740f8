"""Results have the bits of those of a dense copy in the same order, however x lies in memory."""

from __future__ import annotations

import numpy as np
import pytest
from cases import (
    DTYPES,
    Case,
    as_view,
    assert_equal_bits,
    assert_same_bits,
    bits_of_every_result,
    numbers,
)
from hypothesis import given
from hypothesis import strategies as st

import bnfast

pytestmark = pytest.mark.core


# --- strides --------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["strided", "negative", "unaligned"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 5, 700), 1), ((700, 9), 1), ((6, 3, 8, 9), 1), ((5000,), 0)]
)
def test_strides_of_the_same_order(shape, axis, view):
    where = np.random.default_rng(0).random([1 if d == axis else n for d, n in enumerate(shape)])
    for dtype in DTYPES:
        x, dy, residual = (numbers(shape, dtype, seed) for seed in range(3))
        gamma, beta = numbers((2, shape[axis]), np.float64)
        options = {"axis": axis, "activation": "silu", "where": where < 0.8}
        want = bits_of_every_result(Case(x, dy, gamma, beta, {**options, "residual": residual}))
        x, dy, residual = (as_view(a, view) for a in (x, dy, residual))
        got = bits_of_every_result(Case(x, dy, gamma, beta, {**options, "residual": residual}))
        assert_equal_bits(got, want)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views_in_another_order(order, dtype):
    shape = (4, 9, 6, 7)
    memory = numbers(tuple(2 * shape[d] for d in order), dtype)
    x = memory[tuple(slice(1, None, 2) for _ in order)].transpose(np.argsort(order))
    assert x.shape == shape
    dense = x.copy(order="K")
    want = bits_of_every_result(Case(dense, dense, None, np.ones(9), {"axis": 1}))
    assert_equal_bits(bits_of_every_result(Case(x, x, None, np.ones(9), {"axis": 1})), want)


@pytest.mark.parametrize("ndim", [8, 9, 32])  # 32 are the most that NumPy 1 has
def test_many_dimensions(ndim):
    shape = (2, 3, 7, *[1] * (ndim - 5), 2, 5)
    x, dy = numbers((2, *shape[:-1], 10), np.dtype(np.float32))[..., ::2]
    where = numbers((2, 1, *shape[2:]), np.dtype(np.float32), 1) > 0
    gamma = np.arange(1.0, 4.0)
    y, ctx = bnfast.batch_norm(x, gamma, residual=dy, where=where)
    grads = bnfast.batch_norm_backward(dy, ctx)

    def flat(a):
        return a.reshape(2, -1, 70)

    want, want_ctx = bnfast.batch_norm(flat(x), gamma, residual=flat(dy), where=flat(where))
    wanted = bnfast.batch_norm_backward(flat(dy), want_ctx)
    assert y.shape == grads.dx.shape == grads.dresidual.shape == shape
    assert_same_bits(map(flat, [y, *grads[::3]]), [want, *wanted[::3]])
    assert_same_bits([grads.dgamma, ctx.mean], [wanted.dgamma, want_ctx.mean])


# --- slices, which are read in place --------------------------------------------------------------

SLICES = {
    "every other channel": lambda a: a[:, ::2],
    "channels reversed": lambda a: a[:, ::-1],
    "rows of the image cut off": lambda a: a[:, :, 1:-1],
    "every other image": lambda a: a[::2],
}


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("shape", [(3, 80, 10, 9), (4, 6, 72, 37)], ids=str)
@pytest.mark.parametrize("cut", SLICES)
def test_slices(shape, cut, activation):
    """Of each operand alone, and of all together."""
    views = {name: SLICES[cut](numbers(shape, seed=k)) for k, name in enumerate("xrd")}
    dense = {name: a.copy() for name, a in views.items()}
    channels = dense["x"].shape[1]

    def results(names):
        x, residual, dy = (views[n] if n in names else dense[n] for n in "xrd")
        y, ctx = bnfast.batch_norm(
            x, np.ones(channels), np.zeros(channels), residual=residual, activation=activation
        )
        return [y, ctx.mean, ctx.var, *bnfast.batch_norm_backward(dy, ctx)]

    want = results("")
    for names in ("x", "r", "d", "xrd"):
        assert_same_bits(results(names), want)
    assert bnfast.moments(views["x"]) == bnfast.moments(dense["x"])


# --- broadcast views ------------------------------------------------------------------------------


@st.composite
def broadcast_views(draw):
    rank = draw(st.integers(1, 5))
    longest = [400, 60, 30, 12, 8][rank - 1]
    shape = tuple(draw(st.integers(1, longest)) for _ in range(rank))
    base = tuple(draw(st.sampled_from([1, n])) for n in shape)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = (3 * generator.standard_normal(base) + 1).astype(draw(st.sampled_from(DTYPES)))
    return np.broadcast_to(values, shape), draw(st.integers(-rank, rank - 1)), generator


@given(broadcast_views())
def test_a_broadcast_view_is_as_its_copy(drawn):
    """Bit for bit: along a stride of 0 nothing lies in memory, and the indices have the order."""
    x, axis, generator = drawn
    copy = x.copy()
    assert bnfast.moments(x, axis=axis) == bnfast.moments(copy, axis=axis)
    dy = generator.standard_normal(x.shape).astype(x.dtype)
    results = []
    for each in (x, copy):
        y, ctx = bnfast.batch_norm(each, axis=axis, activation="silu", residual=dy)
        assert y.flags.c_contiguous
        grads = bnfast.batch_norm_backward(dy, ctx)
        results.append([y, grads.dx, grads.dresidual])
    assert_same_bits(*results)


def test_where_windows_overlap():
    """Two axes as far apart: taken in the order of indices, as their copy has it."""
    x = np.lib.stride_tricks.sliding_window_view(np.random.default_rng(0).standard_normal(900), 40)
    for axis in (0, 1):
        assert bnfast.moments(x, axis=axis) == bnfast.moments(x.copy(), axis=axis)


@pytest.mark.parametrize("broadcast", [(0,), (1,), (0, 1)])
def test_channels_last_stay_so(broadcast):
    """The axes that do lie in memory keep their order there."""
    shape = [6, 5, 4, 3]  # N, H, W, C in memory
    base = [1 if d in broadcast else n for d, n in enumerate(shape)]
    values = np.random.default_rng(0).standard_normal(base)
    x = np.moveaxis(np.broadcast_to(values, shape), -1, 1)
    dense = np.moveaxis(np.broadcast_to(values, shape).copy(), -1, 1)
    y, dense_y = (bnfast.batch_norm(a)[0] for a in (x, dense))
    assert y.strides == dense_y.strides
    assert_same_bits([y], [dense_y])
    assert bnfast.moments(x) == bnfast.moments(dense)
