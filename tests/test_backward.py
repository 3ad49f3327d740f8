"""Gradients are those of the textbook, of differences, and of torch."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import ACTIVATIONS, DTYPES, Case, away_from_kinks, cases, check_gradients
from hypothesis import assume, given, settings

import bnfast

pytestmark = pytest.mark.core


@settings(max_examples=400)
@given(cases())
def test_backward_is_the_textbook(case: Case):
    _, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
    assume(away_from_kinks(case, ref))
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
    check_gradients(case, bnfast.batch_norm_backward(case.dy, ctx), ref)


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
def test_torch_agrees(activation, dtype):
    torch = pytest.importorskip("torch")
    functions = {
        None: lambda v: v,
        "leaky_relu": lambda v: torch.nn.functional.leaky_relu(v, 0.01),
        **{name: getattr(torch.nn.functional, name) for name in ("relu", "silu", "gelu", "elu")},
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for shape in ((8, 3), (4, 3, 5), (4, 3, 6, 7), (2, 3, 4, 5, 6)):
        generator = np.random.default_rng(4)
        x, dy, residual = generator.normal(1, 2, (3, *shape)).astype(dtype)
        gamma, beta = generator.normal(1, 0.3, (2, 3)).astype(dtype)
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta, residual)]
        z = torch.nn.functional.batch_norm(
            leaves[0], None, None, leaves[1], leaves[2], training=True, eps=1e-5
        )
        want_y = functions[activation](z + leaves[3])
        want_y.backward(torch.tensor(dy))
        y, ctx = bnfast.batch_norm(x, gamma, beta, residual=residual, activation=activation)
        grads = bnfast.batch_norm_backward(dy, ctx)
        pairs = [(y, want_y.detach()), *zip(grads, (leaf.grad for leaf in leaves), strict=True)]
        for got, want in pairs:
            most = np.abs(want).max().item()
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * most)


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
