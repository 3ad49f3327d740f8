"""A context gives the same gradients however often it is used, copied or pickled."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from cases import DTYPES, assert_same_bits, cases, numbers
from hypothesis import given, settings

import bnfast

pytestmark = pytest.mark.core

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {p}": lambda c, p=p: pickle.loads(pickle.dumps(c, p)) for p in range(6)},
}


@pytest.mark.parametrize("how", COPIES)
@settings(max_examples=30)
@given(case=cases())
def test_a_copy_gives_the_same_gradients(how, case):
    options = {"dropout": 0.25, "seed": 7, **case.options}
    ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **options)[1]
    other = COPIES[how](ctx)
    dy = np.ascontiguousarray(case.dy)
    assert_same_bits(bnfast.batch_norm_backward(dy, other), bnfast.batch_norm_backward(dy, ctx))
    assert bnfast.batch_norm_backward_sums(dy, other) == bnfast.batch_norm_backward_sums(dy, ctx)
    assert other.moments == ctx.moments and (other.seed, other.offset) == (7, 0)
    assert_same_bits([other.mean, other.var, other.invstd], [ctx.mean, ctx.var, ctx.invstd])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_contexts_of_every_kind(dtype):
    x, dy = np.random.default_rng(0).standard_normal((2, 6, 3, 5)).astype(dtype)
    gamma, beta = np.array([0.5, 1.0, 2.0]), np.array([0.0, 1.0, -1.0])
    contexts = [
        bnfast.batch_norm_frozen(x, beta, gamma, gamma, eps_placement="std")[1],
        bnfast.batch_norm(x, gamma, stats=bnfast.moments(x), eps=0.5)[1],
        bnfast.batch_norm(x.copy(), gamma, activation="leaky_relu", activation_slope=0.3)[1],
    ]
    over = x.copy()
    contexts.append(bnfast.batch_norm(over, gamma, beta, out=over, activation="leaky_relu")[1])
    for ctx in contexts:
        other = pickle.loads(pickle.dumps(ctx))
        assert_same_bits(bnfast.batch_norm_backward(dy, other), bnfast.batch_norm_backward(dy, ctx))


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("axis", [1, -1])
def test_a_copy_of_instance_norm_gives_the_same_gradients(axis, how):
    x, residual, dy = np.random.default_rng(0).standard_normal((3, 4, 6, 5))
    gamma, beta = np.random.default_rng(1).standard_normal((2, x.shape[axis]))
    ctx = bnfast.instance_norm(
        x, gamma, beta, axis=axis, activation="silu", residual=residual, dropout=0.25, seed=7
    )[1]
    other = COPIES[how](ctx)
    assert_same_bits(bnfast.norm_backward(dy, other), bnfast.norm_backward(dy, ctx))
    assert_same_bits([other.mean, other.var, other.invstd], [ctx.mean, ctx.var, ctx.invstd])
    assert other.mean.shape == (4, x.shape[axis]) and (other.seed, other.offset) == (7, 0)


def test_statistics_of_another_batch_still_need_its_sums():
    x = np.random.default_rng(0).standard_normal((6, 3))
    _, ctx = bnfast.batch_norm(x, stats=bnfast.moments(np.concatenate([x, x])))
    with pytest.raises(ValueError, match="sums is None, expected"):
        bnfast.batch_norm_backward(x, copy.deepcopy(ctx))


def test_a_state_that_does_not_fit_is_refused():
    x = np.ones((4, 3, 2))
    _, ctx = bnfast.batch_norm(x, residual=x, where=np.ones((4, 2), bool))
    _, other = bnfast.batch_norm(np.ones((4, 2)))
    state, foreign = ctx.__getstate__(), other.__getstate__()

    def made(**changes):
        again = type(ctx).__new__(type(ctx))
        again.__setstate__({**state, **changes})
        return again

    for changes in ({"values": foreign["values"]}, {"axis": 9}, {"activation": 99}):
        with pytest.raises(ValueError, match=r"number of values|axis|activation"):
            made(**changes)
    with pytest.raises(TypeError, match="context: x has dtype int64, expected"):
        made(x=state["x"].astype(np.int64))
    for changes in ({"residual": np.ones((4, 3))}, {"where": np.ones((9, 9), bool)}):
        with pytest.raises(ValueError, match=r"batch_norm_backward: (residual|where) has shape"):
            bnfast.batch_norm_backward(x, made(**changes))
    for name in state:
        again = type(ctx).__new__(type(ctx))
        with pytest.raises(KeyError, match=name):
            again.__setstate__({key: value for key, value in state.items() if key != name})


def test_a_state_in_place_that_cannot_be_is_refused():
    """Backward would undo an activation that has no inverse, or start from y where h is."""
    x = np.ones((4, 3))
    for norm, backward in (
        (bnfast.batch_norm, bnfast.batch_norm_backward),
        (bnfast.layer_norm, bnfast.norm_backward),
    ):
        _, ctx = norm(x, activation="gelu")
        again = type(ctx).__new__(type(ctx))
        again.__setstate__({**ctx.__getstate__(), "in_place": True})
        with pytest.raises(ValueError, match="backward: "):
            backward(x, again)


def test_the_order_of_x_in_memory_is_kept():
    """On which the bits of gradients depend; NumPy pickles C order."""
    x = np.moveaxis(np.random.default_rng(0).standard_normal((16, 30, 30, 48)), -1, 1)
    _, ctx = bnfast.batch_norm(x, activation="silu", residual=x)
    dy = np.random.default_rng(1).standard_normal(x.shape)
    other = pickle.loads(pickle.dumps(ctx))
    got, want = bnfast.batch_norm_backward(dy, other), bnfast.batch_norm_backward(dy, ctx)
    assert got.dx.strides == want.dx.strides
    assert_same_bits(got, want)


def test_a_context_without_its_state_is_refused():
    empty = bnfast.BatchNormContext.__new__(bnfast.BatchNormContext)
    with pytest.raises(TypeError):
        bnfast.batch_norm_backward(np.ones((4, 3)), empty)
    for name in ("moments", "mean", "var", "invstd", "seed", "offset"):
        with pytest.raises(TypeError):
            getattr(empty, name)


@pytest.mark.parametrize("activation", ["silu", None])
def test_a_context_is_used_any_number_of_times(activation):
    x = numbers((9, 4))
    _, ctx = bnfast.batch_norm(x, np.ones(4), np.ones(4), activation=activation)
    first, second = (bnfast.batch_norm_backward(x, ctx) for _ in range(2))
    assert_same_bits(first, second)


def test_the_context_of_dropout_holds_numbers_only():
    x = numbers((4, 5))
    _, ctx = bnfast.dropout(
        x, np.float32(0.5), seed=np.int64(4), offset=np.int64(6), broadcast_axes=[np.int64(1)]
    )
    assert ctx == bnfast.DropoutContext((4, 5), 0.5, 4, 6, "inverted", (1,))
    assert [type(v) for v in (ctx.rate, ctx.seed, ctx.offset)] == [float, int, int]
    assert not hasattr(ctx, "__dict__")
    with pytest.raises(AttributeError):
        ctx.seed = 5
    loaded = pickle.loads(pickle.dumps(ctx))
    assert loaded == ctx
    assert_same_bits([bnfast.dropout_backward(x, loaded)], [bnfast.dropout_backward(x, ctx)])


def test_entries_of_another_kind_and_changed_arrays_are_refused():
    x = np.ones((3, 4, 5), np.float32)
    _, ctx = bnfast.batch_norm(x)
    again = bnfast.BatchNormContext.__new__(bnfast.BatchNormContext)
    for changes in ({"axis": 1 << 40}, {"axis": 3}, {"seed": -1}, {"eps": "small"}):
        with pytest.raises(ValueError, match="context: the pickled state"):
            again.__setstate__({**ctx.__getstate__(), **changes})
    x.resize((12, 5), refcheck=False)
    with pytest.raises(ValueError, match="another number of dimensions"):
        ctx.__getstate__()
