"""Running statistics follow the formula of their mode, and resume bit for bit."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfast._moments import Moments
from bnfast._running import RunningStats

MODES = ["ema", "cumulative", "population"]
DTYPES = [np.float32, np.float64]


def moments_of(x):
    """Moments of x of shape (elements, channels), in plain NumPy."""
    x = np.asarray(x, np.float64)
    mean = x.mean(0) if len(x) else np.zeros(x.shape[1])
    return Moments([len(x)] * x.shape[1], mean, ((x - mean) ** 2).sum(0))


def batches(number=6, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    return [
        generator.normal(3, 2, size=(generator.integers(2, 9), channels)) for _ in range(number)
    ]


def run(data, **arguments):
    running = RunningStats(data[0].shape[1], **arguments)
    for x in data:
        running.update(moments_of(x))
    return running


def assert_same(a, b):
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    for key, array in left.items():
        assert array.dtype == right[key].dtype
        assert array.tobytes() == right[key].tobytes(), key


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.75, 1.0])
def test_ema(momentum, correction, dtype):
    data = batches()
    running = run(data, momentum=momentum, correction=correction, dtype=dtype)
    mean, var = np.zeros(3), np.ones(3)
    for x in data:
        mean = (1 - momentum) * mean + momentum * x.mean(0)
        var = (1 - momentum) * var + momentum * x.var(0, ddof=correction)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(running.mean, mean, rtol=tolerance)
    np.testing.assert_allclose(running.var, var, rtol=tolerance)
    assert running.num_batches_tracked == len(data)
    assert running.mean.dtype == running.var.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("correction", [0, 1])
def test_cumulative(correction, dtype):
    data = batches(20)
    running = run(data, mode="cumulative", correction=correction, dtype=dtype)
    tolerance = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(running.mean, np.mean([x.mean(0) for x in data], 0), rtol=tolerance)
    var = np.mean([x.var(0, ddof=correction) for x in data], 0)
    np.testing.assert_allclose(running.var, var, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("correction", [0, 1])
def test_population(correction, dtype):
    data = batches(20)
    running = run(data, mode="population", correction=correction, dtype=dtype)
    whole = np.concatenate(data)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(running.mean, whole.mean(0), rtol=tolerance)
    np.testing.assert_allclose(running.var, whole.var(0, ddof=correction), rtol=tolerance)


def test_population_takes_single_elements():
    x = np.random.default_rng(0).normal(size=(50, 2))
    running = RunningStats(2, mode="population", dtype=np.float64)
    running.update(moments_of(x[:1]))
    np.testing.assert_array_equal(running.mean, x[0])
    np.testing.assert_array_equal(running.var, [1, 1])  # one element has no unbiased variance
    for row in x[1:]:
        running.update(moments_of(row[None]))
    np.testing.assert_allclose(running.var, x.var(0, ddof=1), rtol=1e-14)


def test_population_of_far_means_does_not_drift():
    """A thousand merges at mean / std = 1e8, kept as exact as one computation on everything."""
    x = 1e8 + np.random.default_rng(1).normal(size=(1000, 4, 1))
    running = RunningStats(1, mode="population", dtype=np.float64)
    for part in x:
        near = moments_of(part - 1e8)  # the subtraction is exact
        mean = near.mean + 1e8
        running.update(Moments(near.count, mean, near.m2, near.mean - (mean - 1e8)))
    flat = (x - 1e8).ravel()
    np.testing.assert_allclose(running.var, flat.var(ddof=1), rtol=1e-13)
    state = running.state_dict()
    assert abs(state["mean"] - 1e8 + state["mean_low"] - flat.mean()) < 1e-14


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_bad_channels_are_left_alone(mode, dtype):
    nan, inf = np.nan, np.inf
    good = Moments([4] * 6, np.arange(6.0), np.arange(6.0) + 1)
    running = RunningStats(6, mode=mode, dtype=dtype)
    running.update(good)
    mean, var = running.mean.copy(), running.var.copy()
    count = [0, 1 if mode != "population" else 0, 4, 4, 4, 4]
    running.update(Moments(count, [nan, 9, inf, nan, 9, 9], [nan, 0, nan, 1, inf, 9]))
    np.testing.assert_array_equal(running.mean[:5], mean[:5])
    np.testing.assert_array_equal(running.var[:5], var[:5])
    assert running.mean[5] != mean[5]
    assert running.var[5] != var[5]
    assert running.num_batches_tracked == 2


@pytest.mark.filterwarnings("error")
def test_nothing_good_leaves_the_start_values():
    for mode in MODES:
        running = RunningStats(2, mode=mode)
        running.update(Moments.empty(2))
        np.testing.assert_array_equal(running.mean, [0, 0])
        np.testing.assert_array_equal(running.var, [1, 1])


@pytest.mark.filterwarnings("error")
def test_one_element_counts_with_correction_0():
    running = RunningStats(1, momentum=0.5, correction=0)
    running.update(Moments([1], [4.0], [0.0]))
    assert (running.mean[0], running.var[0]) == (2.0, 0.5)


@pytest.mark.filterwarnings("error")
def test_a_variance_beyond_float32_is_not_finite_in_float32():
    big = Moments([2], [1e20], [1e40])
    for dtype, expected in ((np.float32, 1.0), (np.float64, 1e40)):
        running = RunningStats(1, momentum=1, dtype=dtype)
        running.update(big)
        assert running.var[0] == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=12), st.data())
def test_cumulative_weighs_by_the_batches_that_a_channel_took(taken, data):
    """Any pattern of channels left out, cut by a save and a load anywhere."""
    generator = np.random.default_rng(len(taken))
    running = RunningStats(3, mode="cumulative", dtype=np.float64)
    cut = data.draw(st.integers(0, len(taken)))
    kept = [[], [], []]
    for step, mask in enumerate(taken):
        if step == cut:
            resumed = RunningStats(3, mode="cumulative", dtype=np.float64)
            resumed.load_state_dict(running.state_dict())
            running = resumed
        x = generator.normal(size=(5, 3))
        for channel in range(3):
            if mask[channel]:
                kept[channel].append(x[:, channel])
            else:
                x[2, channel] = np.nan
        running.update(moments_of(x))
    for channel, seen in enumerate(kept):
        mean = np.mean([x.mean() for x in seen]) if seen else 0
        var = np.mean([x.var(ddof=1) for x in seen]) if seen else 1
        np.testing.assert_allclose(running.mean[channel], mean, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(running.var[channel], var, rtol=1e-12)
    assert ("missed" in running.state_dict()) == (not np.all(taken))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_resuming_is_bit_for_bit(mode, dtype):
    data = batches(10)
    data[2][0, 1] = np.nan  # one channel misses a batch
    through = run(data, mode=mode, dtype=dtype)
    saved = run(data[:5], mode=mode, dtype=dtype)
    loaded = RunningStats(3, mode=mode, dtype=dtype)
    loaded.load_state_dict(saved.state_dict())
    for resumed in (loaded, pickle.loads(pickle.dumps(saved)), copy.deepcopy(saved)):
        assert_same(resumed, saved)
        assert repr(resumed) == repr(saved)
        for x in data[5:]:
            resumed.update(moments_of(x))
        assert_same(resumed, through)
    assert saved.num_batches_tracked == 5  # the copies are copies


def test_state_keys():
    always = {"mean", "var", "num_batches_tracked"}
    assert run(batches()).state_dict().keys() == always
    assert run(batches(), mode="cumulative").state_dict().keys() == always
    state = run(batches(), mode="population").state_dict()
    assert state.keys() == always | {"count", "m2", "mean_low"}
    assert state["mean"].dtype == state["m2"].dtype == np.float64
    assert state["num_batches_tracked"].dtype == state["count"].dtype == np.int64
    assert state["num_batches_tracked"].shape == ()


def test_state_is_a_copy_and_arrays_keep_their_identity():
    running = run(batches())
    mean, var = running.mean, running.var
    state = running.state_dict()
    running.update(moments_of(batches()[0]))
    assert np.any(state["mean"] != mean)
    running.load_state_dict(state)
    assert running.mean is mean
    assert running.var is var
    np.testing.assert_array_equal(mean, state["mean"])
    state["mean"][:] = 99
    assert np.all(mean != 99)
    running.reset()
    assert running.mean is mean
    assert (mean.tolist(), var.tolist()) == ([0] * 3, [1] * 3)
    assert running.num_batches_tracked == 0


@pytest.mark.parametrize("mode", MODES)
def test_reset_forgets_everything(mode):
    running = run(batches(seed=1), mode=mode)
    running.reset()
    for x in batches():
        running.update(moments_of(x))
    assert_same(running, run(batches(), mode=mode))


@pytest.mark.parametrize(
    ("mode", "key", "value", "error", "message"),
    [
        ("ema", "mean", np.zeros(2), ValueError, r"mean has shape \(2,\), expected \(3,\)"),
        ("ema", "var", np.zeros((3, 1)), ValueError, r"var has shape \(3, 1\), expected \(3,\)"),
        ("ema", "var", [1.0, -2.0, 0.0], ValueError, "var has -2, expected no negative entry"),
        ("ema", "var", np.zeros(3, int), TypeError, "var has dtype int64, expected"),
        ("cumulative", "num_batches_tracked", -1, ValueError, "tracked is -1, expected at least 0"),
        ("cumulative", "num_batches_tracked", 1.5, TypeError, "tracked is of type float"),
        ("cumulative", "num_batches_tracked", [1, 2], ValueError, r"tracked has shape \(2,\)"),
        ("population", "count", [1, 2], ValueError, r"count has shape \(2,\), expected \(3,\)"),
        ("population", "m2", [1.0, 1.0, -1.0], ValueError, "m2 has -1, expected no negative entry"),
        ("cumulative", "missed", [99, 0, 0], ValueError, "missed has 99, expected at most"),
        (
            "ema",
            "momentum",
            0.1,
            ValueError,
            r"state has the unknown keys \['momentum'\], expected",
        ),
        ("ema", "var", None, ValueError, r"state lacks the keys \['var'\], expected"),
    ],
)
def test_a_bad_state_changes_nothing(mode, key, value, error, message):
    running = run(batches(), mode=mode)
    before = copy.deepcopy(running)
    state = run(batches(seed=1), mode=mode).state_dict()
    state[key] = value
    if value is None:
        del state[key]
    with pytest.raises(error, match=message):
        running.load_state_dict(state)
    assert_same(running, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_features": 0}, ValueError, "num_features is 0, expected at least 1"),
        ({"num_features": 2.0}, TypeError, "num_features is of type float, expected an integer"),
        ({"momentum": 1.5}, ValueError, r"momentum is 1\.5, expected a number in \[0, 1\]"),
        ({"momentum": -0.1}, ValueError, r"momentum is -0\.1, expected a number in \[0, 1\]"),
        ({"momentum": float("nan")}, ValueError, "momentum is nan, expected a number"),
        (
            {"momentum": None},
            TypeError,
            r"momentum is of type NoneType, expected a number in \[0, 1\] \(mode='cumulative'",
        ),
        ({"mode": "mean"}, ValueError, "mode is 'mean', expected one of"),
        ({"correction": 2}, ValueError, "correction is 2, expected one of 0, 1"),
        ({"correction": 0.5}, ValueError, r"correction is 0\.5, expected one of 0, 1"),
        ({"dtype": np.float16}, TypeError, "dtype is .*float16.*, expected float32 or float64"),
        ({"dtype": "banana"}, TypeError, "dtype is 'banana', expected float32 or float64"),
        ({"dtype": None}, TypeError, "dtype is None, expected float32 or float64"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^RunningStats: {message}"):
        RunningStats(**{"num_features": 3, **arguments})


def test_bad_moments_change_nothing():
    running = run(batches())
    before = copy.deepcopy(running)
    with pytest.raises(ValueError, match=r"RunningStats\.update: moments has 2 channels, expected"):
        running.update(Moments.empty(2))
    with pytest.raises(TypeError, match=r"RunningStats\.update: moments is of type ndarray, expec"):
        running.update(np.zeros(3))
    assert_same(running, before)


@pytest.mark.parametrize("value", [5e-324, 1e-200, 1e-40, 1e40, 1e300, np.inf, np.nan])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_no_floating_point_state_stops_an_update(mode, dtype, value):
    made = []
    for state in ("ignore", "raise"):
        with np.errstate(all=state):
            running = RunningStats(2, mode=mode, dtype=dtype, momentum=1e-5)
            for mean in (value, -value, 3.0):
                running.update(Moments([3, 4], [mean, 1.0], [value, 2.0], [value, 0.0]))
            running.load_state_dict(running.state_dict())
            made.append(pickle.loads(pickle.dumps(copy.deepcopy(running))))
    assert_same(*made)
    assert made[0].num_batches_tracked == 3


@pytest.mark.parametrize("mode", MODES)
def test_an_update_that_fails_changes_nothing(mode, monkeypatch):
    running = run(batches(), mode=mode)
    before = copy.deepcopy(running)
    moments = moments_of(batches(seed=2)[0] * [1, np.nan, 1])
    monkeypatch.setattr("numpy.copyto", failing_copy(running._values))
    with pytest.raises(MemoryError):
        running.update(moments)
    monkeypatch.undo()
    assert_same(running, before)


def failing_copy(target):
    """numpy.copyto that fails where the result would be stored."""
    copyto = np.copyto

    def fail(into, *arguments, **keywords):
        if into is target:
            raise MemoryError
        copyto(into, *arguments, **keywords)

    return fail


def test_a_state_without_a_count_of_batches():
    running = run(batches())
    running.load_state_dict({"mean": [1.0, 2.0, 3.0], "var": np.ones(3, np.float16)})
    assert running.num_batches_tracked == 0 and running.mean.tolist() == [1, 2, 3]
    for state in (None, [("mean", 1)]):
        with pytest.raises(
            TypeError, match=r"^RunningStats\.load_state_dict: state is of type \w+"
        ):
            running.load_state_dict(state)


def test_population_leaves_out_what_float64_cannot_hold():
    running = RunningStats(1, mode="population", dtype="f8")
    for value in (-1.7e308, 1.7e308, -1.7e308):
        running.update(Moments([4], [value], [0.0]))
    assert running.mean[0] == -1.7e308 and running.var[0] == 0
    assert running.num_batches_tracked == 3
