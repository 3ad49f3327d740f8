"""The order of elements in memory: broadcast views, and the order of new arrays."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES
from hypothesis import given
from hypothesis import strategies as st

import bnfast


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
    for of_view, of_copy in zip(*results, strict=True):
        assert of_view.tobytes() == of_copy.tobytes()


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
    assert y.strides == dense_y.strides and y.tobytes() == dense_y.tobytes()
    assert bnfast.moments(x) == bnfast.moments(dense)
