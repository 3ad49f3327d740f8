"""Presets follow the update rule that each system has written down."""

from __future__ import annotations

import numpy as np
import pytest

from bnfast._moments import Moments
from bnfast._presets import PRESETS, preset_arguments
from bnfast._running import RunningStats

# The rules as the systems' documents and sources write them: `m` is what they call momentum.
#   torch     docs of nn.BatchNorm2d: x_new = (1 - momentum) x + momentum x_t; unbiased for running
#   keras     docs of BatchNormalization: moving_mean * momentum + mean(batch) * (1 - momentum)
#   onnx      BatchNormalization-15: input_var * momentum + current_var * (1 - momentum), ReduceVar
#             is the population variance
#   darknet   batchnorm_layer.c, blas.c: scal .99, axpy .01; variance by 1/(n - 1)
#   mxnet     BatchNorm: moving_var * momentum + data_var * (1 - momentum)
RULES = {
    "torch": (0.1, lambda old, new, m: (1 - m) * old + m * new, 1),
    "keras": (0.99, lambda old, new, m: old * m + new * (1 - m), 0),
    "onnx": (0.9, lambda old, new, m: old * m + new * (1 - m), 0),
    "darknet": (0.99, lambda old, new, m: m * old + (1 - m) * new, 1),
    "mxnet": (0.9, lambda old, new, m: old * m + new * (1 - m), 0),
}
DENOMINATORS = {
    "torch": lambda var: np.sqrt(var + 1e-5),
    "keras": lambda var: np.sqrt(var + 1e-3),
    "onnx": lambda var: np.sqrt(var + 1e-5),
    "darknet": lambda var: np.sqrt(var) + 0.000001,
    "mxnet": lambda var: np.sqrt(var + 1e-3),
}
CHANNEL_AXES = {"torch": 1, "keras": -1, "onnx": 1, "darknet": 1, "mxnet": 1}


def batches():
    generator = np.random.default_rng(0)
    return [generator.normal(3, 2, size=(7, 4)) for _ in range(5)]


def test_every_preset_has_a_rule_here():
    assert PRESETS.keys() == RULES.keys() == DENOMINATORS.keys() == CHANNEL_AXES.keys()


@pytest.mark.parametrize("momentum", [None, 0.25])
@pytest.mark.parametrize("name", RULES)
def test_running_statistics_follow_the_rule(name, momentum):
    default, rule, correction = RULES[name]
    overrides = {} if momentum is None else {"momentum": momentum}
    arguments = preset_arguments(name, overrides)
    running = RunningStats(
        4,
        momentum=arguments["momentum"],
        correction=arguments["correction"],
        dtype=np.float64,
    )
    mean, var = np.zeros(4), np.ones(4)
    for x in batches():
        m2 = ((x - x.mean(0)) ** 2).sum(0)
        running.update(Moments([len(x)] * 4, x.mean(0), m2))
        mean = rule(mean, x.mean(0), momentum or default)
        var = rule(var, m2 / (len(x) - correction), momentum or default)
    np.testing.assert_allclose(running.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(running.var, var, rtol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_denominator_and_axis(name):
    arguments = preset_arguments(name, {})
    var = np.array([0.0, 1e-6, 1e-3, 1.0, 100.0])
    eps = arguments["eps"]
    got = np.sqrt(var + eps) if arguments["eps_placement"] == "var" else np.sqrt(var) + eps
    np.testing.assert_array_equal(got, DENOMINATORS[name](var))
    assert arguments["axis"] == CHANNEL_AXES[name]


@pytest.mark.parametrize("name", RULES)
def test_overrides_win(name):
    overrides = {"eps": 0.5, "axis": 2, "correction": 1, "eps_placement": "std", "affine": False}
    assert preset_arguments(name, overrides).items() >= overrides.items()


def test_torch_without_momentum_is_cumulative():
    arguments = preset_arguments("torch", {"momentum": None})
    assert arguments["running_mode"] == "cumulative"
    assert "momentum" not in arguments
    assert preset_arguments("torch", {"momentum": None, "eps": 1.0})["eps"] == 1.0


def test_errors():
    operation = r"^BatchNorm\.from_preset"
    with pytest.raises(ValueError, match=operation + ": name is 'caffe', expected one of"):
        preset_arguments("caffe", {})
    with pytest.raises(ValueError, match=operation + ": name is 3, expected one of"):
        preset_arguments(3, {})
    with pytest.raises(ValueError, match=operation + r": momentum is 1\.5, expected a number in"):
        preset_arguments("keras", {"momentum": 1.5})
    with pytest.raises(TypeError, match=operation + ": momentum is of type NoneType"):
        preset_arguments("keras", {"momentum": None})


@pytest.mark.parametrize("name", RULES)
def test_layer_normalises_as_written(name):
    bnfast = pytest.importorskip("bnfast")
    bn = bnfast.BatchNorm.from_preset(name, 4, dtype=np.float64, momentum=0.5)
    assert bn.running.momentum == 0.5
    _, rule, correction = RULES[name]
    axis = CHANNEL_AXES[name]
    x = np.random.default_rng(1).normal(2, 3, size=(6, 5, 4))
    x[..., 3] *= 1e-4  # where eps shows
    mean, var = x.mean((0, 1)), x.var((0, 1))
    expected = (x - mean) / DENOMINATORS[name](var)
    y = np.moveaxis(bn(np.ascontiguousarray(np.moveaxis(x, -1, axis))), axis, -1)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)

    running_mean = rule(np.zeros(4), mean, 0.5)
    running_var = rule(np.ones(4), x.var((0, 1), ddof=correction), 0.5)
    expected = (x - running_mean) / DENOMINATORS[name](running_var)
    y = np.moveaxis(bn.eval()(np.ascontiguousarray(np.moveaxis(x, -1, axis))), axis, -1)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


def test_unknown_argument():
    bnfast = pytest.importorskip("bnfast")
    with pytest.raises(TypeError, match="epsilon"):
        bnfast.BatchNorm.from_preset("keras", 4, epsilon=1e-3)
