"""Threads, targets, environment variables, the printed configuration, the GIL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import bnfast


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python with BNFAST_ variables as given and no others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BNFAST_")}
    kept["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(autouse=True)
def _same_settings_afterwards():
    before = bnfast.get_num_threads(), bnfast.active_target()
    yield
    assert (bnfast.get_num_threads(), bnfast.active_target()) == before


def test_num_threads_is_what_was_set():
    before = bnfast.get_num_threads()
    with bnfast.num_threads(7):
        assert bnfast.get_num_threads() == 7
        with bnfast.num_threads(2):
            assert bnfast.get_num_threads() == 2
        assert bnfast.get_num_threads() == 7
        bnfast.set_num_threads(np.int64(3))
        assert bnfast.get_num_threads() == 3
    assert bnfast.get_num_threads() == before
    with pytest.raises(KeyError), bnfast.num_threads(5):
        raise KeyError
    assert bnfast.get_num_threads() == before


def test_use_target():
    before = bnfast.active_target()
    assert before in bnfast.targets() and isinstance(bnfast.targets(), tuple)
    for name in bnfast.targets():
        with bnfast.use_target(name):
            assert bnfast.active_target() == name
        with pytest.raises(KeyError), bnfast.use_target(name):
            raise KeyError
        assert bnfast.active_target() == before


@pytest.mark.parametrize("n", [1, 3, 65536])
def test_threads_from_the_environment(n):
    done = python("-c", "import bnfast; print(bnfast.get_num_threads())", BNFAST_NUM_THREADS=str(n))
    assert done.stdout.strip() == str(n), done.stderr


@pytest.mark.parametrize("name", bnfast.targets())
def test_target_from_the_environment(name):
    done = python("-c", "import bnfast; print(bnfast.active_target())", BNFAST_TARGET=name)
    assert done.stdout.strip() == name, done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BNFAST_TARGET", "sparc"),
        ("BNFAST_TARGET", ""),
        ("BNFAST_NUM_THREADS", "0"),
        ("BNFAST_NUM_THREADS", "-1"),
        ("BNFAST_NUM_THREADS", "two"),
        ("BNFAST_NUM_THREADS", "1.5"),
        ("BNFAST_NUM_THREADS", "65537"),
        ("BNFAST_NUM_THREADS", "\N{ARABIC-INDIC DIGIT THREE}"),
        ("BNFAST_L3", "fast"),
    ],
)
def test_a_setting_that_cannot_be_is_an_import_error(variable, value):
    done = python("-c", "import bnfast", **{variable: value})
    assert done.returncode == 1
    assert f"ImportError: {variable} is {value!r}, expected" in done.stderr


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


def test_python_m_bnfast_prints_the_configuration(capsys):
    bnfast.show_config()
    shown = capsys.readouterr().out
    done = python("-m", "bnfast")
    assert done.returncode == 0, done.stderr
    for text in (shown, done.stdout):
        rows = dict(line.split(maxsplit=1) for line in text.splitlines() if len(line.split()) > 1)
        assert rows["bnfast"] == bnfast.__version__
        assert all(name in rows["targets"] for name in bnfast.targets())
        assert f"{bnfast.active_target()} (active)" in shown
        assert "threads" in rows and "CUDA" in rows


def test_importing_bnfast_imports_no_framework():
    done = python(
        "-c", "import sys, bnfast; print([m for m in ('torch', 'jax') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_gil_is_released():
    x = np.ones((64, 8, 60000), np.float32)
    interval = sys.getswitchinterval()
    running = threading.Event()
    finished: list[bool] = []

    def work() -> None:
        running.set()
        bnfast.moments(x)
        finished.append(True)

    sys.setswitchinterval(1000)  # nobody is made to give the GIL up
    try:
        for _ in range(10):
            finished.clear()
            running.clear()
            worker = threading.Thread(target=work)
            worker.start()
            running.wait(60)
            during_the_call = not finished
            worker.join(60)
            if during_the_call:
                return
    finally:
        sys.setswitchinterval(interval)
    raise AssertionError("the main thread never ran during a call")
