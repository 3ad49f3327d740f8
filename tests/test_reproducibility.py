"""The same bits for any number of threads, SIMD target, calling thread, and in a forked child."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from borders import LARGE, SMALL
from cases import DTYPES, Case, assert_equal_bits, bits_of_every_result, cases, numbers
from hypothesis import given, settings
from programs import python

import bnfast


def case_of(shape, axis, dtype=np.float32, masked=False) -> Case:
    x, dy, residual = (numbers(shape, dtype, seed) for seed in range(3))
    options: dict[str, Any] = {"axis": axis, "residual": residual, "activation": "silu"}
    if masked:
        mask_shape = [1 if d == axis % len(shape) else n for d, n in enumerate(shape)]
        options["where"] = np.random.default_rng(3).random(mask_shape) < 0.8
    return Case(x, dy, *numbers((2, shape[axis]), np.float64), options)


def check_threads_and_targets(case: Case, threads: tuple[int, ...]) -> None:
    with bnfast.num_threads(1):
        want = bits_of_every_result(case)
    for target in bnfast.targets():
        for n in threads if target == bnfast.active_target() else threads[-1:]:
            with bnfast.use_target(target), bnfast.num_threads(n):
                assert_equal_bits(bits_of_every_result(case), want)


@pytest.mark.parametrize(("shape", "axis"), LARGE)
def test_threads_and_targets(shape, axis):
    check_threads_and_targets(case_of(shape, axis), (2, 5, 3))


@pytest.mark.parametrize(("shape", "axis"), LARGE[1::3])
def test_threads_and_targets_with_where(shape, axis):
    check_threads_and_targets(case_of(shape, axis, masked=True), (2, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"activation": "relu", "dropout": 0.3, "seed": 5}], ids=["plain", "dropout"]
)
def test_threads_and_targets_on_shapes_of_every_kind(dtype, options):
    for shape, axis in SMALL:
        case = case_of(shape, axis, dtype)
        case.options |= options
        check_threads_and_targets(case, (3,))


@settings(max_examples=150)
@given(cases())
def test_targets_on_small_arrays(case):
    check_threads_and_targets(case, (1,))


def test_from_several_python_threads_at_once():
    jobs = [case_of(shape, axis) for shape, axis in LARGE[::4]]
    want = [bits_of_every_result(job) for job in jobs]
    start = threading.Barrier(len(jobs))
    wrong: list[Any] = []

    def work(k: int) -> None:
        try:
            start.wait(30)
            for _ in range(4):
                assert_equal_bits(bits_of_every_result(jobs[k]), want[k])
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(jobs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


FORK = """
import os, sys, time, warnings
import numpy as np, bnfast
warnings.simplefilter("ignore")
bnfast.set_num_threads(4)
x = np.random.default_rng(0).normal(size=(64, 32, 40, 40)).astype(np.float32)
want = bnfast.batch_norm(x)[0].tobytes()  # starts the threads
if "{how}" == "os.fork":
    child = os.fork()
    if child == 0:
        y, ctx = bnfast.batch_norm(x)
        grads = bnfast.batch_norm_backward(x, ctx)
        os._exit(0 if y.tobytes() == want and np.isfinite(grads.dx).all() else 3)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            sys.exit(os.waitstatus_to_exitcode(status))
        time.sleep(0.05)
    os.kill(child, 9)
    sys.exit(4)
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    got = pool.map_async(bnfast.moments, [x, x]).get(30)
assert all(m == bnfast.moments(x) for m in got)
assert bnfast.batch_norm(x)[0].tobytes() == want  # the parent goes on
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
def test_a_forked_child_computes(how):
    done = python("-c", FORK.replace("{how}", how))
    assert done.returncode == 0, (done.returncode, done.stderr)
