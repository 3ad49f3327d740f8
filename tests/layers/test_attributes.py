"""Setting an attribute of a layer or of running statistics works, or is an AttributeError."""

from __future__ import annotations

import numpy as np
import pytest

import bnfast
from bnfast._moments import Moments
from layers.cases import LAYERS, NORMS, data, make


def test_settings_of_batch_norm_hold_from_the_next_call():
    x = data()
    bn = make()
    bn.axis, bn.eps, bn.activation, bn.eps_placement = -1, 0.5, "relu", "std"
    bn.dropout, bn.rng = np.array(0.25), 3
    same = make(axis=-1, eps=0.5, activation="relu", eps_placement="std", dropout=0.25, rng=3)
    x = np.moveaxis(x, 1, -1).copy()
    for training in (True, False):
        bn.training = same.training = training
        assert bn(x).tobytes() == same(x).tobytes()
    assert (bn.rng, bn.dropout, repr(bn)) == (3, 0.25, repr(same))


@pytest.mark.parametrize("name", NORMS)
def test_settings_of_the_other_norms_hold_from_the_next_call(name):
    layer = make(name)
    layer(data())
    layer.eps, layer.activation, layer.dropout, layer.rng = np.array(0.5), "relu", 0.25, 3
    same = make(name, eps=0.5, activation="relu", dropout=0.25, rng=3)
    for training in (True, False):
        layer.training = same.training = training
        assert layer(data(2)).tobytes() == same(data(2)).tobytes()
    assert (layer.eps, layer.rng, repr(layer)) == (0.5, 3, repr(same))
    if hasattr(layer, "axis"):
        layer.axis -= 4
        assert layer(data(2)).tobytes() == same(data(2)).tobytes()


def test_settings_of_the_running_statistics():
    bn = make(momentum=0.5)
    bn.momentum, bn.correction = 0.0, 0
    assert (bn.momentum, bn.running.momentum, bn.running.correction) == (0.0, 0.0, 0)
    assert bn.running_mode == "ema"
    bn(data())
    np.testing.assert_array_equal(bn.running.mean, 0)
    bn.running.momentum = 1.0
    bn(data())
    assert bn.momentum == 1.0
    np.testing.assert_allclose(bn.running.var, data().var((0, 2, 3)), rtol=1e-12)


def test_settings_of_dropout():
    x = data()
    drop = bnfast.Dropout()
    drop.rate, drop.mode, drop.broadcast_axes, drop.rng = 0.25, "classic", [2, 3], 5
    same = bnfast.Dropout(0.25, mode="classic", broadcast_axes=(2, 3), rng=5)
    assert drop(x).tobytes() == same(x).tobytes()
    assert (repr(drop), drop.broadcast_axes, drop.rng) == (repr(same), (2, 3), 5)
    drop.training = False
    np.testing.assert_array_equal(drop(x), 0.75 * x)


@pytest.mark.parametrize(
    "make_one", [*LAYERS.values(), bnfast.Dropout, lambda: bnfast.RunningStats(3)]
)
def test_misspelt_names_are_refused(make_one):
    one = make_one()
    for name in ("momentun", "epsilon", "p", "Training", "weight"):
        with pytest.raises(AttributeError, match=name):
            setattr(one, name, 1)


def test_a_derived_class_may_have_attributes():
    class Noted(bnfast.Dropout):
        pass

    drop = Noted()
    drop.note = "mine"
    assert drop.note == "mine"
    with pytest.raises(ValueError, match=r"^Noted: rate is 2, expected a number in \[0, 1\]"):
        drop.rate = 2


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("num_features", 4, AttributeError, "num_features cannot be set, make a new one"),
        ("dtype", np.float64, AttributeError, "dtype cannot be set, make a new one"),
        ("running_mode", "cumulative", AttributeError, "running_mode cannot be set, make a new"),
        ("axis", 1.0, TypeError, "axis is of type float, expected an integer"),
        ("eps", -1, ValueError, "eps is -1, expected a number >= 0"),
        ("eps", True, TypeError, "eps is of type bool, expected a number >= 0"),
        ("momentum", 2, ValueError, r"momentum is 2, expected a number in \[0, 1\]"),
        ("momentum", None, TypeError, r"momentum is of type NoneType.*\(running_mode='cumulative'"),
        ("correction", True, ValueError, "correction is True, expected one of 0, 1"),
        ("activation", "swish", ValueError, "activation is 'swish', expected one of None, 'relu'"),
        ("dropout", 1.5, ValueError, r"dropout is 1\.5, expected a number in \[0, 1\]"),
        ("eps_placement", None, ValueError, "eps_placement is None, expected one of 'var', 'std'"),
        ("training", "no", TypeError, "training is of type str, expected a bool"),
        ("rng", 0.5, TypeError, "rng is of type float, expected None, an int"),
        ("running", {}, TypeError, "running is of type dict, expected RunningStats or None"),
        ("running", bnfast.RunningStats(4), ValueError, "running has 4 channels, expected 3"),
        ("gamma", np.ones(4), ValueError, r"gamma has shape \(4,\), expected \(3,\)"),
        ("gamma", 1.0, ValueError, r"gamma has shape \(\), expected \(3,\)"),
        ("gamma", None, TypeError, "gamma is of type NoneType, expected an array"),
        ("beta", np.ones(3, int), TypeError, "beta has dtype int64, expected float32 or float64"),
        ("beta", np.ma.ones(3), TypeError, r"beta is a masked array, expected its \.data"),
        ("dgamma", 0.0, ValueError, r"dgamma has shape \(\), expected \(3,\)"),
        ("dbeta", "0", TypeError, "dbeta has dtype <U1, expected float32 or float64"),
    ],
)
def test_refused_settings_change_nothing(name, value, error, message):
    bn = make()
    before = getattr(bn, name)
    with pytest.raises(error, match=f"^BatchNorm: {message}"):
        setattr(bn, name, value)
    assert getattr(bn, name) is before


@pytest.mark.parametrize(
    ("norm", "name", "value", "error", "message"),
    [
        (
            "LayerNorm",
            "normalized_shape",
            5,
            AttributeError,
            "normalized_shape cannot be set, make",
        ),
        (
            "LayerNorm",
            "gamma",
            np.ones(5),
            ValueError,
            r"gamma has shape \(5,\), expected \(4, 5\)",
        ),
        ("LayerNorm", "gamma", 1.0, ValueError, r"gamma has shape \(\), expected \(4, 5\)"),
        ("LayerNorm", "dbeta", np.ones(20), ValueError, r"dbeta has shape \(20,\), expected \(4, "),
        ("LayerNorm", "activation", 1, ValueError, "activation is 1, expected one of None, 'relu'"),
        ("RMSNorm", "eps", -1, ValueError, "eps is -1, expected a number >= 0"),
        ("RMSNorm", "dtype", np.float64, AttributeError, "dtype cannot be set, make a new one"),
        ("GroupNorm", "axis", 1.0, TypeError, "axis is of type float, expected an integer"),
        ("GroupNorm", "num_groups", 4, AttributeError, "num_groups cannot be set, make a new one"),
        ("GroupNorm", "num_channels", 6, AttributeError, "num_channels cannot be set, make a new"),
        ("InstanceNorm", "num_features", 4, AttributeError, "num_features cannot be set, make a"),
        ("InstanceNorm", "dropout", 1.5, ValueError, r"dropout is 1\.5, expected a number in"),
    ],
)
def test_refused_settings_of_the_other_norms_change_nothing(norm, name, value, error, message):
    layer = make(norm)
    before = getattr(layer, name)
    with pytest.raises(error, match=f"^{norm}: {message}"):
        setattr(layer, name, value)
    assert getattr(layer, name) is before


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_are_always_the_same_arrays(name):
    layer = make(name, dtype=np.float32)
    gamma = layer.gamma
    layer(data(dtype=np.float32))
    layer.backward(data(2, np.float32))
    expected = gamma - 0.5 * layer.dgamma
    layer.gamma -= 0.5 * layer.dgamma
    assert layer.gamma is gamma
    np.testing.assert_array_equal(gamma, expected)
    layer.gamma = layer.gamma[::-1]
    np.testing.assert_array_equal(gamma, expected[::-1])
    listed = np.arange(gamma.size).reshape(gamma.shape).tolist()
    layer.gamma = listed
    assert layer.gamma is gamma and gamma.tolist() == listed
    values = np.full(gamma.shape, 4.0)
    layer.gamma = values
    values[:] = 0
    assert np.all(gamma == 4)


def test_gradients_may_be_clipped_and_forgotten():
    bn = make()
    bn(data())
    bn.backward(data(2))
    bn.dgamma = np.clip(bn.dgamma, -1, 1)
    bn.dbeta *= 0
    assert np.abs(bn.dgamma).max() <= 1 and not bn.dbeta.any()
    bn.dgamma = bn.dbeta = None
    assert bn.dgamma is bn.dbeta is None


def test_what_a_layer_does_not_have_cannot_be_set():
    bn = make(affine=False, track_running_stats=False)
    bn.dgamma = None
    for name in ("gamma", "beta", "dgamma", "dbeta"):
        message = f"^BatchNorm: {name} cannot be set (in a layer )?without"
        with pytest.raises(AttributeError, match=message):
            setattr(bn, name, np.ones(3))
    for name in ("momentum", "correction", "running_mode"):
        with pytest.raises(AttributeError, match=f"^BatchNorm: {name} belongs to running stat"):
            getattr(bn, name)
        if name != "running_mode":
            with pytest.raises(AttributeError, match=f"^BatchNorm: {name} belongs to running"):
                setattr(bn, name, 1)


@pytest.mark.parametrize(
    ("layer", "missing"),
    [
        (make("LayerNorm", affine=False), {"gamma", "beta"}),
        (make("LayerNorm", bias=False), {"beta"}),
        (make("RMSNorm"), {"beta"}),
        (make("GroupNorm", affine=False, bias=True), {"gamma", "beta"}),
        (make("InstanceNorm", bias=False), {"beta"}),
        (bnfast.InstanceNorm(3), {"gamma", "beta"}),
    ],
    ids=repr,
)
def test_parameters_that_a_norm_does_not_have(layer, missing):
    layer(data())
    layer.backward(data(2))
    for name in ("gamma", "beta"):
        value, gradient = getattr(layer, name), getattr(layer, f"d{name}")
        assert (value is None) == (gradient is None) == (name in missing)
        if name in missing:
            with pytest.raises(AttributeError, match=f"{name} cannot be set in a layer without it"):
                setattr(layer, name, np.ones(3))
            with pytest.raises(AttributeError, match=f"d{name} cannot be set without {name}"):
                setattr(layer, f"d{name}", np.ones(3))


def test_running_statistics_may_be_shared_or_dropped():
    bn, other = make(), make()
    other.running = bn.running
    bn(data())
    x = data(2)
    np.testing.assert_array_equal(other.eval()(x), bn.eval()(x))
    bn.running = None
    assert not np.array_equal(other(x), bn(x))  # by the batch's own
    assert "running_mean" not in bn.state_dict()


def test_mean_and_var_are_assigned_in_place():
    running = bnfast.RunningStats(2, momentum=0.5)
    mean, var = running.mean, running.var
    running.mean = np.array([2.0, 4.0])
    running.var = [1, 3]
    running.mean += 1
    running.update(Moments([3, 3], [5.0, 5.0], [6.0, 6.0]))
    assert running.mean is mean and mean.tolist() == [4, 5]
    assert running.var is var and var.tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"^RunningStats: var has -1, expected no negative entry"):
        running.var = [1.0, -1.0]
    with pytest.raises(ValueError, match=r"^RunningStats: mean has shape \(3,\), expected \(2,\)"):
        running.mean = np.zeros(3)
    assert (mean.tolist(), var.tolist()) == ([4, 5], [2, 3])
    for name, value in (("num_features", 3), ("mode", "ema"), ("num_batches_tracked", 0)):
        with pytest.raises(AttributeError, match=f"^RunningStats: {name} cannot be set, make a"):
            setattr(running, name, value)


def test_the_mean_and_var_of_a_population_are_read_only():
    running = bnfast.RunningStats(2, mode="population")
    mean = running.mean
    running.update(Moments([3, 3], [5.0, 5.0], [6.0, 6.0]))
    assert running.mean is mean and mean.tolist() == [5, 5]
    for name in ("mean", "var"):
        with pytest.raises(AttributeError, match=rf"^RunningStats: {name} cannot be set in mode"):
            setattr(running, name, np.zeros(2))
        with pytest.raises(ValueError, match="read-only"):
            getattr(running, name)[:] = 0
    running.reset()
    assert (running.mean.tolist(), running.var.tolist()) == ([0, 0], [1, 1])


def test_attributes_cannot_be_deleted():
    bn, drop = bnfast.BatchNorm(3), bnfast.Dropout()
    for instance, name in ((bn, "gamma"), (bn, "eps"), (bn.running, "mean"), (drop, "rate")):
        with pytest.raises(AttributeError, match=f"{name} cannot be deleted"):
            delattr(instance, name)
