"""The number of threads comes from the system or the environment, and shows in no result."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

import numpy as np
import pytest
from programs import python

import bnfast

pytestmark = pytest.mark.core

CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
COUNT = "import bnfast; print(bnfast.get_num_threads())"


def threads_with(**environment: str) -> int:
    done = python("-c", COUNT, **environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("n", [1, 3, 65536])
def test_threads_from_the_environment(n):
    assert threads_with(BNFAST_NUM_THREADS=str(n)) == n


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_threads_default_to_the_cpus_that_may_be_used():
    script = """
import os
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, cpus[:{n}])
import bnfast
print(bnfast.get_num_threads())
"""
    one = python("-c", script.format(n=1))
    assert one.stdout.strip() == "1", one.stderr
    all_of_them = python("-c", script.format(n=1000))
    assert 1 <= int(all_of_them.stdout) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"},
        {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"},
        {"GOMP_CPU_AFFINITY": f"0-{CPUS - 1}"},
    ],
    ids=str,
)
@pytest.mark.skipif(CPUS < 2, reason="one CPU")
def test_that_openmp_binds_the_importing_thread_does_not_count(environment):
    assert threads_with(**environment) == threads_with()
    script = """
import numpy as np
import bnfast
x = np.random.default_rng(0).standard_normal((64, 8, 2000))
y = bnfast.batch_norm(x)[0]
with bnfast.num_threads(1):
    assert np.array_equal(y, bnfast.batch_norm(x)[0])
"""
    assert python("-c", script, **environment).returncode == 0


def test_the_environment_of_openmp_lowers_the_number():
    usual = threads_with()
    assert threads_with(OMP_NUM_THREADS="1") == 1
    assert threads_with(OMP_NUM_THREADS="1,4") == 1
    assert threads_with(OMP_THREAD_LIMIT="1") == 1
    assert threads_with(OMP_NUM_THREADS="64") == usual
    assert threads_with(OMP_NUM_THREADS="1", BNFAST_NUM_THREADS="2") == 2
    for nonsense in ("", "0", "-1", "two"):  # as OpenMP itself takes them
        assert threads_with(OMP_NUM_THREADS=nonsense) == usual


NO_MORE_THREADS = """
import os, resource, threading
import numpy as np
import bnfast
x = np.random.default_rng(0).standard_normal((64, 8, 2000))
want = bnfast.batch_norm(x)[0] if {pool} else None
os.setgroups([])
os.setgid(65534)
os.setuid({user})  # the limit does not hold for root
resource.setrlimit(resource.RLIMIT_NPROC, ({limit}, {limit}))
y, ctx = bnfast.batch_norm(x)
grads = bnfast.batch_norm_backward(y, ctx)
bnfast.dropout(x)
with bnfast.num_threads(64):
    bnfast.moments(x)
if want is not None:
    assert np.array_equal(y, want)
def work():
    assert np.array_equal(y, bnfast.batch_norm(x)[0])
try:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
except RuntimeError:  # Python cannot start one either
    pass
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 4])
def test_where_no_more_threads_are_to_be_had(limit, pool):
    """libgomp ends the process that it cannot start a thread in."""
    user = 54_000 + 10 * limit + pool
    done = python("-c", NO_MORE_THREADS.format(limit=limit, pool=pool, user=user))
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


FENV_BYTES, MXCSR_AT, FLUSH = 32, 28, 0x8040  # fenv_t of glibc on x86-64; FTZ and DAZ


def set_mxcsr(change):
    """Set the SSE control register of this thread to what `change` makes of it."""
    libm = ctypes.CDLL("libm.so.6")
    fenv = (ctypes.c_uint8 * FENV_BYTES)()
    libm.fegetenv(fenv)
    mxcsr = ctypes.c_uint32.from_buffer(fenv, MXCSR_AT)
    before = mxcsr.value
    mxcsr.value = change(before)
    libm.fesetenv(fenv)
    return before


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="sets x86's MXCSR"
)
def test_results_do_not_depend_on_who_flushes_denormals():
    """torch.set_flush_denormal and the like: a pool's threads keep what they were started with."""
    x = (np.random.default_rng(0).standard_normal((64, 8, 2000)) * 1e-39).astype(np.float32)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def results():
        y, ctx = bnfast.batch_norm(x, np.full(8, 1e-40), eps=0.0, activation="tanh")
        grads = bnfast.batch_norm_backward(dy, ctx)
        dropped, _ = bnfast.dropout(x, 0.3, seed=1)
        inference = bnfast.batch_norm_inference(x, ctx.mean, ctx.var, np.full(8, 1e-3), eps=0.0)
        return [a.tobytes() for a in (y, grads.dx, grads.dgamma, dropped, inference)] + [
            bnfast.moments(x).to_bytes()
        ]

    want = results()
    for threads in (1, 2):
        got = []

        def work(got=got, threads=threads):
            before = set_mxcsr(lambda mxcsr: mxcsr | FLUSH)
            try:
                with bnfast.num_threads(threads):
                    got.append(results())
                assert set_mxcsr(lambda mxcsr: mxcsr) & FLUSH == FLUSH
            finally:
                set_mxcsr(lambda mxcsr: before)

        work()
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        assert got == [want, want]
