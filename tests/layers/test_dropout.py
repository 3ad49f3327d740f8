"""Dropout layers draw a mask for each call from their seed, and drop nothing in evaluation."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from cases import numbers

import bnfast


@pytest.mark.parametrize("mode", ["inverted", "classic", "alpha"])
@pytest.mark.parametrize("axes", [(), (2, 3)])
def test_training_is_dropout_and_its_gradient(mode, axes):
    x, dy = numbers((6, 5, 7, 9)), numbers((6, 5, 7, 9), seed=1)
    drop = bnfast.Dropout(0.4, mode=mode, broadcast_axes=axes, rng=3)
    generator = np.random.default_rng(3)
    for _ in range(3):  # a new mask each time, in the order of the generator
        y = drop(x)
        want, ctx = bnfast.dropout(x, 0.4, seed=generator, mode=mode, broadcast_axes=axes)
        assert y.tobytes() == want.tobytes()
        assert drop.backward(dy).tobytes() == bnfast.dropout_backward(dy, ctx).tobytes()
        assert (
            drop.backward(dy).tobytes() == bnfast.dropout_backward(dy, ctx).tobytes()
        )  # repeatable


def test_evaluation_drops_nothing():
    x, dy = numbers((6, 50)), numbers((6, 50), seed=1)
    for mode in ("inverted", "alpha", "classic"):
        drop = bnfast.Dropout(0.4, mode=mode, rng=3)
        assert drop.training and drop.eval() is drop and not drop.training
        factor = np.float32(0.6 if mode == "classic" else 1)
        y = drop(x)
        assert y is not x
        np.testing.assert_array_equal(y, x * factor)
        np.testing.assert_array_equal(drop.backward(dy), dy * factor)
        assert drop.train() is drop and drop.training and not drop.train(False).training
        first = drop.train()(x)  # evaluation has drawn nothing
        np.testing.assert_array_equal(first, bnfast.Dropout(0.4, mode=mode, rng=3)(x))


def test_where_seeds_come_from():
    x = np.ones(200, np.float32)

    def masks(drop, n=4):
        return np.array([drop(x) for _ in range(n)])

    assert np.array_equal(masks(bnfast.Dropout(rng=7)), masks(bnfast.Dropout(rng=7)))
    assert not np.array_equal(masks(bnfast.Dropout(rng=7)), masks(bnfast.Dropout(rng=8)))
    assert not np.array_equal(masks(bnfast.Dropout()), masks(bnfast.Dropout()))
    made = masks(bnfast.Dropout(rng=2**64 - 1), 6)
    assert len({mask.tobytes() for mask in made}) == 6

    shared = np.random.default_rng(7)
    first, second = bnfast.Dropout(rng=shared), bnfast.Dropout(rng=shared)
    taken = [first(x), second(x), first(x), second(x)]
    np.testing.assert_array_equal(taken, masks(bnfast.Dropout(rng=7)))


def test_training_resumes_from_a_copy():
    x = np.ones(100, np.float32)
    drop = bnfast.Dropout(0.3, mode="alpha", rng=1)
    drop(x)
    for made in (copy.deepcopy(drop), pickle.loads(pickle.dumps(drop))):
        with pytest.raises(RuntimeError, match="no forward was run"):
            made.backward(x)
        through = copy.deepcopy(drop)
        for _ in range(3):
            assert made(x).tobytes() == through(x).tobytes()


def test_copies_without_a_given_seed_draw_masks_of_their_own():
    x = numbers((60, 4))
    layers = bnfast.BatchNorm(4, dropout=0.5), bnfast.LayerNorm(4, dropout=0.5)
    for layer in (bnfast.Dropout(), *layers):
        copies = [copy.copy(layer), copy.deepcopy(layer), copy.deepcopy(layer)]
        copies += [pickle.loads(pickle.dumps(layer)) for _ in range(2)]
        assert len({made(x).tobytes() for made in (layer, *copies)}) == 6
        layer.rng = 3
        copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
        assert len({made(x).tobytes() for made in (layer, *copies)}) == 1


def test_backward_needs_a_forward_and_its_shape():
    drop = bnfast.Dropout(0.5, rng=0)
    message = r"^Dropout\.backward: no forward was run, expected y = drop\(x\) before drop.backward"
    with pytest.raises(RuntimeError, match=message):
        drop.backward(numbers((3, 4)))
    for training, name in ((True, "dropout_backward"), (False, "dropout_inference_backward")):
        drop.train(training)(numbers((3, 4)))
        with pytest.raises(
            ValueError, match=rf"^{name}: dy has shape \(4, 3\), expected \(3, 4\) as x"
        ):
            drop.backward(numbers((4, 3)))
        with pytest.raises(TypeError, match="expected a NumPy or DLPack array"):
            drop([1.0])
        with pytest.raises(RuntimeError, match=message):
            drop.backward(numbers((3, 4)))  # not that of the forward before the one that failed


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": 1.5}, ValueError, r"Dropout: rate is 1.5, expected a number in \[0, 1\]"),
        ({"rate": "a"}, TypeError, "Dropout: rate is of type str, expected a number"),
        ({"mode": "x"}, ValueError, "Dropout: mode is 'x', expected one of 'inverted', "),
        ({"broadcast_axes": 1}, TypeError, "Dropout: broadcast_axes is 1, expected a tuple of int"),
        ({"rng": -1}, ValueError, "Dropout: rng is -1, expected at least 0"),
        ({"rng": 2**64}, ValueError, r"Dropout: rng is \d*, expected less than 2\*\*64"),
        ({"rng": 0.0}, TypeError, "Dropout: rng is of type float, expected None, an int"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        bnfast.Dropout(**arguments)


def test_repr():
    assert repr(bnfast.Dropout(0.25)) == "Dropout(0.25, mode='inverted')"
    shown = repr(bnfast.Dropout(mode="alpha", broadcast_axes=(2, 3)))
    assert shown == "Dropout(0.5, mode='alpha', broadcast_axes=(2, 3))"


# --- the dropout of BatchNorm ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("training", [True, False])
def test_dropout_of_the_batch_norm_layer(training, rate):
    x, dy = numbers((60, 4)), numbers((60, 4), seed=1)
    bn = bnfast.BatchNorm(4, activation="relu", dropout=rate, rng=6).train(training)
    plain = bnfast.BatchNorm(4, activation="relu").train(training)
    drop = bnfast.Dropout(rate, rng=6).train(training)
    for _ in range(3):
        assert bn(x).tobytes() == drop(plain(x)).tobytes()
        dx = plain.backward(drop.backward(dy)).dx
        grads = bn.backward(dy)
        assert grads.dx.tobytes() == dx.tobytes()
        assert bn.dgamma.tobytes() == plain.dgamma.tobytes()
        assert bn.dbeta.tobytes() == plain.dbeta.tobytes()
    for key, array in bn.state_dict().items():
        assert array.tobytes() == plain.state_dict()[key].tobytes()


def test_the_batch_norm_layer_without_running_statistics_drops_in_training_only():
    x = numbers((60, 4))
    bn = bnfast.BatchNorm(4, dropout=0.5, track_running_stats=False, rng=6)
    assert 60 < np.sum(bn(x) == 0) < 180
    assert not np.any(bn.eval()(x) == 0)


def test_random_state_of_the_batch_norm_layer():
    x = numbers((60, 4))
    masks = [
        [bn(x).tobytes() for _ in range(3)]
        for bn in (bnfast.BatchNorm(4, dropout=0.5, rng=6) for _ in range(2))
    ]
    assert masks[0] == masks[1] and len(set(masks[0])) == 3
    assert (
        bnfast.BatchNorm(4, dropout=0.5)(x).tobytes()
        != bnfast.BatchNorm(4, dropout=0.5)(x).tobytes()
    )
    generator = np.random.default_rng(6)
    bn = bnfast.BatchNorm(4, dropout=0.5, rng=generator)
    assert [bn(x).tobytes() for _ in range(3)] == masks[0]
    resumed = bnfast.BatchNorm(4, dropout=0.5, rng=6)
    resumed(x)
    resumed = pickle.loads(pickle.dumps(resumed))
    assert [resumed(x).tobytes() for _ in range(2)] == masks[0][1:]
    with pytest.raises(
        ValueError, match=r"^BatchNorm: dropout is 1.5, expected a number in \[0, 1\]"
    ):
        bnfast.BatchNorm(4, dropout=1.5)
