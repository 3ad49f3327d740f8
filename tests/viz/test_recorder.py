"""The recorder: which calls it records, what of them, how much at most, and when no longer."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

import bnfast
import bnfast.viz
from bnfast._sharing import lock
from bnfast.viz.records import QUANTILES
from viz.runs import CHANNELS, NAMES, batch, make_layers, recorded, train


@pytest.mark.parametrize("axis", [1, -1])
def test_a_record_is_what_numpy_says_of_the_call(axis):
    bn = bnfast.BatchNorm(CHANNELS, axis=axis, momentum=0.25, activation="tanh", correction=0)
    bn.gamma, bn.beta = np.linspace(0.5, 2, CHANNELS), np.arange(CHANNELS, dtype=float)
    x = np.moveaxis(batch(3), 1, axis)
    with bnfast.viz.Recorder(bins=10, channels=3).watch(bn) as recorder:
        y = bn(x)
    (record,) = recorder["BatchNorm"]
    assert record.step == 0 and record.picked == [0, 2, 4]
    assert record.input == bnfast.viz.Distribution.of(x, 10)
    assert record.output == bnfast.viz.Distribution.of(y, 10)
    others = tuple(i for i in range(3) if i != axis % 3)
    mean, var = (statistic(x.astype(np.float64), axis=others) for statistic in (np.mean, np.var))
    expected = {
        "batch_mean": mean,
        "batch_var": var,
        "running_mean": 0.25 * mean,  # after the call
        "running_var": 0.75 + 0.25 * var,
        "gamma": bn.gamma,
        "beta": bn.beta,
    }
    assert record.channels.keys() == expected.keys()
    for name, values in expected.items():
        measured = record.channels[name]
        np.testing.assert_allclose(measured.picked, values[::2], rtol=1e-6, err_msg=name)
        quantiles = np.quantile(values, QUANTILES)
        np.testing.assert_allclose(measured.quantiles, quantiles, rtol=1e-6, err_msg=name)


def test_every_nth_training_call_is_recorded():
    layers = make_layers()
    with bnfast.viz.Recorder(every=3).watch(layers) as recorder:
        train(layers, 4)
        for bn in layers.values():
            bn.eval()(batch(0))  # not counted either
            bn.train()
        train(layers, 4)
    assert recorder.layers == NAMES
    for name in NAMES:
        assert [record.step for record in recorder[name]] == [0, 3, 6]
    gamma = [record.channels["gamma"].quantiles[2] for record in recorder["first"]]
    np.testing.assert_allclose(gamma, 1.1 ** np.array([0.0, 3.0, 6.0]), rtol=1e-5)


def test_what_a_layer_does_not_have_is_missing():
    bn = bnfast.BatchNorm(3, affine=False, track_running_stats=False)
    with bnfast.viz.Recorder().watch(bn) as recorder:
        bn(batch(0, (8, 3)))
    assert list(recorder["BatchNorm"][0].channels) == ["batch_mean", "batch_var"]


@pytest.mark.parametrize("shape", [(12, 1), (12, 4), (4,), (12, 1, 4)])
def test_elements_that_do_not_count_are_not_measured(shape):
    where = np.arange(np.prod(shape)).reshape(shape) % 3 > 0
    bn, x = bnfast.BatchNorm(CHANNELS), batch(1)
    with bnfast.viz.Recorder().watch(bn) as recorder:
        y = bn(x, where=where)
    (record,) = recorder["BatchNorm"]
    samples = where if where.ndim == 3 else np.broadcast_to(where, (12, 4))[:, None]
    counted = np.broadcast_to(samples, x.shape)
    assert record.input == bnfast.viz.Distribution.of(x[counted], 40)
    assert record.output == bnfast.viz.Distribution.of(y[counted], 40)
    mean = np.mean(x, axis=(0, 2), where=counted, dtype=np.float64)
    np.testing.assert_allclose(record.channels["batch_mean"].picked, mean, rtol=1e-6)


def test_16_bit_inputs():
    bn, x = bnfast.BatchNorm(CHANNELS), batch(1).astype(ml_dtypes.bfloat16)
    with bnfast.viz.Recorder().watch(bn) as recorder:
        bn(x)
    assert recorder["BatchNorm"][0].input == bnfast.viz.Distribution.of(x, 40)


def test_memory_is_bounded_and_the_whole_training_stays_covered():
    bn = bnfast.BatchNorm(2)
    recorder = bnfast.viz.Recorder(every=3, most_records=7).watch(bn)
    for step in range(200):
        bn(batch(step, (4, 2)))
        steps = [record.step for record in recorder["BatchNorm"]]
        assert len(steps) <= 7
        every = steps[1] if len(steps) > 1 else 3
        assert steps == list(range(0, steps[-1] + 1, every)) and step - steps[-1] < 2 * every
    assert every == 48


def test_large_tensors_are_measured_from_some_of_their_elements():
    bn, x = bnfast.BatchNorm(4), batch(0, (1000, 4))
    random_state = np.random.get_state()[1].tobytes()  # noqa: NPY002 (the global one, left alone)
    with bnfast.viz.Recorder(most_elements=2000).watch(bn) as recorder:
        bn(x)
    (record,) = recorder["BatchNorm"]
    assert record.input.size == record.output.size == sum(record.input.counts) == 2000
    np.testing.assert_allclose(record.input.quantiles, np.quantile(x, QUANTILES), atol=0.3)
    np.testing.assert_allclose(record.channels["batch_mean"].picked, x.mean(axis=0), atol=1e-6)
    assert np.random.get_state()[1].tobytes() == random_state  # noqa: NPY002


def test_recording_changes_no_result():
    layers, watched = make_layers(), make_layers()
    train(layers, 5)
    with bnfast.viz.Recorder(every=1).watch(watched):
        train(watched, 5)
    for name in NAMES:
        for key, array in layers[name].state_dict().items():
            assert array.tobytes() == watched[name].state_dict()[key].tobytes(), key


def test_closing_takes_the_hooks_off_also_after_an_error():
    layers = make_layers()
    recorder = bnfast.viz.Recorder(every=1).watch(layers)
    train(layers, 1)
    with pytest.raises(TypeError), recorder:
        layers["first"](None)
    train(layers, 1)
    recorder.close()
    assert [len(recorder[name]) for name in NAMES] == [1, 1]
    assert not any(bn._hooks for bn in layers.values())


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda recorder: pickle.loads(pickle.dumps(recorder))]
)
def test_a_copy_has_the_records_and_watches_nothing(duplicate):
    layers = make_layers()
    with bnfast.viz.Recorder(every=1).watch(layers) as recorder:
        train(layers, 2)
        copied = duplicate(recorder)
        copied.close()
        train(layers, 1)
    for name in NAMES:
        assert copied[name] == recorder[name][:2] and len(recorder[name]) == 3


def test_copies_of_a_watched_layer_are_not_watched():
    bn = bnfast.BatchNorm(2)
    recorder = bnfast.viz.Recorder(every=1).watch({"bn": bn})
    for copied in (copy.deepcopy(bn), pickle.loads(pickle.dumps(bn))):
        copied(batch(0, (4, 2)))
    assert recorder["bn"] == ()


def test_threads_may_share_a_watched_layer():
    bn = bnfast.BatchNorm(CHANNELS)
    recorder = bnfast.viz.Recorder(every=2).watch({"bn": bn})
    calls = [threading.Thread(target=lambda: [bn(batch(i)) for i in range(20)]) for _ in range(4)]
    for thread in calls:
        thread.start()
    for thread in calls:
        thread.join()
    assert [record.step for record in recorder["bn"]] == list(range(0, 80, 2))


def test_running_mean_and_variance_are_of_the_same_update():
    bn, x = bnfast.BatchNorm(CHANNELS), batch(0)
    recorder = bnfast.viz.Recorder(channels=1).watch({"bn": bn})
    (handle,) = bn._hooks
    measuring = threading.Thread(target=handle.hook, args=(bn, (x, None, None), x))
    with lock:  # another thread is in the middle of an update
        bn.running.mean[:] = 7
        measuring.start()
        measuring.join(timeout=0.2)
        bn.running.var[:] = 8
    measuring.join()
    channels = recorder["bn"][0].channels
    assert [channels[name].picked for name in ("running_mean", "running_var")] == [[7], [8]]


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (3, TypeError, "layers is of type int, expected a BatchNorm, a PyTorch module, or"),
        ({"norm": bnfast.LayerNorm(3)}, TypeError, "norm is of type LayerNorm, expected a"),
        ([bnfast.BatchNorm(3)], TypeError, "layers is of type list, expected a"),
        ({}, ValueError, "layers is empty, expected at least one batch norm"),
        ({"first": bnfast.BatchNorm(3)}, ValueError, "the name 'first' is taken"),
    ],
)
def test_what_cannot_be_watched(layers, error, message):
    bn = bnfast.BatchNorm(3)
    recorder = bnfast.viz.Recorder().watch({"first": bn})
    with pytest.raises(error, match=f"^Recorder.watch: {message}"):
        recorder.watch(layers)
    assert recorder.layers == ("first",)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "every is 0, expected at least 1"),
        ({"bins": 2.0}, TypeError, "bins is of type float, expected an integer"),
        ({"channels": -1}, ValueError, "channels is -1, expected at least 0"),
        ({"most_records": 1}, ValueError, "most_records is 1, expected at least 2"),
        ({"most_elements": 0}, ValueError, "most_elements is 0, expected at least 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^Recorder: {message}"):
        bnfast.viz.Recorder(**arguments)


def test_what_was_not_recorded_cannot_be_shown(tmp_path):
    recorder = bnfast.viz.Recorder().watch(make_layers())
    with pytest.raises(ValueError, match=r"^Recorder\.save_page: no training call was recorded"):
        recorder.save_page(tmp_path / "page.html")
    with pytest.raises(KeyError, match="layer is 'third', expected one of 'first', 'second'"):
        recorder.plot("third")
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no training call of 'first' was recorded"):
        recorder.plot("first")


def test_a_figure_shows_the_recorded_numbers():
    pytest.importorskip("matplotlib")
    recorder = recorded()
    figure = recorder.plot("second")
    titles = ["Input", "Mean", "gamma", "Output", "Variance", "beta"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert all(axes.get_ylabel() for axes in figure.axes)
    steps = [record.step for record in recorder["second"]]
    medians = [record.input.quantiles[2] for record in recorder["second"]]
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), np.transpose([steps, medians]))
    batch_line, running_line = figure.axes[4].lines
    for line, name in ((batch_line, "batch_var"), (running_line, "running_var")):
        expected = [record.channels[name].quantiles[2] for record in recorder["second"]]
        np.testing.assert_array_equal(line.get_ydata(), expected)


def test_a_figure_of_one_channel():
    pytest.importorskip("matplotlib")
    recorder = recorded(channels=3)
    axes = recorder.plot("second", channel=4).axes[1]
    for line, name in zip(axes.lines, ("batch_mean", "running_mean"), strict=True):
        expected = [record.channels[name].picked[2] for record in recorder["second"]]
        np.testing.assert_array_equal(line.get_ydata(), expected)
    assert not axes.collections
    with pytest.raises(ValueError, match=r"^Recorder\.plot: channel is 1, expected one of 0, 2, 4"):
        recorder.plot("second", channel=1)


def test_a_figure_of_a_layer_without_parameters():
    pytest.importorskip("matplotlib")
    bn = bnfast.BatchNorm(3, affine=False, track_running_stats=False)
    with bnfast.viz.Recorder().watch(bn) as recorder:
        bn(batch(0, (8, 3)))
    figure = recorder.plot("BatchNorm")
    assert [text.get_text() for text in figure.axes[2].texts] == ["the layer has none"]
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 0, 1, 1, 0]


def test_bnfast_imports_no_plots_and_viz_no_framework():
    code = "import sys, bnfast; assert 'bnfast.viz' not in sys.modules; import bnfast.viz;"
    code += "print(*{'matplotlib', 'torch', 'jax'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
