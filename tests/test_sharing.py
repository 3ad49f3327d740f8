"""Objects that threads, forked processes and copies share are updated whole."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
from layers.cases import NORMS, data, make

import bnfast
from bnfast._sharing import LastForward, lock

CHANNELS = 4096


def run_threads(*works, number=8):
    """Run each of the works in `number` threads at once; raise what one of them raised."""
    errors = []
    start = threading.Barrier(number * len(works))

    def run(work, index):
        start.wait()
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(work, i)) for work in works for i in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def in_thread(work):
    results = []
    run_threads(lambda _: results.append(work()), number=1)
    return results[0]


@pytest.mark.parametrize("mode", ["ema", "cumulative", "population"])
def test_updates_of_many_threads_are_whole(mode):
    running = bnfast.RunningStats(CHANNELS, mode=mode, momentum=0.5)
    moments = [
        bnfast.Moments([4] * CHANNELS, np.full(CHANNELS, i + 1.0), np.full(CHANNELS, 3 * (i + 1.0)))
        for i in range(8)
    ]

    def update(index):
        for _ in range(100):
            running.update(moments[index])
            state = running.state_dict()  # a copy of one state: every channel alike
            assert len(np.unique(state["mean"])) == len(np.unique(state["var"])) == 1
            if mode == "ema":
                assert state["mean"][0] <= state["var"][0]

    run_threads(update)
    assert running.num_batches_tracked == 800
    assert np.all(np.isfinite(running.mean)) and np.all(running.var > 0)
    if mode != "ema":
        np.testing.assert_allclose(running.mean, 4.5, rtol=1e-3)


def test_a_layer_that_many_threads_train():
    bn = bnfast.BatchNorm(CHANNELS, momentum=0.5)
    inputs = [np.full((2, CHANNELS), i + 1.0, np.float32) for i in range(8)]
    for x in inputs:
        x[0] += 1

    def train(index):
        x = inputs[index]
        dy = np.full_like(x, index)
        for _ in range(30):
            y = bn(x)
            assert y.shape == x.shape
            assert np.all(bn.backward(dy).dbeta == 2 * index)  # of this thread's own forward

    run_threads(train)
    assert bn.running.num_batches_tracked == 240
    assert np.all((bn.running.mean >= 1) & (bn.running.mean <= 9))
    np.testing.assert_allclose(bn.running.var, 0.5, rtol=1e-4)


def test_loading_is_whole_for_everybody_who_looks():
    bn = bnfast.BatchNorm(CHANNELS, dtype=np.float64).eval()
    keys = ("weight", "bias", "running_mean", "running_var")
    states = [{key: np.full(CHANNELS, value) for key in keys} for value in (1.0, 4.0)]
    bn.load_state_dict(states[0])
    x = np.zeros((1, CHANNELS))
    expected = {value - value * value / np.sqrt(value + 1e-5) for value in (1.0, 4.0)}

    def load(index):
        for i in range(200):
            bn.load_state_dict(states[(i + index) % 2])

    def look(_):
        for _ in range(100):
            state = bn.state_dict()
            assert len({float(value) for key in keys for value in np.unique(state[key])}) == 1
            made = pickle.loads(pickle.dumps(bn.running))
            assert np.array_equal(made.mean, made.var)
            y = np.unique(bn(x))
            assert len(y) == 1 and min(abs(y[0] - value) for value in expected) < 1e-12

    run_threads(load, look, number=2)


# --- the last forward -----------------------------------------------------------------------------

LAYERS = {
    "batch norm": make,
    "batch norm in evaluation": lambda: make().eval(),
    "dropout": lambda: bnfast.Dropout(0.5, rng=0),
    "dropout in evaluation": lambda: bnfast.Dropout(0.5, rng=0).eval(),
    **{name: partial(make, name) for name in NORMS},
}


def bad_input(layer):
    return [1.0] if isinstance(layer, bnfast.Dropout) else np.ones(3)


def dx_of(result):
    return getattr(result, "dx", result)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_is_of_this_threads_own_forward(name):
    layer = LAYERS[name]()
    x, dy = data(), data(2)
    layer(x)
    expected = dx_of(layer.backward(dy))
    in_thread(lambda: layer(data(3)[:2]))  # another shape: its backward would refuse dy
    np.testing.assert_array_equal(dx_of(layer.backward(dy)), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_a_thread_without_a_forward_takes_the_latest(name):
    layer = LAYERS[name]()
    in_thread(lambda: layer(data()))
    layer.backward(data(2))
    layer(data(3)[:2])
    in_thread(lambda: layer.backward(data(2)[:2]))


@pytest.mark.parametrize("name", LAYERS)
def test_a_failed_forward_leaves_its_thread_without(name):
    layer = LAYERS[name]()
    in_thread(lambda: layer(data()))
    with pytest.raises((TypeError, ValueError)):
        layer(bad_input(layer))
    with pytest.raises(RuntimeError, match=r"backward: no forward was run, expected y = \w+\(x\)"):
        layer.backward(data())
    in_thread(lambda: layer.backward(data()))  # the latest of any other thread is still there


@pytest.mark.parametrize("name", LAYERS)
def test_the_former_input_is_free_before_the_next_output(name):
    layer = LAYERS[name]()
    x = data()
    alive = weakref.ref(x)
    layer(x)
    del x
    with pytest.raises((TypeError, ValueError)):
        layer(bad_input(layer))
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
@pytest.mark.parametrize("name", LAYERS)
def test_copies_have_run_no_forward(name, copied):
    layer = LAYERS[name]()
    layer(data())
    made = copied(layer)
    with pytest.raises(RuntimeError, match="no forward was run"):
        made.backward(data())
    made(data(3)[:2])
    layer.backward(data())
    assert type(copied(LastForward())) is LastForward


# --- forks ----------------------------------------------------------------------------------------


def in_child(work):
    """What `work` returns in a forked child; bytes."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, since 3.12
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        return os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        os.waitpid(child, 0)


def test_a_forked_child_finds_whole_objects_and_a_free_lock():
    running = bnfast.RunningStats(CHANNELS, momentum=1.0)
    moments = [
        bnfast.Moments([4] * CHANNELS, np.full(CHANNELS, v), np.full(CHANNELS, 3 * v))
        for v in (1.0, 2.0)
    ]
    running.update(moments[0])
    stop = threading.Event()

    def update():
        while not stop.is_set():
            for some in moments:
                running.update(some)

    def is_free():  # for another thread than the one that forked, which may own it
        free = lock.acquire(timeout=5)
        if free:
            lock.release()
        return free

    def look():
        assert in_thread(is_free)
        whole = np.array_equal(running.mean, running.var) and len(np.unique(running.mean)) == 1
        running.update(moments[0])
        return b"whole" if whole else b"torn"

    thread = threading.Thread(target=update)
    thread.start()
    try:
        for _ in range(15):
            assert in_child(look) == b"whole"
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "layer",
    [bnfast.Dropout(), bnfast.BatchNorm(4, dropout=0.5), bnfast.LayerNorm(4, dropout=0.5)],
    ids=repr,
)
def test_forked_children_draw_masks_of_their_own(layer):
    x = np.random.default_rng(0).normal(size=(64, 4))
    layer(x)
    assert len({in_child(lambda: layer(x).tobytes()) for _ in range(4)}) == 4
