"""h, y and the statistics of every norm are those of the textbook, whatever the call."""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, assert_near, assert_same_bits, numbers
from hypothesis import given, settings

import bnfast
from norms.cases import BEFORE, NAMES, UNITS, NormCase, case_of, check_forward, norm_cases

pytestmark = pytest.mark.core


@settings(max_examples=400)
@given(norm_cases())
def test_forward_is_the_textbook(case: NormCase):
    check_forward(case)


@pytest.mark.parametrize("name", BEFORE)
def test_h_is_the_next_residual(name):
    """As in the blocks of a Transformer; what the first call returned stays as it was."""
    for dtype in DTYPES:
        shape = (4, 7, 33)
        block = case_of(name, shape, dtype, residual=numbers(shape, dtype, 5), dropout=0.3, seed=1)
        _, ctx = block.forward()
        h, grads = ctx.h.copy(), block.backward(ctx)
        check_forward(case_of(name, shape, dtype, draw=1, residual=ctx.h, activation="gelu"))
        assert_same_bits([ctx.h, *block.backward(ctx)], [h, *grads])


@pytest.mark.parametrize("name", BEFORE)
def test_what_is_dropped_does_not_reach_h(name):
    """Even NaN: it is replaced by 0, not multiplied."""
    case = case_of(name, (5, 70), dropout=0.4, seed=3)
    want, want_ctx = case.forward()
    kept = bnfast.dropout_mask(case.x.shape, 0.4, seed=3)
    case.x[~kept] = np.nan
    y, ctx = case.forward()
    assert_same_bits([y, ctx.h], [want, want_ctx.h])
    assert not ctx.h[~kept].any() and ctx.h[kept].all()


@pytest.mark.parametrize("name", BEFORE)
def test_the_axes_that_are_normalised(name):
    """One axis or several, from either end: those of an array whose last axes are one."""
    x = numbers((3, 4, 5, 6))
    norm = getattr(bnfast, name)
    gamma = numbers((5, 6), seed=1)
    want, want_ctx = norm(x.reshape(3, 4, 30), gamma.reshape(30))
    for axis in ((-2, -1), (2, 3)):
        y, ctx = norm(x, gamma, axis=axis)
        assert_same_bits([y.reshape(3, 4, 30), ctx.var], [want, want_ctx.var])
    last = norm(x, gamma[0])[0]
    for axis in (3, (-1,), (3,), np.int64(-1)):
        assert_same_bits([norm(x, gamma[0], axis=axis)[0]], [last])
    whole, ctx = norm(x, axis=(0, 1, 2, 3))
    assert ctx.var.shape == () and whole.shape == x.shape


@pytest.mark.parametrize("axis", [1, -1])
def test_groups_between_those_of_instance_and_layer_norm(axis):
    """A group for each channel is instance norm; one group is layer norm of all but the samples."""
    for dtype in DTYPES:
        x = numbers((3, 6, 5, 8), dtype)
        channels = x.shape[axis]
        y, ctx = bnfast.group_norm(x, channels, axis=axis)
        want, want_ctx = bnfast.instance_norm(x, axis=axis)
        assert_same_bits([y, ctx.mean, ctx.var], [want, want_ctx.mean, want_ctx.var])
        _, ctx = bnfast.group_norm(x, 1, axis=axis)
        _, layer = bnfast.layer_norm(x, axis=(1, 2, 3))
        size = np.abs(layer.mean) + 5.6 * np.sqrt(layer.var)
        assert_near(ctx.mean[:, 0], layer.mean, size, 2 * UNITS)  # each is off by UNITS at most


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_offsets(name):
    norm = getattr(bnfast, name)
    x, count = numbers((5, 4, 30)), (2,) if name == "group_norm" else ()
    y, ctx = norm(x, *count, dropout=0.5)
    assert type(ctx.seed) is int and 0 <= ctx.seed < 2**64 and ctx.offset == 0
    assert norm(x, *count, dropout=0.5)[1].seed != ctx.seed
    assert_same_bits([norm(x, *count, dropout=0.5, seed=ctx.seed)[0]], [y])
    other, ctx = norm(x, *count, dropout=0.5, seed=ctx.seed, offset=7)
    assert ctx.offset == 7 and not np.array_equal(other, y)
    drawn = bnfast.dropout(x, seed=np.random.default_rng(3))[1].seed
    assert norm(x, *count, dropout=0.5, seed=np.random.default_rng(3))[1].seed == drawn
