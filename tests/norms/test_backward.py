"""Gradients of every norm are those of the textbook, and what was dropped reaches none of them."""

from __future__ import annotations

import numpy as np
import pytest
from cases import (
    ACTIVATIONS,
    DTYPES,
    as_view,
    assert_near,
    assert_same_bits,
    channel_dtype,
    numbers,
)
from hypothesis import assume, given, settings

import bnfast
from norms.cases import (
    BEFORE,
    BEHIND,
    NAMES,
    NormCase,
    away_from_kinks,
    case_of,
    check_forward,
    check_gradients,
    norm_cases,
)

pytestmark = pytest.mark.core


@settings(max_examples=400)
@given(norm_cases())
def test_backward_is_the_textbook(case: NormCase):
    ctx, ref = check_forward(case)
    assume(away_from_kinks(case, ref))
    check_gradients(case, case.backward(ctx), ref)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(700, 40), (3, 4099), (300, 6, 9), (2, 6, 2100)])
def test_parameters_of_many_rows_and_of_long_ones(name, shape):
    """dgamma and dbeta are float64 sums: rounded to float32 once, however many terms there are."""
    if name == "group_norm":
        shape = (shape[0], 6, *shape[2:])
    case = case_of(name, shape)
    ctx, ref = check_forward(case)
    grads = case.backward(ctx)
    check_gradients(case, grads, ref)
    if name != "rms_norm":
        others = tuple(d for d in range(len(shape)) if d not in ref.parts.parameter_axes)
        want = case.dy.astype(np.float64).sum(others).astype(np.float32)
        # The float64 sum is off by far less than a rounding to float32; it may fall on either side.
        np.testing.assert_array_max_ulp(grads.dbeta, want.reshape(grads.dbeta.shape), maxulp=1)


@pytest.mark.parametrize("name", BEHIND)
def test_what_dy_holds_where_dropout_behind_the_norm_dropped(name):
    for activation in ACTIVATIONS:
        case = case_of(name, (3, 6, 40), activation=activation, dropout=0.4, seed=3)
        case.options["residual"] = numbers(case.x.shape, seed=5)
        kept = bnfast.dropout_mask(case.x.shape, 0.4, seed=3)
        _, ctx = case.forward()
        case.dy[~kept] = 0
        want = case.backward(ctx)
        case.dy[~kept] = np.nan
        got = case.backward(ctx)
        assert_same_bits(got, want)
        assert not got.dresidual[~kept].any() and got.dx.all()  # x still moves mean and var


@pytest.mark.parametrize("name", BEFORE)
def test_what_dh_holds_where_dropout_before_the_norm_dropped(name):
    """It reaches the residual, which is not dropped, and nothing else."""
    case = case_of(name, (5, 70), dropout=0.4, seed=3)
    kept = bnfast.dropout_mask(case.x.shape, 0.4, seed=3)
    _, ctx = case.forward()
    case.dh[~kept] = 0
    want = case.backward(ctx)
    case.options["residual"] = np.zeros_like(case.x)
    of_residual = case.backward(case.forward()[1]).dresidual
    for poison in (np.nan, np.inf):
        case.dh[~kept] = poison
        got = case.backward(case.forward()[1])
        assert_same_bits(got[:3], want[:3])
        assert not got.dx[~kept].any() and got.dx[kept].all()
        assert_same_bits([got.dresidual[kept]], [of_residual[kept]])


@pytest.mark.parametrize("name", BEFORE)
def test_dx_is_0_where_x_was_dropped_even_if_its_row_is_nan(name):
    """y there is the norm of the residual alone: dy reaches the rest of its row, as it should."""
    case = case_of(name, (5, 70), dropout=0.4, seed=3, residual=numbers((5, 70), seed=5))
    kept = bnfast.dropout_mask(case.x.shape, 0.4, seed=3)
    _, ctx = case.forward()
    want = case.backward(ctx)
    case.dy[2] = np.nan
    got = case.backward(ctx)
    assert not got.dx[~kept].any()
    assert np.isnan(got.dx[2][kept[2]]).all() and np.isnan(got.dresidual[2]).all()
    others = np.arange(5) != 2
    assert_same_bits(
        [got.dx[others], got.dresidual[others]], [want.dx[others], want.dresidual[others]]
    )


@pytest.mark.parametrize("name", BEFORE)
def test_dh_reaches_x_and_the_residual_only(name):
    """Also where h is x itself."""
    for dtype in DTYPES:
        for options in ({}, {"residual": numbers((5, 70), dtype, 5)}):
            case = case_of(name, (5, 70), dtype, **options)
            ctx, ref = check_forward(case)
            with_dh, without = case.backward(ctx), bnfast.norm_backward(case.dy, ctx)
            check_gradients(case, with_dh, ref)
            assert_same_bits(with_dh[1:3], without[1:3])
            assert np.any(with_dh.dx != without.dx)
            if options:
                assert_same_bits([with_dh.dresidual], [with_dh.dx])  # nothing is dropped between


@pytest.mark.parametrize("name", NAMES)
def test_zero_dy_gives_zero_gradients(name):
    for dtype in DTYPES:
        case = case_of(name, (4, 6, 50), dtype, activation="gelu")
        case.dy[...], case.dh = 0, None
        grads = case.backward(case.forward()[1])
        assert not any(a.any() for a in grads if a is not None)
        assert grads.dgamma.dtype == channel_dtype(dtype)


@pytest.mark.parametrize("view", ["F", "channels_last", "strided", "negative", "unaligned"])
@pytest.mark.parametrize("name", NAMES)
def test_any_memory(name, view):
    """Of every array of a call, y and dx among them; dx may overwrite dy."""
    for dtype in DTYPES:
        case = case_of(name, (3, 6, 4, 7), dtype, activation="silu", dropout=0.2, seed=1)
        case.options["residual"] = as_view(numbers(case.x.shape, dtype, 5), view)
        case.x, case.dy = as_view(case.x, view), as_view(case.dy, view)
        case.dh = case.dh if case.dh is None else as_view(case.dh, view)
        out = as_view(np.full(case.x.shape, 7, dtype), view)
        ctx, ref = check_forward(case, out=out)
        assert_same_bits([case.forward()[0]], [out])
        want = case.backward(ctx)
        check_gradients(case, want, ref)
        grads = case.backward(ctx, out=out)
        assert grads.dx is out
        assert_same_bits(grads, want)
        over = case.backward(ctx, out=case.dy)
        assert over.dx is case.dy
        assert_same_bits(over, want)


def test_samples_of_a_group_norm_sum_to_its_parameters():
    """dgamma and dbeta are sums of the samples' own."""
    case = case_of("group_norm", (5, 6, 70), np.float64, num_groups=3)
    whole = case.backward(case.forward()[1])
    totals = np.zeros((2, 6))
    for n in range(5):
        one = NormCase(case.name, case.x[n : n + 1], case.dy[n : n + 1], case.gamma, case.beta,
                       case.options)  # fmt: skip
        grads = one.backward(one.forward()[1])
        assert_same_bits([grads.dx], [whole.dx[n : n + 1]])
        totals += grads.dgamma, grads.dbeta
    terms = np.abs(case.dy).sum((0, 2))
    assert_near(whole.dgamma, totals[0], 4 * terms)
    assert_near(whole.dbeta, totals[1], terms)


@pytest.mark.parametrize(("of_x", "of_dy"), [(2.0**996, 2.0**40), (2.0**-996, 2.0**-66)])
def test_groups_whose_sums_of_products_are_beyond_float64(of_x, of_dy):
    """Channels of a group share dz * (x - mean), which is summed in units of the deviation."""
    x, dy = numbers((2, 4, 8), np.float64), numbers((2, 4, 8), np.float64, seed=1)
    gamma = np.array([0.5, 1.0, 2.0, -1.0])
    want = bnfast.norm_backward(dy, bnfast.group_norm(x, 2, gamma, eps=0.0)[1])
    got = bnfast.norm_backward(of_dy * dy, bnfast.group_norm(of_x * x, 2, gamma, eps=0.0)[1])
    assert_near(got.dx * (of_x / of_dy), want.dx, np.abs(want.dx).max(), 16)
