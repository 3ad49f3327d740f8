"""The dropout mask is bit for bit that of the NumPy reference, and random enough."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from cases import DTYPES, TARGETS, VIEWS, as_view, shapes
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfast

pytestmark = pytest.mark.core

RATES = [0.0, 1.0, 0.5, 0.1, 1e-6, 1 / 3, 0.9, 1 - 1e-6, 2.0**-48, 1 - 2.0**-48, 0.5 + 2.0**-17]
SEEDS = [0, 1, 2**32 - 1, 2**32, 0x123456789ABCDEF0, 2**64 - 1]
OFFSETS = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1]
MODES = ["inverted", "classic", "alpha"]
SHAPES = [(), *((n,) for n in (0, 1, 7, 16, 127, 128, 129, 4099)), (3, 5, 7), (2, 1, 300), (3, 0)]


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # kat_vectors of Random123
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_reference_gives_the_known_answers(counter, key, words):
    assert " ".join(f"{int(word):08x}" for word in reference.philox4x32(counter, key)) == words


def test_known_masks():
    """Written down, so that no later version changes them together with the reference."""
    bits = {
        (0.5, 0, 0): "c0a225618e67ae5a3e4104344c9ceec2fe73f66b",
        (0.1, 2**64 - 1, 2**63 - 1): "4f7ff6fff7effefe5ffbfbff7bffffffffffa9eb",
    }
    for (rate, seed, offset), digits in bits.items():
        mask = bnfast.dropout_mask((160,), rate, seed=seed, offset=offset)
        assert np.packbits(mask, bitorder="little").tobytes().hex() == digits


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_equal_the_reference(shape):
    for rate in RATES:
        for seed, offset in zip(SEEDS, OFFSETS, strict=True):
            want = reference.dropout_mask(shape, rate, seed=seed, offset=offset)
            for target in TARGETS:
                with bnfast.use_target(target):
                    got = bnfast.dropout_mask(shape, rate, seed=seed, offset=offset)
                assert got.dtype == bool and got.shape == shape
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_bit_of_seed_and_offset_counts(seed, offset):
    got = bnfast.dropout_mask((1000,), 0.5, seed=seed, offset=offset)
    np.testing.assert_array_equal(
        got, reference.dropout_mask((1000,), 0.5, seed=seed, offset=offset)
    )
    for bit in (0, 31, 32, 62, 63):
        other = bnfast.dropout_mask((1000,), 0.5, seed=seed ^ (1 << bit), offset=offset)
        assert 300 < np.sum(got == other) < 700
        if bit < 63:
            other = bnfast.dropout_mask((1000,), 0.5, seed=seed, offset=offset ^ (1 << bit))
            assert 300 < np.sum(got == other) < 700


@pytest.mark.parametrize("rate", [1 / 3, 0.1, 1e-6])
def test_ties_are_broken_by_the_second_draw(rate):
    """Where 16 bits do not decide, 32 more do; elements on the tie are both kept and dropped."""
    n, seed, offset = 1 << 20, 2**40 + 3, 2**33 + 1
    i = np.arange(n, dtype=np.uint64)
    ties = i[reference.is_tie(i, rate, seed, offset)]
    assert 4 <= len(ties) <= 36  # 16 are expected
    decided = reference.tie_breaker(ties, seed, offset) < reference.threshold(rate) % 2**32
    if rate == 1 / 3:
        assert set(decided) == {False, True}
    want = reference.kept(i, rate, seed, offset)
    for target in TARGETS:
        with bnfast.use_target(target):
            mask = bnfast.dropout_mask((n,), rate, seed=seed, offset=offset)
            x = np.ones(n, np.float16)
            y, _ = bnfast.dropout(x, rate, seed=seed, offset=offset, mode="classic")
        np.testing.assert_array_equal(mask[ties], decided)
        np.testing.assert_array_equal(mask, want)
        np.testing.assert_array_equal(y, want)


@settings(max_examples=200)
@given(
    shapes(),
    st.one_of(st.floats(0, 1), st.integers(0, 2**16).map(lambda n: n / 2**16)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**63 - 1),
    st.data(),
)
def test_masks_of_any_shape(shape, rate, seed, offset, data):
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1))))
    signed = tuple(a - len(shape) if data.draw(st.booleans()) else a for a in axes)
    got = bnfast.dropout_mask(shape, rate, seed=seed, offset=offset, broadcast_axes=signed)
    want = reference.dropout_mask(shape, rate, seed=seed, offset=offset, broadcast_axes=axes)
    np.testing.assert_array_equal(got, want)
    x = np.ones(shape, np.float32)
    y, _ = bnfast.dropout(x, rate, seed=seed, offset=offset, mode="classic", broadcast_axes=signed)
    np.testing.assert_array_equal(y, want)


@settings(max_examples=100)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_a_higher_rate_drops_more_elements_and_no_others(rate, other, seed):
    low, high = sorted((rate, other))
    few, many = (bnfast.dropout_mask((500,), r, seed=seed) for r in (low, high))
    assert not np.any(many & ~few)


@pytest.mark.parametrize("n", [1, 5, 127, 128, 4096, 70001])
def test_a_longer_array_begins_with_the_mask_of_a_shorter(n):
    whole = bnfast.dropout_mask((200000,), 0.3, seed=5)
    np.testing.assert_array_equal(bnfast.dropout_mask((n,), 0.3, seed=5), whole[:n])
    np.testing.assert_array_equal(bnfast.dropout_mask((20, 10000), 0.3, seed=5).ravel(), whole)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(6, 5, 7, 9), (70, 301), (4000,)])
def test_one_mask_for_every_dtype_and_layout(shape, view, target):
    mask = bnfast.dropout_mask(shape, 0.4, seed=11, offset=3)
    arguments = {"rate": 0.4, "seed": 11, "offset": 3, "mode": "classic"}
    for dtype in DTYPES:
        values = np.random.default_rng(1).uniform(1, 2, shape).astype(dtype)
        x = as_view(values, view)
        y, _ = bnfast.dropout(x, **arguments)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.where(mask, x, 0))
        out = as_view(np.full(shape, 7, dtype), view if view != "broadcast" else "strided")
        y, _ = bnfast.dropout(values, **arguments, out=out)
        assert y is out
        np.testing.assert_array_equal(out, np.where(mask, values, 0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [3, 100])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows_at_any_alignment(rows, dtype, mode):
    """Rows of several windows of bits; of 100, the output is streamed past the caches."""
    length = 33_331
    wide = np.random.default_rng(1).uniform(1, 2, (rows, length + 9)).astype(dtype)
    x, written = wide[:, 5 : 5 + length], np.full_like(wide, 7)
    out = written[:, 3 : 3 + length]
    with bnfast.num_threads(1):
        bnfast.dropout(x, 0.4, seed=11, mode=mode, out=out)
    first, _ = bnfast.dropout(x[:3].copy(), 0.4, seed=11, mode=mode)  # one run, not streamed
    np.testing.assert_array_equal(out[:3], first)
    if mode == "classic":
        mask = bnfast.dropout_mask(x.shape, 0.4, seed=11)
        np.testing.assert_array_equal(out, np.where(mask, x, 0))
    assert (written[:, :3] == 7).all()
    assert (written[:, 3 + length :] == 7).all()


@pytest.mark.parametrize("axes", [(), (2, 3), (0,), (1, 3)])
@pytest.mark.parametrize("mode", MODES)
def test_threads_and_targets(mode, axes):
    x = np.random.default_rng(0).normal(size=(15, 20, 41, 27)).astype(np.float32)
    seen = set()
    for target in TARGETS:
        for threads in (1, 2, 5):
            with bnfast.use_target(target), bnfast.num_threads(threads):
                y, ctx = bnfast.dropout(x, 0.3, seed=9, mode=mode, broadcast_axes=axes)
                dx = bnfast.dropout_backward(x, ctx)
                mask = bnfast.dropout_mask(x.shape, 0.3, seed=9, broadcast_axes=axes)
                seen.add(y.tobytes() + dx.tobytes() + mask.tobytes())
    assert len(seen) == 1
    want = reference.dropout_mask(x.shape, 0.3, seed=9, broadcast_axes=axes)
    np.testing.assert_array_equal(mask, want)


# --- its statistics -------------------------------------------------------------------------------


def sigmas(mask: np.ndarray, keep: float) -> float:
    """How many standard deviations the kept fraction is off."""
    return abs(mask.mean() - keep) / math.sqrt(keep * (1 - keep) / mask.size)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """In standard deviations of what independent masks give."""
    return abs(np.corrcoef(a, b)[0, 1]) * math.sqrt(a.size)


@pytest.mark.parametrize("rate", [0.5, 0.1, 1 / 3, 0.9, 1e-3, 1e-4])
def test_the_kept_fraction(rate):
    for seed, offset in ((0, 0), (1, 7), (2**64 - 1, 2**63 - 1)):
        mask = bnfast.dropout_mask((4_000_000,), rate, seed=seed, offset=offset)
        assert sigmas(mask, 1 - rate) < 5
    rows = bnfast.dropout_mask((1000, 4000), rate, seed=3)
    assert np.abs(rows.mean(0) - (1 - rate)).max() < 6 * math.sqrt(rate * (1 - rate) / 1000) + 0.004


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_neighbours_seeds_and_offsets_are_independent(rate):
    n = 1_000_000
    mask = bnfast.dropout_mask((n,), rate, seed=100)
    for lag in (1, 2, 3, 4, 8, 15, 16, 17, 32, 64, 127, 128, 129, 256, 2048, 65536):
        assert correlation(mask[:-lag], mask[lag:]) < 5, lag
    for others in (
        {"seed": 101},
        {"seed": 100 + 2**32},
        {"seed": 100, "offset": 1},
        {"seed": 100, "offset": 2**32},
    ):
        assert correlation(mask, bnfast.dropout_mask((n,), rate, **others)) < 5, others
