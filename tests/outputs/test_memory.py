"""Memory of large results is used again when they are gone, and never while they are not."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from programs import python

import bnfast

SHAPE = (64, 64, 32, 32)  # 16 MB of float32


@pytest.fixture(autouse=True)
def limit():
    before = bnfast.get_cache_limit()
    bnfast.set_cache_limit(0)
    bnfast.set_cache_limit(256 << 20)
    yield
    bnfast.set_cache_limit(0)
    bnfast.set_cache_limit(before)


def address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


def test_memory_is_used_again():
    x = np.ones(SHAPE, np.float32)
    y = bnfast.dropout(x, 0.5, seed=1)[0]
    first = address(y)
    del y
    assert address(bnfast.dropout(x, 0.5, seed=1)[0]) == first


def test_memory_in_use_is_nobody_elses():
    x = np.ones(SHAPE, np.float32)
    y, _ = bnfast.dropout(x, 0.0)
    view = y[3:5, ::2]
    first = address(y)
    del y
    others = [bnfast.dropout(x, 1.0)[0] for _ in range(3)]
    assert all(not np.shares_memory(view, other) for other in others)
    assert (view == 1).all()
    del view
    assert address(bnfast.dropout(x, 0.5, seed=1)[0]) == first


def mapped(where: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= where < end:
            return True
    return False


@pytest.mark.parametrize("nbytes", [0, 256 << 20])
def test_what_goes_beyond_the_limit_is_given_back(nbytes):
    x = np.ones(SHAPE, np.float32)
    bnfast.set_cache_limit(nbytes)
    y, _ = bnfast.dropout(x, 0.0)
    where = address(y)
    assert mapped(where)
    del y
    assert mapped(where) == (nbytes > 0)
    bnfast.set_cache_limit(0)
    assert not mapped(where)


def test_results_are_right_in_used_memory():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((33, 64, 31, 31), dtype=np.float32)
    want = bnfast.batch_norm(x, out=np.empty_like(x))[0]
    for _ in range(3):
        garbage = bnfast.dropout(x, 0.0)[0]
        garbage.fill(np.nan)
        del garbage
        y, ctx = bnfast.batch_norm(x)
        assert y.tobytes() == want.tobytes()
        assert np.isfinite(bnfast.batch_norm_backward(x, ctx).dx).all()


def test_order_of_x_and_writeable():
    x = np.moveaxis(np.ones((16, 56, 56, 64), np.float32), -1, 1)
    y, _ = bnfast.batch_norm(x)
    assert y.strides == x.strides and y.flags.writeable and address(y) % 64 == 0


def test_tracemalloc_counts_it():
    x = np.ones(SHAPE, np.float32)
    tracemalloc.start()
    try:
        y, _ = bnfast.dropout(x, 0.5, seed=1)
        held = tracemalloc.get_traced_memory()[0]
        del y
        assert held > 0.9 * x.nbytes
        assert tracemalloc.get_traced_memory()[0] < 0.1 * x.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("nbytes", "kind", "message"),
    [(-1, ValueError, "nbytes is -1"), (1.5, TypeError, "float"), (True, TypeError, "bool")],
)
def test_bad_limit(nbytes, kind, message):
    with pytest.raises(kind, match=f"^set_cache_limit: .*{message}"):
        bnfast.set_cache_limit(nbytes)


@pytest.mark.parametrize(
    ("text", "good"), [("0", True), ("1000", True), ("-1", False), ("1e6", False)]
)
def test_environment(text, good):
    run = python("-c", "import bnfast; print(bnfast.get_cache_limit())", BNFAST_CACHE_BYTES=text)
    if good:
        assert run.stdout.strip() == text
    else:
        assert run.returncode != 0 and "BNFAST_CACHE_BYTES is" in run.stderr


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: bnfast.batch_norm(x), r"batch_norm: \d+ bytes for a result could not be"),
        (lambda x: bnfast.dropout(x), r"dropout: \d+ bytes for a result could not be"),
        (lambda x: bnfast.moments(x), "moments: memory to work with could not be allocated"),
        (
            lambda x: bnfast.dropout_mask(x.shape, 0.5, seed=1),
            r"dropout_mask: \d+ bytes for a result",
        ),
    ],
    ids=["batch_norm", "dropout", "moments", "dropout_mask"],
)
def test_what_does_not_fit_in_memory_is_said(call, message):
    x = np.broadcast_to(np.float32(1), (2**46, 1))
    with pytest.raises(MemoryError, match=message):
        call(x)
