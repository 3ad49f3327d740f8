"""Every function on arrays of other libraries: bits as for NumPy's arrays, in their own arrays."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import bnfast

from .libraries import LIBRARIES, Library, library

__all__ = ["library"]  # a fixture

SHAPE = (6, 4, 5)
CALLS: dict[str, Any] = {
    "batch_norm": lambda a: bnfast.batch_norm(a.x, a.gamma, a.beta, activation="gelu"),
    "batch_norm fused": lambda a: bnfast.batch_norm(
        a.x, residual=a.residual, activation="relu", dropout=0.3, seed=7
    ),
    "batch_norm where": lambda a: bnfast.batch_norm(a.x, a.gamma, where=a.where),
    "batch_norm_frozen": lambda a: bnfast.batch_norm_frozen(a.x, a.beta, a.gamma, a.gamma),
    "layer_norm": lambda a: bnfast.layer_norm(a.x, a.row, a.row, residual=a.residual),
    "layer_norm dropout": lambda a: bnfast.layer_norm(
        a.x, a.row, residual=a.residual, dropout=0.3, seed=7
    ),
    "rms_norm": lambda a: bnfast.rms_norm(a.x, a.row),
    "group_norm": lambda a: bnfast.group_norm(a.x, 2, a.gamma, a.beta),
    "instance_norm": lambda a: bnfast.instance_norm(a.x, residual=a.residual),
    "dropout": lambda a: bnfast.dropout(a.x, 0.4, seed=3, mode="classic"),
}


class Arguments:
    """The same values for each library, made by `array`."""

    def __init__(self, array: Any, dtype: np.dtype) -> None:
        rng = np.random.default_rng(5)
        channels = np.float64 if dtype == np.float64 else np.float32
        self.x, self.residual, self.dy = (
            array(rng.standard_normal(SHAPE).astype(dtype)) for _ in range(3)
        )
        self.gamma, self.beta = (array(rng.uniform(0.5, 2, 4).astype(channels)) for _ in range(2))
        self.row = array(rng.uniform(0.5, 2, 5).astype(channels))
        self.where = array(rng.uniform(size=(6, 5)) < 0.7)


def backward(dy: Any, ctx: Any) -> tuple[Any, ...]:
    if isinstance(ctx, bnfast.BatchNormContext):
        return bnfast.batch_norm_backward(dy, ctx)
    if isinstance(ctx, bnfast.NormContext):
        return bnfast.norm_backward(dy, ctx)
    return (bnfast.dropout_backward(dy, ctx),)


def statistics(ctx: Any) -> tuple[Any, ...]:
    return () if isinstance(ctx, bnfast.DropoutContext) else (ctx.mean, ctx.var, ctx.invstd)


def assert_same(library: Library, got: Any, want: Any) -> None:
    """Equal to the bit, and an array of the library where NumPy's result is an array."""
    if want is None:
        assert got is None
        return
    assert isinstance(got, library.type)
    values = library.numpy(got)
    assert (values.dtype, values.shape) == (want.dtype, want.shape)
    assert values.tobytes() == want.tobytes()


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_numpy_arrays(library, name):
    for dtype in library.dtypes:
        theirs, ours = Arguments(library.array, dtype), Arguments(np.asarray, dtype)
        (y, ctx), (want, want_ctx) = CALLS[name](theirs), CALLS[name](ours)
        assert_same(library, y, want)
        for got, expected in zip(statistics(ctx), statistics(want_ctx), strict=True):
            assert_same(library, got, expected)
        want_grads = backward(ours.dy, want_ctx)
        for got, expected in zip(backward(theirs.dy, ctx), want_grads, strict=True):
            assert_same(library, got, expected)
        # A copy is NumPy's inside; what backward returns is of dy's library.
        for copied in (copy.deepcopy(ctx), pickle.loads(pickle.dumps(ctx))):
            assert_same(library, backward(theirs.dy, copied)[0], want_grads[0])
            assert backward(ours.dy, copied)[0].tobytes() == want_grads[0].tobytes()


def test_inference_moments_and_sums(library):
    for dtype in library.dtypes:
        theirs, ours = Arguments(library.array, dtype), Arguments(np.asarray, dtype)
        got, want = (
            bnfast.batch_norm_inference(a.x, a.beta, a.gamma, residual=a.residual)
            for a in (theirs, ours)
        )
        assert_same(library, got, want)
        assert bnfast.moments(theirs.x, where=theirs.where) == bnfast.moments(
            ours.x, where=ours.where
        )
        sums = [
            bnfast.batch_norm_backward_sums(a.dy, bnfast.batch_norm(a.x)[1]) for a in (theirs, ours)
        ]
        assert sums[0] == sums[1]
        assert_same(library, bnfast.dropout_inference(theirs.x), bnfast.dropout_inference(ours.x))
        folded, want_folded = (
            bnfast.fold_batch_norm(a.x, None, np.zeros(6), np.full(6, 2.0)) for a in (theirs, ours)
        )
        for one, other in zip(folded, want_folded, strict=True):
            assert_same(library, one, other)


def test_transposed_weights_are_folded(library):
    weight = np.random.default_rng(1).standard_normal((200, 300), dtype=np.float32).T
    folded, _ = bnfast.fold_batch_norm(
        library.array(weight), None, np.zeros(300), np.ones(300), eps=0.0
    )
    assert np.array_equal(library.numpy(folded), weight)


@pytest.mark.parametrize("mixed", ["gamma", "residual", "dy"])
def test_arguments_of_different_libraries_mix(library, mixed):
    dtype = np.dtype(np.float32)
    theirs, ours = Arguments(library.array, dtype), Arguments(np.asarray, dtype)
    setattr(theirs, mixed, getattr(ours, mixed))
    y, ctx = bnfast.batch_norm(theirs.x, theirs.gamma, residual=theirs.residual)
    want, want_ctx = bnfast.batch_norm(ours.x, ours.gamma, residual=ours.residual)
    assert_same(library, y, want)
    dx = bnfast.batch_norm_backward(theirs.dy, ctx).dx
    assert type(dx) is type(theirs.dy)
    want_dx = bnfast.batch_norm_backward(ours.dy, want_ctx).dx
    assert np.asarray(dx if mixed == "dy" else library.numpy(dx)).tobytes() == want_dx.tobytes()


def test_out_is_written_or_refused(library):
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    out = library.array(np.zeros(SHAPE, np.float32))
    if not library.writeable:
        with pytest.raises(ValueError, match="out is read-only, expected a writeable array"):
            bnfast.batch_norm(library.array(x), out=out)
        assert not np.any(library.numpy(out))
        return
    y, _ = bnfast.batch_norm(library.array(x), out=out)
    assert y is out and np.array_equal(library.numpy(out), bnfast.batch_norm(x)[0])
    own = library.array(x.copy())
    bnfast.dropout(own, 0.5, seed=1, out=own)
    assert np.array_equal(library.numpy(own), bnfast.dropout(x, 0.5, seed=1)[0])


def test_inputs_are_read_where_they_are(library):
    """Overwriting x after the call changes what backward sees: the context refers to x itself."""
    if not library.writeable:
        pytest.skip("arrays of this library cannot be written")
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    theirs = library.array(x)  # in the same memory
    assert library.address(theirs) == x.ctypes.data
    _, ctx = bnfast.batch_norm(theirs)
    before = library.numpy(bnfast.batch_norm_backward(theirs, ctx).dx).copy()
    dy = library.array(x.copy())
    x[0] = 3
    assert not np.array_equal(library.numpy(bnfast.batch_norm_backward(dy, ctx).dx), before)


def test_large_results_are_not_copied(library):
    """The library's array is the memory that was written: it comes back to be used again."""
    x = np.random.default_rng(1).standard_normal((64, 8, 1024)).astype(np.float32)
    theirs = library.array(x)
    addresses = set()
    for _ in range(4):
        y, ctx = bnfast.batch_norm(theirs)
        assert library.numpy(y).tobytes() == bnfast.batch_norm(x)[0].tobytes()
        addresses.add(library.address(y))
        del y, ctx
    assert len(addresses) < 4


def test_layers(library):
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    layers = [
        (lambda: bnfast.BatchNorm(4, activation="relu", dropout=0.2, rng=1)),
        (lambda: bnfast.LayerNorm(5)),
        (lambda: bnfast.GroupNorm(2, 4)),
        (lambda: bnfast.Dropout(0.2, rng=1)),
    ]
    for make in layers:
        theirs, ours = make(), make()
        for training in (True, False):
            for layer in (theirs, ours):
                layer.train() if training else layer.eval()
            assert_same(library, theirs(library.array(x)), ours(x))
            got, want = theirs.backward(library.array(x)), ours.backward(x)
            assert_same(library, getattr(got, "dx", got), getattr(want, "dx", want))
            if hasattr(ours, "dgamma"):
                assert isinstance(theirs.dgamma, np.ndarray)
                assert np.array_equal(theirs.dgamma, ours.dgamma)


def test_empty_and_scalar_like_arrays(library):
    empty = np.zeros((0, 3), np.float32)
    x = library.array(empty)  # without memory of its own, where the library is PyTorch
    y, ctx = bnfast.batch_norm(x, activation="gelu")
    assert_same(library, y, empty)
    assert_same(library, bnfast.batch_norm_backward(x, ctx).dx, empty)
    one = np.ones(1, np.float32)
    assert_same(library, bnfast.dropout(library.array(one), 0.0, seed=0)[0], one)


@pytest.mark.parametrize("name", LIBRARIES)
def test_other_dtypes_are_refused(name):
    library = LIBRARIES[name]()
    whole = library.array(np.ones(SHAPE, np.int32))
    with pytest.raises(TypeError, match=r"^batch_norm: x has dtype .*int32, expected"):
        bnfast.batch_norm(whole)
    with pytest.raises(TypeError, match=r"^batch_norm: where has dtype .*int32, expected .* bool"):
        bnfast.batch_norm(np.ones(SHAPE, np.float32), where=whole)
    with pytest.raises(TypeError, match=r"^batch_norm: gamma has dtype .*int32, expected"):
        bnfast.batch_norm(np.ones(SHAPE, np.float32), whole)
