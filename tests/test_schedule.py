"""How a call is cut, grouped, shared out and stored shows in no bit of any result.

Shapes are those on both sides of each of the library's own thresholds; and its decisions are drawn
at random, so that ways of computing are compared that the thresholds would not choose here.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import reference
from borders import LARGE, SMALL, THRESHOLDS, around
from cases import (
    ACTIVATIONS,
    DTYPES,
    VIEWS,
    Case,
    as_view,
    assert_equal_bits,
    assert_same_bits,
    bits_of_every_result,
    channel_dtype,
    check_forward,
    check_gradients,
    every_result,
    numbers,
    random_schedule,
)
from programs import python

import bnfast

pytestmark = pytest.mark.core


def where_for(shape, axis, seed=0) -> np.ndarray:
    axis %= len(shape)
    return np.random.default_rng(seed).random([1 if d == axis else n for d, n in enumerate(shape)])


def case_for(shape, axis, dtype, **options: Any) -> Case:
    gamma, beta = np.random.default_rng(7).uniform(0.5, 2, (2, shape[axis])).astype(np.float32)
    return Case(numbers(shape, dtype), numbers(shape, dtype, 1), gamma, beta,
                {"axis": axis, "activation": None, **options})  # fmt: skip


# --- at the borders of the schedule ---------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_training_is_the_textbook(shape, axis):
    for k, dtype in enumerate(DTYPES):
        options: dict[str, Any] = {"residual": numbers(shape, dtype, 2)} if k % 2 else {}
        if k == sum(shape) % 4:
            options["where"] = where_for(shape, axis) < 0.8
        case = case_for(shape, axis, dtype, **options)
        check_forward(case)
        _, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
        _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **case.options)
        check_gradients(case, bnfast.batch_norm_backward(case.dy, ctx), ref)


@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_frozen_statistics_are_the_textbook(shape, axis):
    stats = np.linspace(0.5, 2, 2 * shape[axis]).reshape(2, -1)
    case = case_for(shape, axis, np.dtype(np.float32), activation="silu")
    _, ctx = bnfast.batch_norm_frozen(case.x, *stats, case.gamma, case.beta, **case.options)
    _, ref = reference.batch_norm(case.x, case.gamma, case.beta, stats=stats, **case.options)
    check_gradients(case, bnfast.batch_norm_backward(case.dy, ctx), ref, frozen=True)


@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_in_place_and_extreme_scales_are_the_ordinary_path(shape, axis):
    case = case_for(shape, axis, np.float32, activation="leaky_relu", eps=0.0)

    def results(x, out=None, scale=1):
        y, ctx = bnfast.batch_norm(x, case.gamma, case.beta, out=out, **case.options)
        dx, dgamma, dbeta, _ = bnfast.batch_norm_backward(case.dy, ctx)
        return [y.copy(), dx * scale, dgamma, dbeta]

    want = results(case.x)
    x = case.x.copy()
    made = [results(x, out=x)]
    assert_same_bits(made[0][:1], want[:1])
    for scale in np.float32([2.0**-110, 2.0**110]):
        made.append(results(case.x * scale, scale=scale))
    for got in made:
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2.0**-16 * np.abs(b).max())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("shape", "axis"), [case for case in LARGE if case[0][case[1]] > 40])
def test_channels_have_the_bits_that_they_have_by_themselves(shape, axis, threads):
    """At both ends, and in the middle; enough of them that rows are not narrow."""
    channels, some = shape[axis], THRESHOLDS["narrow_rows"] + 1
    stats = np.linspace(0.5, 2, 2 * channels).reshape(2, -1)

    def of_channels(case: Case, part: slice) -> Case:
        at = (*[slice(None)] * (axis % len(shape)), part)
        residual = case.options["residual"][at].copy()
        return Case(case.x[at].copy(), case.dy[at].copy(), case.gamma[part], case.beta[part],
                    {**case.options, "residual": residual})  # fmt: skip

    for dtype in DTYPES if threads > 1 else DTYPES[:1]:
        options = {"activation": "relu", "residual": numbers(shape, dtype, 2)}
        whole = case_for(shape, axis, dtype, **options)
        with bnfast.num_threads(threads):
            results = every_result(whole, stats)
        for begin in (0, channels // 2, channels - some):
            part = slice(begin, begin + some)
            at = (*[slice(None)] * (axis % len(shape)), part)
            with bnfast.num_threads(1):
                alone = every_result(of_channels(whole, part), stats[:, part])
            for name, want in alone.items():
                if not name.startswith("dropped"):  # its mask goes by the index in the whole
                    got = results[name][part if want.ndim == 1 else at]
                    np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize("inner", [3, THRESHOLDS["short_plane"] - 1, 4 * THRESHOLDS["lanes"]])
def test_any_number_of_planes_gives_the_bits_of_all(inner):
    """Some planes are walked together, short ones in strips; no threshold tells how many."""
    whole = case_for((3, 80, inner), 1, np.float32, activation="relu")
    stats = np.linspace(0.5, 2, 160).reshape(2, -1)
    results = every_result(whole, stats)
    for n in range(1, 80):
        x, dy = whole.x[:, :n].copy(), whole.dy[:, :n].copy()
        first = Case(x, dy, whole.gamma[:n], whole.beta[:n], whole.options)
        for name, want in every_result(first, stats[:, :n]).items():
            if not name.startswith("dropped"):
                got = results[name][:n] if want.ndim == 1 else results[name][:, :n]
                np.testing.assert_array_equal(got, want, err_msg=f"{name} of {n}")


@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_sums_are_exact_where_any_order_is(shape, axis):
    """Of small integers, whose sums no order of additions rounds."""
    for dtype in DTYPES:
        x, dy = np.random.default_rng(1).integers(-8, 9, (2, *shape)).astype(dtype)
        ones = np.ones(shape[axis], channel_dtype(dtype))
        _, ctx = bnfast.batch_norm(x, ones, 0 * ones, axis=axis)
        dbeta = bnfast.batch_norm_backward(dy, ctx).dbeta
        others = tuple(d for d in range(len(shape)) if d != axis % len(shape))
        count = x.size // shape[axis]
        mean = x.sum(others, np.float64) / count
        np.testing.assert_allclose(ctx.moments.mean, mean, rtol=1e-15, atol=1e-14)
        np.testing.assert_array_equal(dbeta, dy.sum(others, np.float64))


@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_what_is_not_finite_stays_in_its_channel(shape, axis):
    """Neighbours share vectors, and the elements beyond the last one take no part."""
    case = case_for(shape, axis, np.float32, activation="relu")
    bad = shape[axis] // 2
    others = np.arange(shape[axis]) != bad

    def results(x):
        y, ctx = bnfast.batch_norm(x, case.gamma, case.beta, **case.options)
        dx, dgamma, dbeta, _ = bnfast.batch_norm_backward(case.dy, ctx)
        arrays = (np.moveaxis(y, axis, 0), np.moveaxis(dx, axis, 0), dgamma, dbeta)
        return ctx.mean[bad], [a[others] for a in arrays]

    _, want = results(case.x)
    for value in (np.inf, np.nan):
        spoiled = case.x.copy()
        np.moveaxis(spoiled, axis, 0)[bad].flat[-1] = value
        mean, got = results(spoiled)
        assert not np.isfinite(mean)
        assert_same_bits(got, want)


def apart(a: np.ndarray) -> np.ndarray:
    """The same values with something between any two channels' runs, which are then read singly."""
    wide = np.zeros((*a.shape[:-1], a.shape[-1] + 24), a.dtype)
    wide[..., : a.shape[-1]] = a
    return wide[..., : a.shape[-1]]


def misaligned(a: np.ndarray, by: int = 3) -> np.ndarray:
    """A copy that begins `by` elements behind a cache line."""
    buffer = np.zeros(a.size + 128, a.dtype)
    start = (-buffer.ctypes.data % 64) // a.dtype.itemsize + by
    view = buffer[start : start + a.size].reshape(a.shape)
    view[...] = a
    return view


@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_memory_with_gaps_or_out_of_line_gives_the_same_bits(shape, axis):
    gamma, beta = np.linspace(-1, 2, 2 * shape[axis]).reshape(2, -1)
    for dtype in DTYPES:
        x, dy, residual = (numbers(shape, dtype, seed) for seed in range(3))

        def results(form, arrays=(x, dy, residual)):
            x, dy, residual = (form(a) for a in arrays)
            out, dx = form(np.zeros_like(x)), form(np.zeros_like(x))
            options = {"axis": axis, "residual": residual, "activation": "relu"}
            y, ctx = bnfast.batch_norm(x, gamma, beta, out=out, **options)
            return [y, ctx.mean, ctx.var, *bnfast.batch_norm_backward(dy, ctx, out=dx)]

        want = results(np.copy)
        for form in (apart, misaligned, lambda a: as_view(a, "strided")):
            assert_same_bits(results(form), want)


def test_slices_of_short_and_of_long_runs():
    """Which are read in place, and written past the caches only where their lines are whole."""
    for nbytes in around("short_run_bytes"):
        n = nbytes // 4
        whole = numbers((9, 8, n))
        y, _ = bnfast.batch_norm(whole[:, ::2])
        assert_same_bits([y], [bnfast.batch_norm(whole[:, ::2].copy())[0]])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("shape", "axis"), SMALL)
def test_dropout_in_the_same_pass_is_that_of_separate_calls(shape, axis, threads):
    """Vectors begin anywhere in a word of the mask; bits are kept for dx, or made again."""
    for k, dtype in enumerate(DTYPES):
        options: dict[str, Any] = {"activation": ACTIVATIONS[(sum(shape) + k) % len(ACTIVATIONS)]}
        if k % 2 and threads == 1:
            options["where"] = where_for(shape, axis) < 0.8
        case = case_for(shape, axis, dtype, **options)
        with bnfast.num_threads(threads):
            check_fused_dropout(case, by=(sum(shape) + 5 * k) % 32)


@pytest.mark.parametrize(("shape", "axis"), LARGE)
def test_dropout_of_tensors_that_threads_share_is_that_of_separate_calls(shape, axis):
    for threads, activation in ((1, "silu"), (2, "relu"), (3, "relu")):
        with bnfast.num_threads(threads):
            check_fused_dropout(
                case_for(shape, axis, np.float32, activation=activation), by=threads
            )


def leave_another_mask(case: Case) -> None:
    """In memory that is used again, where bits that are read but were not made are then wrong."""
    options = {**case.options, "dropout": 0.5, "seed": 77}
    _, ctx = bnfast.batch_norm(case.x, case.gamma, case.beta, **options)
    bnfast.batch_norm_backward(case.dy, ctx)


def check_fused_dropout(case: Case, by: int) -> None:
    leave_another_mask(case)
    x, dy, dtype = case.x, case.dy, np.dtype(case.x.dtype)
    out, dx = misaligned(np.zeros_like(x), by), misaligned(np.zeros_like(x), by)
    arguments = (x, case.gamma, case.beta)
    y, ctx = bnfast.batch_norm(*arguments, **case.options, dropout=0.3, seed=by, out=out)
    grads = bnfast.batch_norm_backward(dy, ctx, out=dx)
    plain, plain_ctx = bnfast.batch_norm(*arguments, **case.options)
    again, _ = bnfast.batch_norm(
        *arguments, **case.options, dropout=0.3, seed=by, stats=ctx.moments
    )
    assert_same_bits([again], [y])
    kept = bnfast.dropout_mask(x.shape, 0.3, seed=by)
    assert not y[~kept].any()
    np.testing.assert_array_equal(y[kept] != 0, plain[kept] != 0)
    if dtype.itemsize > 2:  # 16-bit types skip the roundings in between
        want, mask = bnfast.dropout(plain, 0.3, seed=by)
        want_grads = bnfast.batch_norm_backward(bnfast.dropout_backward(dy, mask), plain_ctx)
        assert_same_bits([y, *grads], [want, *want_grads])


# --- decisions drawn at random --------------------------------------------------------------------


def random_case(rng: np.random.Generator) -> Case:
    """A call of any kind, on one of the shapes at the borders, or on one like it."""
    shape, axis = SMALL[rng.integers(len(SMALL))]
    if rng.random() < 0.5:
        shape = tuple(int(max(1, n + rng.integers(-3, 4))) for n in shape)
    if len(shape) == 3 and rng.random() < 0.3:
        shape = (*shape[:2], 1, shape[2])
    dtype = DTYPES[rng.integers(len(DTYPES))]

    def tensor(seed: int) -> np.ndarray:
        a = numbers(shape, dtype, seed)
        form = rng.choice(["C", "C", "C", "apart", *VIEWS])
        return apart(a) if form == "apart" else as_view(a, form)

    options: dict[str, Any] = {"activation": ACTIVATIONS[rng.integers(len(ACTIVATIONS))]}
    options["eps_placement"] = str(rng.choice(["var", "std"]))
    if rng.random() < 0.3:
        options["residual"] = tensor(2)
    if rng.random() < 0.3:
        options["where"] = where_for(shape, axis, 3) < rng.choice([0.1, 0.8])
    if rng.random() < 0.4:
        options |= {
            "dropout": float(rng.choice([0.0, 0.3, 0.5, 1.0])),
            "seed": int(rng.integers(9)),
        }
    case = case_for(shape, axis, dtype, **options)
    case.x, case.dy = tensor(0), tensor(1)
    if rng.random() < 0.2:
        case.x = (case.x * np.array(1e-3, dtype) + np.array(100, dtype)).astype(dtype)
    return case


def in_place(case: Case) -> list[np.ndarray]:
    """Training over x, where the options and numbers allow it."""
    activation = {"leaky_relu": "leaky_relu", "elu": "elu"}.get(case.options["activation"])
    if activation == "elu" and case.x.dtype.itemsize == 2:
        activation = None
    x = case.x.copy(order="K")
    y, ctx = bnfast.batch_norm(x, axis=case.axis, activation=activation, out=x)
    return [y, *bnfast.batch_norm_backward(case.dy, ctx)]


@pytest.mark.parametrize("first", range(0, 600, 25))
def test_a_schedule_drawn_at_random_changes_no_bit(first):
    for seed in range(first, first + 25):
        case = random_case(np.random.default_rng(seed))
        with bnfast.num_threads(1):
            want, want_in_place = bits_of_every_result(case), in_place(case)
        with bnfast.num_threads(1 + seed % 5), random_schedule(seed):
            leave_another_mask(case)
            assert_equal_bits(bits_of_every_result(case), want)
            assert_same_bits(in_place(case), want_in_place)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "axis"), [*LARGE[::2], ((0, 800, 4), 1)])
def test_a_random_schedule_of_tensors_that_threads_share(shape, axis, seed):
    options: dict[str, Any] = {"activation": ["relu", "silu"][seed % 2]}
    if seed >= 2:
        options |= {"dropout": 0.3, "seed": 1}
    case = case_for(shape, axis, DTYPES[seed], **options)
    with bnfast.num_threads(1):
        want = bits_of_every_result(case)
    with bnfast.num_threads(2 + seed), random_schedule(seed):
        leave_another_mask(case)
        assert_equal_bits(bits_of_every_result(case), want)


DRAWN = """
import os
import numpy as np
import bnfast

def threads():
    bnfast.batch_norm(np.ones((8, 4, 64), np.float32))
    return len(os.listdir("/proc/self/task"))

alone = threads()
for seed in range(20):
    bnfast._core.randomise_schedule(seed)
    threads()
assert threads() > alone, alone
"""


@pytest.mark.skipif(
    sys.platform != "linux" or bnfast._core.usable_cpus() < 2, reason="counts the threads of Linux"
)
def test_decisions_are_drawn():
    """Or the tests above would compare one schedule with itself: a small call wakes threads."""
    done = python("-c", DRAWN, BNFAST_NUM_THREADS="4")
    assert done.returncode == 0, done.stderr


NEAR_OR_FAR = """
import hashlib
import numpy as np
import bnfast

for shape, axis in [((16, 64, 28, 28), 1), ((150, 256, 7, 7), 1), ((12544, 64), -1)]:
    x, dy = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    with bnfast.num_threads(2):
        for options in ({"activation": "relu", "residual": dy}, {"dropout": 0.3, "seed": 1}):
            y, ctx = bnfast.batch_norm(x, axis=axis, **options)
            grads = [a for a in bnfast.batch_norm_backward(dy, ctx) if a is not None]
            print(*(hashlib.sha256(a.tobytes()).hexdigest() for a in (y, *grads)))
"""


def test_where_the_shared_cache_is_taken_to_be_shows_in_no_bit():
    printed = set()
    for kind in ("near", "far"):
        done = python("-c", NEAR_OR_FAR, BNFAST_L3=kind, BNFAST_TARGET=bnfast.active_target())
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    assert len(printed) == 1 and printed.pop().count("\n") == 6
