"""The Dropout layer, BatchNorm's dropout, and both in one pass against separate calls."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import philox_reference as reference
import pytest
from cases import ACTIVATIONS, DTYPES, as_view

import bnfast

SHAPES = [
    *(((6, 5, 7, 9), 1), ((33, 40), 1), ((4, 3, 1500), 1), ((300, 17), -1), ((2, 9, 9, 30), 3)),
    *(((530, 3), 1), ((30, 500, 3), 1), ((600, 4, 5, 5), 1)),  # short planes, narrow rows
    ((3000, 40), -1),  # several blocks, several threads
]


def numbers(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 2, shape).astype(dtype)


# --- the layer ------------------------------------------------------------------------------------


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
    for layer in (bnfast.Dropout(), bnfast.BatchNorm(4, dropout=0.5)):
        copies = [copy.copy(layer), copy.deepcopy(layer), copy.deepcopy(layer)]
        copies += [pickle.loads(pickle.dumps(layer)) for _ in range(2)]
        assert len({(made(x) == 0).tobytes() for made in (layer, *copies)}) == 6
        layer.rng = 3
        copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
        assert len({(made(x) == 0).tobytes() for made in (layer, *copies)}) == 1


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
        with pytest.raises(TypeError, match="expected a NumPy array"):
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


# --- batch norm and dropout in one pass -----------------------------------------------------------


def assert_fused_is_separate(x, dy, rate, *, exact=True, **arguments):
    """The fused call against batch_norm, then dropout: forward and backward."""
    seed, offset = 2**63 + 5, 2**40 + 1
    channels = x.shape[arguments["axis"]]
    gamma, beta = np.random.default_rng(2).normal(1, 0.3, (2, channels))
    y, ctx = bnfast.batch_norm(x, gamma, beta, dropout=rate, seed=seed, offset=offset, **arguments)
    grads = bnfast.batch_norm_backward(dy, ctx)

    before, plain = bnfast.batch_norm(x, gamma, beta, **arguments)
    after, dropped = bnfast.dropout(before, rate, seed=seed, offset=offset)
    between = bnfast.dropout_backward(dy, dropped)
    want = bnfast.batch_norm_backward(between, plain)
    assert (ctx.seed, ctx.offset) == (seed, offset)
    assert ctx.moments == plain.moments

    def same(a, b):
        if exact:
            assert a.tobytes() == b.tobytes()
        else:  # the separate calls round to 16 bits in between
            a, b = a.astype(np.float64), b.astype(np.float64)
            np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02 * max(1.0, np.abs(b).max()))

    same(y, after)
    for got, wanted in zip(grads, want, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None:
            same(got, wanted)
    if 0 < rate < 1 and y.size > 1000 and "where" not in arguments:
        mask = reference.dropout_mask(x.shape, rate, seed=seed, offset=offset)
        assert np.all(y[~mask] == 0) and np.any(y[mask] != 0)
        if not mask.all():  # x there still moves mean and var
            assert np.any(grads.dx[~mask] != 0)
        assert grads.dresidual is None or np.all(grads.dresidual[~mask] == 0)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_fused_equals_separate_calls(shape, axis, dtype, activation, with_residual):
    x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
    residual = numbers(shape, dtype, 2) if with_residual else None
    exact = np.dtype(dtype).itemsize > 2
    assert_fused_is_separate(
        x, dy, 0.3, exact=exact, axis=axis, activation=activation, residual=residual
    )


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_fused_at_every_rate(shape, axis, dtype, rate, target):
    x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
    assert_fused_is_separate(x, dy, rate, axis=axis, activation="relu")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_fused_with_where(shape, axis, dtype):
    """What `where` leaves out is 0 and takes no part, whatever the mask says."""
    where = (
        np.random.default_rng(5).random(
            [1 if d == axis % len(shape) else n for d, n in enumerate(shape)]
        )
        < 0.7
    )
    x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
    assert_fused_is_separate(x, dy, 0.4, axis=axis, activation="silu", where=where)


@pytest.mark.parametrize("view", ["strided", "negative", "unaligned"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_fused_on_views(shape, axis, dtype, view):
    x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
    assert_fused_is_separate(as_view(x, view), dy, 0.5, axis=axis, activation="tanh")
    assert_fused_is_separate(x, as_view(dy, view), 0.5, axis=axis, activation="tanh")


@pytest.mark.parametrize("view", ["F", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_fused_mask_goes_by_logical_index(shape, axis, dtype, view):
    """Whatever the order of x in memory, element i is the i-th in C order of the shape."""
    x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
    arguments = {"axis": axis, "dropout": 0.5, "seed": 3, "offset": 1}
    y, ctx = bnfast.batch_norm(x, **arguments)
    grads = bnfast.batch_norm_backward(dy, ctx)
    got, ctx = bnfast.batch_norm(as_view(x, view), **arguments)
    other = bnfast.batch_norm_backward(as_view(dy, view), ctx)
    mask = bnfast.dropout_mask(shape, 0.5, seed=3, offset=1)
    np.testing.assert_array_equal(got[~mask], 0)
    assert np.count_nonzero(got) > 0.99 * mask.sum()
    rounding = {"rtol": 0.02, "atol": 0.02} if y.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-5}
    for a, b in ((got, y), (other.dx, grads.dx)):
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), **rounding)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", ["channels_last", "F", "strided"])
def test_another_layout_has_the_statistics_and_mask_of_its_own(view, dtype):
    x = as_view(numbers((6, 8, 5, 7), dtype), view)
    y, ctx = bnfast.batch_norm(x, dropout=0.5, seed=1)
    assert ctx.moments == bnfast.moments(x)
    if dtype.itemsize > 2:
        plain, _ = bnfast.batch_norm(x)
        assert np.array_equal(y, bnfast.dropout(plain, 0.5, seed=1)[0])


@pytest.mark.parametrize(
    ("shape", "axis"), [((8, 24, 41, 41), 1), ((2, 3, 60001), 1), ((30011, 16), 1)]
)
def test_fused_on_large_arrays_for_any_threads_and_target(shape, axis):
    x, dy = numbers(shape), numbers(shape, seed=1)
    seen = set()
    for target in bnfast.targets():
        for threads in (1, 2, 3):
            with bnfast.use_target(target), bnfast.num_threads(threads):
                y, ctx = bnfast.batch_norm(x, axis=axis, activation="relu", dropout=0.2, seed=4)
                grads = bnfast.batch_norm_backward(dy, ctx)
                sums = bnfast.batch_norm_backward_sums(dy, ctx)
                seen.add(y.tobytes() + grads.dx.tobytes() + sums.to_bytes())
    assert len(seen) == 1
    assert_fused_is_separate(x, dy, 0.2, axis=axis, activation="relu")


def test_sums_of_a_synchronised_batch_know_the_mask():
    x, dy = numbers((64, 5), np.float64), numbers((64, 5), np.float64, 1)
    whole, ctx = bnfast.batch_norm(x, dropout=0.5, seed=1)
    want = bnfast.batch_norm_backward(dy, ctx)
    sums = bnfast.batch_norm_backward_sums(dy, ctx)
    kept = np.where(whole != 0, 2 * dy, 0)
    np.testing.assert_allclose(sums.sum_dy, kept.sum(0), rtol=1e-12)
    np.testing.assert_array_equal(bnfast.batch_norm_backward(dy, ctx, sums=sums).dx, want.dx)


def test_seeds_of_the_fused_call():
    x = numbers((50, 4))
    _, ctx = bnfast.batch_norm(x, dropout=0.5)
    assert type(ctx.seed) is int and 0 <= ctx.seed < 2**64 and ctx.offset == 0
    assert bnfast.batch_norm(x, dropout=0.5)[1].seed != ctx.seed
    again, _ = bnfast.batch_norm(x, dropout=0.5, seed=ctx.seed)
    other, _ = bnfast.batch_norm(x, dropout=0.5, seed=ctx.seed, offset=1)
    assert not np.array_equal(again, other)
    drawn = [
        bnfast.batch_norm(x, dropout=0.5, seed=np.random.default_rng(3))[1].seed for _ in range(2)
    ]
    assert drawn[0] == drawn[1] == bnfast.dropout(x, seed=np.random.default_rng(3))[1].seed


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dropout": 2}, ValueError, r"dropout is 2, expected a number in \[0, 1\]"),
        ({"dropout": -0.5}, ValueError, r"dropout is -0.5, expected a number in \[0, 1\]"),
        ({"dropout": np.nan}, ValueError, "dropout is nan, expected a number"),
        ({"dropout": "0.5"}, TypeError, "dropout is of type str, expected a number"),
        ({"dropout": None}, TypeError, "dropout is of type NoneType, expected a number"),
        ({"seed": -1}, ValueError, "seed is -1, expected at least 0"),
        ({"seed": 2**64}, ValueError, r"seed is \d*, expected less than 2\*\*64"),
        ({"seed": 0.5}, TypeError, "seed is of type float, expected None, an int"),
        ({"offset": 2**63}, ValueError, r"offset is \d*, expected less than 2\*\*63"),
        ({"offset": "0"}, TypeError, "offset is of type str, expected an integer"),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_bad_calls_of_the_fused_function(arguments, error, message, rate):
    out = np.full((50, 4), 7, np.float32)
    with pytest.raises(error, match=f"^batch_norm: {message}"):
        bnfast.batch_norm(numbers((50, 4)), out=out, **{"dropout": rate, **arguments})
    assert np.all(out == 7)


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
