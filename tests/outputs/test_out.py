"""Results go where `out` says, in any strides; new arrays have the order of x in memory."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, VIEWS, as_view, assert_same_bits, cases, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfast

pytestmark = pytest.mark.core

WRITEABLE_VIEWS = [view for view in VIEWS if view != "broadcast"]


@settings(max_examples=150)
@given(cases(), st.sampled_from(WRITEABLE_VIEWS))
def test_out_of_any_strides(case, view):
    """Of forward and of backward."""
    y, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    want = [y, *bnfast.batch_norm_backward(case.dy, ctx)]
    out, dx = (as_view(np.full(case.x.shape, 55, case.x.dtype), view) for _ in range(2))
    got, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, out=out, **case.options)
    grads = bnfast.batch_norm_backward(case.dy, ctx, out=dx)
    assert got is out and grads.dx is dx
    assert_same_bits([got, *grads], want)
    if view == "strided" and out.size:
        for written in (out, dx):  # nothing between was written
            assert (written.base == 77).sum() >= written.base.size - written.size


@settings(max_examples=100)
@given(cases())
def test_out_may_be_dy(case):
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    want = bnfast.batch_norm_backward(case.dy, ctx)
    dy = case.dy.copy() if not case.dy.flags.writeable else case.dy
    assert_same_bits(bnfast.batch_norm_backward(dy, ctx, out=dy), want)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_new_arrays_have_the_memory_order_of_x(order, axis):
    shape = (3, 4, 5, 6)
    for dtype in DTYPES:
        memory = numbers(tuple(shape[d] for d in order), dtype)
        x = memory.transpose(np.argsort(order))
        assert x.shape == shape
        y, ctx = bnfast.batch_norm(x, axis=axis, residual=x)
        grads = bnfast.batch_norm_backward(np.ascontiguousarray(x), ctx)
        inferred = bnfast.batch_norm_inference(x, *np.ones((2, shape[axis])), axis=axis)
        for output in (y, grads.dx, grads.dresidual, inferred):
            assert output.strides == x.strides
        every_second = x[::2, ::2, ::2, ::2]
        dense = np.empty_like(every_second, order="K")
        assert bnfast.batch_norm(every_second, axis=axis)[0].strides == dense.strides


DISJOINT = {
    "every second element": lambda b: (b[::2], b[1::2]),
    "every second row": lambda b: (b.reshape(20, 10)[::2], b.reshape(20, 10)[1::2]),
    "every second column": lambda b: (b.reshape(20, 10)[:, ::2], b.reshape(20, 10)[:, 1::2]),
    "channels of one buffer": lambda b: (b.reshape(2, 4, 25)[:, :2], b.reshape(2, 4, 25)[:, 2:]),
    "real and imaginary": lambda b: (b.view(np.complex64).real, b.view(np.complex64).imag),
    "halves": lambda b: (b[:100], b[100:]),
    "halves backwards": lambda b: (b[99::-1], b[100:]),
}


@pytest.mark.parametrize("name", DISJOINT)
def test_disjoint_views_of_one_buffer_are_fine(name):
    buffer = np.random.default_rng(1).normal(size=200).astype(np.float32)
    x, out = DISJOINT[name](buffer)
    axis = min(1, x.ndim - 1)
    want = bnfast.batch_norm(x.copy(), axis=axis)[0]
    y, ctx = bnfast.batch_norm(x, axis=axis, out=out)
    assert y is out
    np.testing.assert_array_equal(y, want)
    stats = np.ones((2, x.shape[axis]))
    bnfast.batch_norm_inference(x, *stats, axis=axis, out=out)
    np.testing.assert_array_equal(out, bnfast.batch_norm_inference(x.copy(), *stats, axis=axis))
    dx = bnfast.batch_norm_backward(x, ctx, out=out).dx
    np.testing.assert_array_equal(dx, bnfast.batch_norm_backward(x, ctx).dx)
