"""On which stream arrays are read and results handed over, and whose memory results have."""

from __future__ import annotations

import gc
import sys
import types
import weakref

import numpy as np
import pytest

import bnfast
from cuda_arrays import device
from cuda_arrays.device import Array
from cuda_arrays.exchange import Shared, allocator

pytestmark = pytest.mark.core


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_an_unknown_library_is_asked_for_the_default_stream():
    x, gamma = Array(values((5, 6))), Array(values(6))
    ctx = bnfast.batch_norm(x, gamma)[1]
    assert x.streams == gamma.streams == [1]
    bnfast.batch_norm_backward(x, ctx)
    assert x.streams == [1, 1, 1]


class Stream:
    """CuPy's current stream, which nothing else keeps alive."""

    ptr = 4096


@pytest.fixture
def cupy(monkeypatch):
    """A library that calls itself CuPy."""
    if "cupy" in sys.modules:
        pytest.skip("there is CuPy itself")
    library, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    library.cuda, library.from_dlpack = cuda, device.from_dlpack
    library.current = Stream()
    cuda.get_current_stream = lambda index: library.current
    monkeypatch.setitem(sys.modules, "cupy", library)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    return library


def test_cupy_is_read_on_its_current_stream_which_outlives_results(cupy):
    kind = type("ndarray", (Array,), {"__module__": "cupy"})
    x = kind(values((5, 6)))
    y, ctx = bnfast.batch_norm(x)
    assert x.streams == [4096]
    alive = weakref.ref(cupy.current)
    cupy.current = None
    gc.collect()
    assert alive() is not None
    kept = y.array
    del y, ctx
    gc.collect()
    assert alive() is not None
    del kept
    gc.collect()
    assert alive() is None


def test_a_table_of_functions_lends_allocates_and_adopts():
    x, dy = values((5, 6, 7)), values((5, 6, 7), 1)
    gamma = values(6)
    for order in ("C", "F"):
        a, b = np.asarray(x, order=order), np.asarray(dy, order=order)
        y, ctx = bnfast.batch_norm(a, gamma)
        y_, ctx_ = bnfast.batch_norm(Shared(a), Shared(gamma))
        assert len(allocator.alive) == 1
        grads, grads_ = bnfast.batch_norm_backward(b, ctx), None
        grads_ = bnfast.batch_norm_backward(Shared(b), ctx_)
        assert len(allocator.alive) == 3
        pairs = [(y_, y), (grads_.dx, grads.dx), (grads_.dgamma, grads.dgamma), (ctx_.var, ctx.var)]
        for result, expected in pairs:
            assert type(result) is Shared
            assert result.array.strides == expected.strides
            np.testing.assert_array_equal(result.array, expected)
        del y_, ctx_, grads_, pairs, result
        gc.collect()
        assert not allocator.alive


def test_a_library_without_memory_says_so(monkeypatch):
    monkeypatch.setattr(allocator, "full", True)
    with pytest.raises(RuntimeError, match=r"^no memory is left$"):
        bnfast.batch_norm(Shared(values((5, 6))))


def test_two_libraries_in_one_call():
    x, dy = values((5, 6)), values((5, 6), 1)
    y, ctx = bnfast.batch_norm(Shared(x), Array(values(6)))
    assert type(y) is Shared
    dx = bnfast.batch_norm_backward(Array(dy), ctx).dx
    assert type(dx) is Array
    expected = bnfast.batch_norm_backward(dy, bnfast.batch_norm(x, values(6))[1]).dx
    np.testing.assert_array_equal(dx.array, expected)
