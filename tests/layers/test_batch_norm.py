"""BatchNorm computes what plain NumPy does in both modes, and its gradients are differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import bnfast
from layers.cases import SHAPE, assert_same_state, data, make

OTHERS = (0, 2, 3)


def column(values):
    return np.asarray(values)[:, None, None]


def normalised(x, mean, var, bn, eps=1e-5):
    gamma = np.ones(3) if bn.gamma is None else bn.gamma
    beta = np.zeros(3) if bn.beta is None else bn.beta
    scaled = (x - column(mean)) / np.sqrt(column(var) + eps)
    return scaled * column(gamma) + column(beta)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_training_and_evaluation(activation, affine):
    bn = make(activation=activation, affine=affine)
    act = (lambda z: np.maximum(z, 0)) if activation else (lambda z: z)
    x, residual = data(), data(2)
    mean, var = x.mean(OTHERS), x.var(OTHERS)
    expected = act(normalised(x, mean, var, bn) + residual)
    np.testing.assert_allclose(bn(x, residual), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(bn.running.mean, 0.1 * mean, rtol=1e-12)
    running_var = 0.9 + 0.1 * x.var(OTHERS, ddof=1)
    np.testing.assert_allclose(bn.running.var, running_var, rtol=1e-12)

    before = bn.state_dict()
    assert bn.eval() is bn and not bn.training
    x = data(3)
    expected = act(normalised(x, 0.1 * mean, running_var, bn) + residual)
    np.testing.assert_allclose(bn(x, residual=residual), expected, rtol=1e-12, atol=1e-12)
    assert_same_state(bn.state_dict(), before)
    assert bn.train() is bn and bn.training and not bn.train(False).training


def test_no_running_statistics_means_batch_statistics():
    bn = make(track_running_stats=False).eval()
    assert bn.running is None
    x = data()
    expected = normalised(x, x.mean(OTHERS), x.var(OTHERS), bn)
    np.testing.assert_allclose(bn(x), expected, rtol=1e-12, atol=1e-12)
    dx = bn.backward(data(5)).dx
    np.testing.assert_allclose(dx.sum(OTHERS), 0, atol=1e-10)  # gradients flow through the mean


@pytest.mark.parametrize("axis", [-1, 3])
def test_channels_last(axis):
    last, first = make(axis=axis), make()
    x = np.moveaxis(data(), 1, -1).copy()
    for mode in (True, False):
        y = last.train(mode)(x)
        expected = first.train(mode)(np.moveaxis(x, -1, 1).copy())
        np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last.running.mean, first.running.mean, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes(dtype):
    bn = bnfast.BatchNorm(3, dtype=dtype)
    for array in (bn.gamma, bn.beta, bn.running.mean, bn.running.var):
        assert array.dtype == dtype
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for kind in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        x = data(dtype=kind)
        for mode in (True, False):
            y = bn.train(mode)(x)
            assert y.dtype == kind
            assert bn.backward(y).dx.dtype == kind
    assert bn.gamma.dtype == dtype


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients_are_differences(activation, training):
    bn = make(activation=activation)
    bn(data(7))
    bn.train(training)
    x, residual, dy = data(8), data(9), data(10)

    def loss(x, residual):
        return np.sum(copy.deepcopy(bn)(x, residual) * dy)

    bn(x, residual)
    grads = bn.backward(dy)
    assert bn.dgamma is grads.dgamma
    assert bn.dbeta is grads.dbeta
    step = 1e-6
    direction = data(11) / 3
    slope = (loss(x + step * direction, residual) - loss(x - step * direction, residual)) / 2e-6
    np.testing.assert_allclose(np.sum(grads.dx * direction), slope, rtol=1e-5)
    slope = (loss(x, residual + step * direction) - loss(x, residual - step * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(grads.dresidual * direction), slope, rtol=1e-5)
    for array, gradient in ((bn.gamma, grads.dgamma), (bn.beta, grads.dbeta)):
        kept = array.copy()
        array += step
        slope = loss(x, residual)
        array -= 2 * step
        slope = (slope - loss(x, residual)) / 2e-6
        array[:] = kept
        np.testing.assert_allclose(gradient.sum(), slope, rtol=1e-5)


def test_evaluation_backward_uses_the_values_of_its_forward():
    bn = make().eval()
    x, dy = data(), data(2)
    bn(x)
    expected = bn.backward(dy)
    bn(x)
    bn.gamma *= 3
    bn.beta += 1
    bn.running.load_state_dict({**bn.running.state_dict(), "var": np.full(3, 9.0)})
    got = bn.backward(dy)
    np.testing.assert_array_equal(got.dx, expected.dx)
    np.testing.assert_array_equal(got.dgamma, expected.dgamma)


def test_backward_may_be_repeated():
    bn = make()
    bn(data())
    first, second = bn.backward(data(2)), bn.backward(data(2))
    np.testing.assert_array_equal(first.dx, second.dx)


def test_without_affine_there_are_no_parameter_gradients():
    bn = make(affine=False)
    assert bn.gamma is bn.beta is None
    for mode in (True, False):
        bn.train(mode)(data())
        grads = bn.backward(data(2))
        assert grads.dgamma is grads.dbeta is bn.dgamma is bn.dbeta is None


def test_backward_needs_a_forward():
    bn = make()
    assert bn.dgamma is bn.dbeta is None
    message = r"^BatchNorm\.backward: no forward was run, expected y = bn\(x\) before"
    with pytest.raises(RuntimeError, match=message):
        bn.backward(data())
    bn(data())
    with pytest.raises(ValueError, match="expected"):
        bn(data()[:, :2])
    with pytest.raises(RuntimeError, match=message):
        bn.backward(data())  # not that of the forward before the one that failed


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 1, 4, 5), (6, 1, 1), (5,), (1, 1, 1, 5)])
def test_where(shape, training):
    bn = make(activation="relu")
    bn(data(4))
    bn.train(training)
    where = np.random.default_rng(0).random(shape) < 0.6
    over = where if where.ndim == 4 else np.broadcast_to(where, (6, 4, 5))[:, None]
    full = np.broadcast_to(over, SHAPE)
    clean, residual, dy = data(5), data(6), data(7)
    poisoned = [np.where(full, values, np.nan) for values in (clean, residual, dy)]
    state = bn.state_dict()
    y = bn(poisoned[0], poisoned[1], where)
    grads = bn.backward(poisoned[2])
    for out in (y, grads.dx, grads.dresidual):
        assert np.all(out[~full] == 0)
        assert np.all(np.isfinite(out))
    if training:
        chosen = [clean[:, c][full[:, c]] for c in range(3)]
        mean = np.array([values.mean() for values in chosen])
        var = np.array([values.var() for values in chosen])
    else:
        mean, var = state["running_mean"], state["running_var"]
        assert_same_state(bn.state_dict(), state)
    expected = np.maximum(normalised(clean, mean, var, bn) + residual, 0)
    np.testing.assert_allclose(y[full], expected[full], rtol=1e-10, atol=1e-12)
    dbeta = np.where(full & (expected > 0), dy, 0).sum(OTHERS)
    np.testing.assert_allclose(grads.dbeta, dbeta, rtol=1e-10)


def test_where_in_evaluation_leaves_arguments_alone():
    bn = make().eval()
    x, dy = data(), data(2)
    kept = x.copy(), dy.copy()
    bn(x, where=np.zeros((6, 4, 5), bool))
    bn.backward(dy)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(dy, kept[1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dtype": object()}, TypeError, "BatchNorm: dtype is .*, expected float32 or float64"),
        ({"num_features": 0}, ValueError, "BatchNorm: num_features is 0, expected at least 1"),
        ({"num_features": "3"}, TypeError, "BatchNorm: num_features is of type str, expected"),
        ({"axis": 1.0}, TypeError, "BatchNorm: axis is of type float, expected an integer"),
        ({"eps": -1e-5}, ValueError, "BatchNorm: eps is -1e-05, expected a number >= 0"),
        ({"eps": float("inf")}, ValueError, "BatchNorm: eps is inf, expected a number >= 0"),
        ({"momentum": 2}, ValueError, r"BatchNorm: momentum is 2, expected a number in \[0, 1\]"),
        (
            {"running_mode": "mean"},
            ValueError,
            "BatchNorm: running_mode is 'mean', expected one of",
        ),
        ({"correction": 2}, ValueError, "BatchNorm: correction is 2, expected one of 0, 1"),
        ({"activation": "swish"}, ValueError, "BatchNorm: activation is 'swish', expected one of"),
        ({"eps_placement": "x"}, ValueError, "BatchNorm: eps_placement is 'x', expected one of"),
        ({"dtype": np.float16}, TypeError, "BatchNorm: dtype is .*, expected float32 or float64"),
        ({"rng": -1}, ValueError, "BatchNorm: rng is -1, expected at least 0"),
        ({"rng": 2**64}, ValueError, r"BatchNorm: rng is \d*, expected less than 2\*\*64"),
        ({"rng": "0"}, TypeError, "BatchNorm: rng is of type str, expected None, an int"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        bnfast.BatchNorm(**{"num_features": 3, **arguments})


def test_rng_is_kept():
    generator = np.random.default_rng(0)
    for rng in (None, 0, 2**64 - 1, generator):
        assert bnfast.BatchNorm(3, rng=rng).rng is rng


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 2.0],), TypeError, "BatchNorm: x is of type list, expected numpy.ndarray"),
        ((np.ones(3),), ValueError, r"BatchNorm: axis is 1, expected one in \[-1, 1\) for x with"),
        ((np.ones((2, 4)),), ValueError, r"BatchNorm: x has shape \(2, 4\), expected 3 channels"),
        ((np.ones((2, 3), int),), TypeError, "int64"),
        ((np.ones((2, 3)), np.ones((3, 2))), ValueError, r"\(3, 2\)"),
        ((np.ones((2, 3)), None, np.ones(2)), TypeError, "where"),
        ((np.ones((2, 3)), None, np.ones((2, 3), bool)), ValueError, "where"),
        ((np.ones((2, 3)), None, np.ones(5, bool)), ValueError, "where"),
    ],
)
def test_bad_input_changes_nothing(arguments, error, message, training):
    bn = make().train(training)
    before = bn.state_dict()
    with pytest.raises(error, match=message):
        bn(*arguments)
    assert_same_state(bn.state_dict(), before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [5e-324, 1e-160, 1e-25, 1e30, 1e200, np.inf])
def test_no_floating_point_state_stops_a_layer(scale, training):
    results = []
    with np.errstate(all="ignore"):
        x = data() * scale
    for state in ("ignore", "raise"):
        with np.errstate(all=state):
            bn = make(dtype=np.float32).train(training)
            y = bn(x)
            results.append((y.tobytes(), bn.backward(y).dx.tobytes(), bn.running.var.tobytes()))
    assert results[0] == results[1]
