"""The same bits for any threads, SIMD target, strides, calling thread, and in a forked child."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, as_view, cases
from hypothesis import given, settings

import bnfast

# Above the sizes where work is shared out, on both sides of what fits into a core's cache.
SHAPES = [
    ((8, 16, 41, 41), 1),
    ((2, 3, 40001), 1),
    ((120, 64, 7, 7), 1),
    ((15011, 16), 1),
    ((900, 300), 1),
    ((250001,), 0),
    ((40011, 3), 1),
    ((60, 300, 3, 3), 1),
    ((1, 1, 200007), 1),
]
THREADS = [1, 2, 3, 5]


def everything(case: dict[str, Any]) -> dict[str, bytes]:
    """The bytes of all results of forward, backward and inference."""
    x, dy, gamma, beta, options = (case[k] for k in ("x", "dy", "gamma", "beta", "options"))
    channels = x.shape[options["axis"]]
    y, ctx = bnfast.batch_norm(x, gamma, beta, **options)
    moments = bnfast.moments(x, axis=options["axis"], where=options.get("where"))
    sums = bnfast.batch_norm_backward_sums(dy, ctx)
    grads = bnfast.batch_norm_backward(dy, ctx)
    rest = {k: v for k, v in options.items() if k != "where"}
    with np.errstate(invalid="ignore"):
        inferred = bnfast.batch_norm_inference(x, *np.ones((2, channels)), gamma, beta, **rest)
    arrays = {"y": y, "inference": inferred, "mean": ctx.mean, "var": ctx.var, "invstd": ctx.invstd}
    arrays |= {name: a for name, a in grads._asdict().items() if a is not None}
    result = {name: bits(a) for name, a in arrays.items()}
    return result | {
        "moments": moments.to_bytes(),
        "of ctx": ctx.moments.to_bytes(),
        "sums": sums.to_bytes(),
    }


def bits(a: np.ndarray) -> bytes:
    """Bytes in logical order; NaN is NaN, its sign and payload are not promised."""
    return np.where(np.isnan(a), np.array(np.nan, a.dtype), a).tobytes()


def large_case(shape, axis, dtype, masked=False) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    x, dy, residual = (generator.normal(1, 2, shape).astype(dtype) for _ in range(3))
    options: dict[str, Any] = {"axis": axis, "residual": residual, "activation": "silu"}
    if masked:
        mask_shape = [1 if d == axis else n for d, n in enumerate(shape)]
        options["where"] = generator.random(mask_shape) < 0.8
    gamma, beta = generator.normal(1, 0.3, (2, shape[axis]))
    return {"x": x, "dy": dy, "gamma": gamma, "beta": beta, "options": options}


def assert_equal(got: dict[str, bytes], want: dict[str, bytes]) -> None:
    assert [name for name in want if got[name] != want[name]] == []


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_threads_and_targets(shape, axis, dtype, masked):
    case = large_case(shape, axis, dtype, masked)
    with bnfast.num_threads(1):
        want = everything(case)
    assert want["moments"] == want["of ctx"]
    for target in bnfast.targets():
        for threads in THREADS if target == bnfast.active_target() else (1, 3):
            with bnfast.use_target(target), bnfast.num_threads(threads):
                assert_equal(everything(case), want)


@settings(max_examples=150)
@given(cases())
def test_targets_on_small_arrays(case):
    arguments = vars(case)
    want = everything(arguments)
    for target in bnfast.targets():
        with bnfast.use_target(target):
            assert_equal(everything(arguments), want)


@pytest.mark.parametrize("view", ["strided", "negative", "unaligned"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 5, 700), 1), ((700, 9), 1), ((6, 3, 8, 9), 1), ((5000,), 0)]
)
def test_strides_of_the_same_layout(shape, axis, dtype, view):
    case = large_case(shape, axis, dtype, masked=True)
    want = everything(case)
    other = dict(case, x=as_view(case["x"], view), dy=as_view(case["dy"], view))
    assert_equal(everything(other), want)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views_in_another_order(order, dtype):
    shape = (4, 9, 6, 7)
    memory = np.random.default_rng(1).normal(size=[2 * shape[d] for d in order]).astype(dtype)
    x = memory[tuple(slice(1, None, 2) for _ in order)].transpose(np.argsort(order))
    assert x.shape == shape
    dense = x.copy(order="K")
    rest = {"gamma": None, "beta": np.ones(9), "options": {"axis": 1}}
    want = everything({"x": dense, "dy": dense, **rest})
    assert_equal(everything({"x": x, "dy": x, **rest}), want)


def test_from_several_python_threads_at_once():
    jobs = [large_case(shape, axis, np.float32) for shape, axis in SHAPES[:4]]
    want = [everything(job) for job in jobs]
    start = threading.Barrier(len(jobs))
    wrong: list[Any] = []

    def work(k: int) -> None:
        try:
            start.wait(30)
            for _ in range(4):
                assert_equal(everything(jobs[k]), want[k])
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
    script = FORK.replace("{how}", how)
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
