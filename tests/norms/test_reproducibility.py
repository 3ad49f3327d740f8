"""Every norm has the same bits for any threads, SIMD target, strides and cut of the work."""

from __future__ import annotations

from typing import Any

import pytest
from borders import SMALL, THRESHOLDS, around
from cases import (
    DTYPES,
    VIEWS,
    as_view,
    assert_equal_bits,
    assert_same_bits,
    numbers,
    random_schedule,
)
from hypothesis import given, settings

import bnfast
from norms.cases import BEFORE, NAMES, NormCase, bits_of_every_result, case_of, norm_cases

pytestmark = pytest.mark.core

BLOCK, SERIAL = THRESHOLDS["block_elements"], THRESHOLDS["serial_elements"]
IN_CACHE = THRESHOLDS["private_cache_bytes"] // 4  # elements of float32
# Rows of layer and RMS norm, on both sides of what the library decides by.
ROWS = [
    *((5, length) for length in range(1, 2 * THRESHOLDS["lanes"] + 2)),
    *((9, length) for length in around("portion")),
    *((3, length) for length in around("block_elements")),
    (2, 2 * BLOCK + 1),
    (4 * THRESHOLDS["block_rows"] + 3, 3),
    (70, 100),
]
LARGE_ROWS = [
    *((rows, 64) for rows in around("serial_elements", 64)),
    (1, 2 * SERIAL + 1),  # one row, few long rows, many short rows
    (3, 20 * BLOCK + 7),
    (30_001, 3),
    (2 * SERIAL, 1),
    (401, 5 * BLOCK // 8),
    (3 * IN_CACHE // 768, 768),  # more than the cache of a core holds
    (5, 3 * IN_CACHE // 10),
]
# Samples of group and instance norm, with the channel axis and the number of groups.
LARGE_GROUPS = [
    ((2, 64, 57, 57), 1, 1),
    ((2, 64, 57, 57), 1, 32),
    ((9, 512, 7, 7), 1, 256),
    ((3, 60, 31, 33), 1, 4),
    ((5, 30, 31, 64), -1, 32),
    ((2, 90, 91, 24), -1, 3),
    ((1, 6, 2 * SERIAL + 3), 1, 2),
    ((400, 96), 1, 8),
    ((3 * IN_CACHE // 4096, 16, 16, 16), 1, 2),
    ((3 * IN_CACHE // 4096, 16, 16, 16), -1, 2),
]


def with_everything(case: NormCase, k: int = 0) -> NormCase:
    """The k-th of some combinations of what goes before a norm and behind it."""
    shape, dtype = case.x.shape, case.x.dtype
    if k % 2 == 0:
        case.options["residual"] = numbers(shape, dtype, 5)
    if k % 3 != 1:
        case.options |= {"dropout": 0.3, "seed": 1}
    case.options["activation"] = ["silu", "relu", None][k % 3]
    return case


def check_threads_and_targets(case: NormCase, threads: tuple[int, ...]) -> None:
    with bnfast.num_threads(1):
        want = bits_of_every_result(case)
    for target in bnfast.targets():
        for n in threads if target == bnfast.active_target() else threads[-1:]:
            with bnfast.use_target(target), bnfast.num_threads(n):
                assert_equal_bits(bits_of_every_result(case), want)


def check_random_schedules(case: NormCase, seeds: range) -> None:
    with bnfast.num_threads(1):
        want = bits_of_every_result(case)
    for seed in seeds:
        with bnfast.num_threads(1 + seed % 4), random_schedule(seed):
            assert_equal_bits(bits_of_every_result(case), want)


@pytest.mark.large
@pytest.mark.parametrize("shape", LARGE_ROWS)
@pytest.mark.parametrize("name", BEFORE)
def test_threads_and_targets_on_many_rows_and_on_long_ones(name, shape):
    for k, dtype in enumerate(DTYPES):
        case = with_everything(case_of(name, shape, dtype), k)
        check_threads_and_targets(case, (2, 3, 4) if k == 0 else (4,))


@pytest.mark.large
@pytest.mark.parametrize(("shape", "axis", "groups"), LARGE_GROUPS)
def test_threads_and_targets_on_few_groups_and_on_many(shape, axis, groups):
    for k, dtype in enumerate(DTYPES):
        case = case_of("group_norm", shape, dtype, axis=axis, num_groups=groups)
        check_threads_and_targets(with_everything(case, k), (2, 3, 4) if k == 0 else (4,))
    check_threads_and_targets(with_everything(case_of("instance_norm", shape, axis=axis)), (3,))


@pytest.mark.parametrize("shape", ROWS, ids=str)
@pytest.mark.parametrize("name", BEFORE)
def test_rows_of_every_kind(name, shape):
    for k, dtype in enumerate(DTYPES):
        case = with_everything(case_of(name, shape, dtype), k)
        check_threads_and_targets(case, (3,))
        check_random_schedules(case, range(4 * k, 4 * k + 4))


@pytest.mark.parametrize("length", [100, 256, 300, 512, 700])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_with_nothing_behind_the_norm(dtype, length):
    """Several rows go together there: those whose 16-bit gradients are first added in float32."""
    check_random_schedules(case_of("layer_norm", (77, length), dtype), range(12))


@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_samples_of_every_kind(shape, axis):
    """The shapes at the borders of batch norm's schedule: of samples, or of one of two samples."""
    outer, channels, *inner = shape
    shape = (outer, 2 * channels, *inner) if inner else (2, outer, 2 * channels)
    for k, dtype in enumerate(DTYPES):
        case = with_everything(case_of("group_norm", shape, dtype, axis=axis), k)
        check_threads_and_targets(case, (3,))
        check_random_schedules(case, range(4 * k, 4 * k + 4))


@settings(max_examples=150)
@given(norm_cases())
def test_small_arrays(case: NormCase):
    check_threads_and_targets(case, (2,))
    check_random_schedules(case, range(2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_a_random_schedule_of_what_threads_share(name, seed):
    shapes: list[Any] = LARGE_ROWS[::3] if name in BEFORE else [s for s, *_ in LARGE_GROUPS[::3]]
    for k, shape in enumerate(shapes):
        case = with_everything(case_of(name, shape, DTYPES[(seed + k) % 4]), seed + k)
        check_random_schedules(case, range(10 * seed + k, 10 * seed + k + 2))


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "broadcast"])
@pytest.mark.parametrize("name", NAMES)
def test_strides_of_the_same_order_show_in_no_bit(name, view):
    """Of any array of a call: those of its copy in the same order of axes, without gaps."""
    for shape in ((3, 6, 5, 7), (2, 4, 40, 50), (9, 6)):
        for k, dtype in enumerate(DTYPES):
            case = with_everything(case_of(name, shape, dtype), k)
            case.x = as_view(case.x, view).copy(order="K")
            want = bits_of_every_result(case)
            case.x = as_view(case.x, view)
            case.dy = as_view(case.dy, view)
            case.dh = case.dh if case.dh is None else as_view(case.dh, view)
            if "residual" in case.options:
                case.options["residual"] = as_view(case.options["residual"], view)
            assert_equal_bits(bits_of_every_result(case), want)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_bits_that_it_has_by_itself(name):
    """Whatever other rows there are, and wherever a thread starts."""
    for shape in ((70, 6, 100), (7, 6, 2 * BLOCK + 5), (300, 6, 3)):
        whole = case_of(name, shape, activation="gelu")
        with bnfast.num_threads(3):
            y, ctx = whole.forward()
            dx = whole.backward(ctx).dx
        for n in (0, shape[0] // 2, shape[0] - 1):
            one = slice(n, n + 1)
            dh = None if whole.dh is None else whole.dh[one]
            alone = NormCase(name, whole.x[one], whole.dy[one], whole.gamma, whole.beta,
                             whole.options, dh)  # fmt: skip
            want, want_ctx = alone.forward()
            assert_same_bits([y[one], dx[one]], [want, alone.backward(want_ctx).dx])
            assert_same_bits([ctx.var[one], ctx.invstd[one]], [want_ctx.var, want_ctx.invstd])
