"""Gradients against the textbook, differences and torch; synchronised and frozen ones too."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import pytest
import reference
from cases import (
    ACTIVATIONS,
    DTYPES,
    VIEWS,
    Case,
    as_view,
    assert_near,
    away_from_kinks,
    cases,
    channel_dtype,
    spread,
    z_size,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import bnfast


def check_gradients(case: Case, grads: bnfast.BatchNormGrads, ctx, frozen=False) -> None:
    """Compare with the textbook; `ctx` is the reference's."""
    dx, dgamma, dbeta, dresidual = reference.batch_norm_backward(case.dy, ctx, frozen=frozen)
    dtype = case.x.dtype
    assert grads.dx.dtype == dtype and grads.dx.shape == case.x.shape
    # Errors of dz: a few roundings, and those of z times the second derivative (at most 1).
    dy = np.where(ctx.kept, reference._channels_first(case.dy, case.axis), 0)
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


@settings(max_examples=400)
@given(cases())
def test_backward_is_the_textbook(case):
    _, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
    assume(away_from_kinks(case, ref))
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    check_gradients(case, bnfast.batch_norm_backward(case.dy, ctx), ref)


@settings(max_examples=100)
@given(cases(), st.sampled_from([view for view in VIEWS if view != "broadcast"]))
def test_out_of_any_strides(case, view):
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    want = bnfast.batch_norm_backward(case.dy, ctx)
    out = as_view(np.full(case.x.shape, 55, case.x.dtype), view)
    grads = bnfast.batch_norm_backward(case.dy, ctx, out=out)
    assert grads.dx is out and out.tobytes() == want.dx.tobytes()


@settings(max_examples=100)
@given(cases())
def test_out_may_be_dy(case):
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    want = bnfast.batch_norm_backward(case.dy, ctx)
    dy = case.dy.copy() if not case.dy.flags.writeable else case.dy
    grads = bnfast.batch_norm_backward(dy, ctx, out=dy)
    for got, wanted in zip(grads, want, strict=True):
        assert (got is None) == (wanted is None)
        assert got is None or got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 4, 9001), 1), ((300, 5, 31), 1), ((3000, 70), 1), ((5, 7, 900), -1), ((20000,), 0)],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large(shape, axis, dtype, target):
    generator = np.random.default_rng(0)
    x, dy, residual = (generator.normal(3, 2, shape).astype(dtype) for _ in range(3))
    gamma, beta = generator.normal(1, 0.5, (2, shape[axis])).astype(np.float32)
    options = {"axis": axis, "residual": residual, "activation": "tanh"}
    case = Case(x, dy, gamma, beta, options)
    _, ctx = bnfast.batch_norm(x, gamma, beta, **options)
    _, ref = reference.batch_norm(x, gamma, beta, **options)
    check_gradients(case, bnfast.batch_norm_backward(dy, ctx), ref)


@settings(max_examples=100)
@given(cases(masked=False))
def test_frozen_statistics_are_constants(case):
    generator = np.random.default_rng(1)
    stats = (
        generator.normal(size=case.x.shape[case.axis]),
        generator.uniform(0.1, 2, case.x.shape[case.axis]),
    )
    y, ctx = bnfast.batch_norm_frozen(case.x, *stats, case.gamma, case.beta, **case.options)
    want, ref = reference.batch_norm(case.x, case.gamma, case.beta, stats=stats, **case.options)
    assume(away_from_kinks(case, ref))
    assert_near(y, want, np.abs(want) + 1.2 * spread(z_size(case, ref), case.x, case.axis))
    same = bnfast.batch_norm_inference(case.x, *stats, case.gamma, case.beta, **case.options)
    assert same.tobytes() == y.tobytes()
    check_gradients(case, bnfast.batch_norm_backward(case.dy, ctx), ref, frozen=True)


@settings(max_examples=150)
@given(cases())
def test_sums(case):
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    _, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
    assume(away_from_kinks(case, ref))
    sums = bnfast.batch_norm_backward_sums(case.dy, ctx)
    count, sum_dy, sum_dy_xmu = reference.backward_sums(case.dy, ref)
    assert (sums.count == count).all()
    unit = 2.0**-53 if case.x.dtype == np.float64 else 2.0**-24
    dy = np.where(ref.kept, reference._channels_first(case.dy, case.axis), 0)
    terms = np.abs(dy) * (1.2 + z_size(case, ref))
    assert (np.abs(sums.sum_dy - sum_dy) <= 24 * unit * terms.sum(1)).all()
    bound = 24 * unit * (terms * np.abs(ref.centred)).sum(1) + 1e-300
    assert (np.abs(sums.sum_dy_xmu - sum_dy_xmu) <= bound).all()
    # The sums of the batch itself change nothing.
    plain, given_sums = (bnfast.batch_norm_backward(case.dy, ctx, sums=s) for s in (None, sums))
    assert plain.dx.tobytes() == given_sums.dx.tobytes()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_synchronised_halves_give_the_whole(dtype, activation, masked):
    generator = np.random.default_rng(2)
    whole, dy, residual = generator.normal(1, 2, (3, 12, 5, 7)).astype(dtype)
    gamma, beta = generator.normal(1, 0.3, (2, 5))
    where = generator.random((12, 1, 7)) < 0.7 if masked else None
    options = {"activation": activation}
    _, ctx = bnfast.batch_norm(whole, gamma, beta, residual=residual, where=where, **options)
    want = bnfast.batch_norm_backward(dy, ctx)
    parts = [slice(0, 4), slice(4, 12)]
    masks = [None if where is None else where[part] for part in parts]
    total = sum(
        (bnfast.moments(whole[p], where=w) for p, w in zip(parts, masks, strict=True)),
        start=bnfast.Moments.empty(5),
    )
    contexts = [
        bnfast.batch_norm(
            whole[p], gamma, beta, residual=residual[p], where=w, stats=total, **options
        )[1]
        for p, w in zip(parts, masks, strict=True)
    ]
    sums = sum(
        (bnfast.batch_norm_backward_sums(dy[p], c) for p, c in zip(parts, contexts, strict=True)),
        start=bnfast.GradientSums.empty(5),
    )
    dgamma, dbeta = np.zeros(5), np.zeros(5)
    for part, context in zip(parts, contexts, strict=True):
        grads = bnfast.batch_norm_backward(dy[part], context, sums=sums)
        assert_near(grads.dx, want.dx[part], np.abs(want.dx).max(), units=32)
        assert_near(grads.dresidual, want.dresidual[part], np.abs(want.dresidual).max(), units=32)
        dgamma += grads.dgamma
        dbeta += grads.dbeta
        with pytest.raises(ValueError, match="batch_norm_backward: sums is None, expected"):
            bnfast.batch_norm_backward(dy[part], context)
    assert_near(dgamma.astype(dtype), want.dgamma, np.abs(want.dgamma).max() * 10)
    assert_near(dbeta.astype(dtype), want.dbeta, np.abs(want.dbeta).max() * 10)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("eps_placement", ["var", "std"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_central_differences(activation, eps_placement, masked):
    generator = np.random.default_rng(11)
    x, dy, residual = generator.normal(1, 2, (3, 3, 2, 4))
    gamma, beta = generator.normal(1, 0.3, (2, 2))
    where = np.arange(12).reshape(3, 1, 4) % 4 > 0 if masked else None
    options = {
        "activation": activation,
        "eps_placement": eps_placement,
        "where": where,
        "eps": 0.01,
        "activation_slope": 0.2,
    }
    _, ref = reference.batch_norm(x, gamma, beta, residual=residual, **options)
    assert np.abs(ref.z).min() > 1e-3  # no kink within reach of the step

    def loss() -> float:
        return np.sum(dy * bnfast.batch_norm(x, gamma, beta, residual=residual, **options)[0])

    _, ctx = bnfast.batch_norm(x, gamma, beta, residual=residual, **options)
    grads = bnfast.batch_norm_backward(dy, ctx)
    step = 1e-5
    for variable, gradient in zip((x, gamma, beta, residual), grads, strict=True):
        for at in np.ndindex(variable.shape):
            middle = variable[at]
            variable[at] = middle + step
            above = loss()
            variable[at] = middle - step
            below = loss()
            variable[at] = middle
            assert abs((above - below) / (2 * step) - gradient[at]) < 2e-8


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5), (4, 3, 6, 7), (2, 3, 4, 5, 6)])
def test_torch_agrees(shape, activation, dtype):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(4)
    x, dy, residual = generator.normal(1, 2, (3, *shape)).astype(dtype)
    gamma, beta = generator.normal(1, 0.3, (2, 3)).astype(dtype)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta, residual)]
    z = torch.nn.functional.batch_norm(
        leaves[0], None, None, leaves[1], leaves[2], training=True, eps=1e-5
    )
    functions = {
        None: lambda v: v,
        "leaky_relu": lambda v: torch.nn.functional.leaky_relu(v, 0.01),
        **{name: getattr(torch.nn.functional, name) for name in ("relu", "silu", "gelu", "elu")},
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    want_y = functions[activation](z + leaves[3])
    want_y.backward(torch.tensor(dy))
    y, ctx = bnfast.batch_norm(x, gamma, beta, residual=residual, activation=activation)
    grads = bnfast.batch_norm_backward(dy, ctx)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    pairs = [(y, want_y.detach()), *zip(grads, (leaf.grad for leaf in leaves), strict=True)]
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max().item())


@pytest.mark.parametrize("size", [1e38, 1e-30])
def test_extreme_sizes_of_x(size, target):
    generator = np.random.default_rng(5)
    x = (generator.uniform(-2, 2, (40, 6)) * size).astype(np.float32)
    dy = generator.normal(size=x.shape).astype(np.float32)
    gamma = generator.normal(1, 0.2, 6)
    for axis, data, gradient in ((1, x, dy), (0, x.T.copy(), dy.T.copy())):
        case = Case(data, gradient, gamma, gamma, {"axis": axis, "eps": 0.0})
        _, ctx = bnfast.batch_norm(data, gamma, gamma, **case.options)
        _, ref = reference.batch_norm(data, gamma, gamma, **case.options)
        check_gradients(case, bnfast.batch_norm_backward(gradient, ctx), ref)


def test_zero_dy_gives_zero_dx_where_invstd_exceeds_float32(target):
    x = (np.arange(12).reshape(6, 2) * 1e-42).astype(np.float32)
    _, ctx = bnfast.batch_norm(x, eps=0.0)
    assert not bnfast.batch_norm_backward(np.zeros_like(x), ctx).dx.any()


def test_context_is_used_any_number_of_times():
    x = np.random.default_rng(6).normal(size=(9, 4)).astype(np.float32)
    _, ctx = bnfast.batch_norm(x, np.ones(4), np.ones(4), activation="silu")
    first, second = (bnfast.batch_norm_backward(x, ctx) for _ in range(2))
    for a, b in zip(first[:3], second[:3], strict=True):
        assert a.tobytes() == b.tobytes()


# Long channels and short ones, in planes and in rows.
RELU_SHAPES = [
    ((3, 5, 37, 41), 1),
    ((48, 19, 7, 7), 1),
    ((1100, 6, 2), 1),
    ((2309, 33), -1),
    ((40, 33), -1),
]


def near_zero_of_z(shape, axis, dtype, mean, var, gamma, beta, rng):
    """Inputs of which most make z zero but for a few roundings, and some are anywhere."""
    wide = tuple(-1 if k == axis % len(shape) else 1 for k in range(len(shape)))
    mean, std, gamma, beta = (a.reshape(wide) for a in (mean, np.sqrt(var), gamma, beta))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        root = mean - beta * std / gamma
        rounding = np.finfo(np.float32 if dtype is np.float32 else np.float16).eps
        x = root + (np.abs(root) + np.abs(mean) + std) * rng.integers(-4, 5, shape) * rounding
        anywhere = mean + std * rng.standard_normal(shape)
        return np.where((rng.random(shape) < 0.2) | ~np.isfinite(x), anywhere, x).astype(dtype)


@pytest.mark.parametrize("gamma_of_one", [None, 0.0, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "axis"), RELU_SHAPES)
def test_relu_passes_gradients_exactly_where_z_is_positive(shape, axis, dtype, gamma_of_one):
    rng = np.random.default_rng(len(shape))
    channels = shape[axis]
    scale = 10.0 ** rng.integers(-3, 4, channels)
    mean, var = rng.standard_normal(channels) * scale, rng.uniform(0.5, 2, channels) * scale**2
    gamma = rng.standard_normal(channels) * 10.0 ** rng.integers(-3, 4, channels)
    beta = rng.standard_normal(channels)
    if gamma_of_one is not None:
        gamma[2] = gamma_of_one
    x = near_zero_of_z(shape, axis, dtype, mean, var, gamma, beta, rng)
    x.reshape(-1)[:3] = [np.inf, -np.inf, np.nan]
    statistics = {"axis": axis, "eps": 0.0, "activation": "relu"}
    # float32 results do not round a positive z to zero, as those of 16 bits do.
    wide = x.astype(np.float32)
    with np.errstate(invalid="ignore"):
        passes = bnfast.batch_norm_inference(wide, mean, var, gamma, beta, **statistics) > 0
    assert 0.1 < passes.mean() < 0.9
    dy = rng.integers(1, 9, shape).astype(dtype)  # whose sums are exact
    _, ctx = bnfast.batch_norm_frozen(x, mean, var, gamma, beta, **statistics)
    grads = bnfast.batch_norm_backward(dy, ctx)
    others = tuple(k for k in range(len(shape)) if k != axis % len(shape))
    np.testing.assert_array_equal(grads.dbeta, np.where(passes, dy, 0).sum(others, np.float64))
    if dtype is np.float32 and gamma_of_one is None:
        finite = np.isfinite(x)
        np.testing.assert_array_equal(grads.dx[finite] != 0, passes[finite])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), RELU_SHAPES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_relu_does_not_see_what_it_does_not_pass(shape, axis, dtype, with_residual):
    """Infinities and NaN in dy where ReLU's output is zero change nothing."""
    rng = np.random.default_rng(1)
    x, dy, residual = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    residual = residual if with_residual else None
    y, ctx = bnfast.batch_norm(x, axis=axis, activation="relu", residual=residual)
    off = y == 0
    spoilt = dy.copy()
    spoilt[off] = rng.choice([np.inf, -np.inf, np.nan], off.sum()).astype(dtype)
    want, got = (bnfast.batch_norm_backward(a, ctx) for a in (dy, spoilt))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(got.dx.astype(np.float32)).all()
