"""Targets and settings hold for blocks of code and come from the environment; processes end."""

from __future__ import annotations

import re
import sys
import threading

import numpy as np
import pytest
from programs import python

import bnfast

pytestmark = pytest.mark.core


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


@pytest.mark.parametrize(("kind", "shown"), [("near", "near"), ("far", "as far as memory")])
def test_where_the_shared_cache_is_said_to_be_is_shown(kind, shown):
    done = python("-m", "bnfast", BNFAST_L3=kind)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("L3 ")]
    assert all(row.endswith(f"taken to be {shown}") for row in rows)
    assert len(rows) == (bnfast._core.shared_cache_bytes() > 0)


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


@pytest.mark.parametrize("setting", ["num_threads", "use_target"])
def test_blocks_may_end_in_any_order(setting):
    block = getattr(bnfast, setting)
    get = bnfast.get_num_threads if setting == "num_threads" else bnfast.active_target
    values = [3, 5] if setting == "num_threads" else [bnfast.targets()[-1], bnfast.targets()[0]]
    before = get()
    first, second = (block(value) for value in values)
    first.__enter__()
    assert get() == values[0]
    second.__enter__()
    assert get() == values[1]
    first.__exit__(None, None, None)
    assert get() == values[1]
    second.__exit__(None, None, None)
    assert get() == before


def test_blocks_in_many_threads_leave_what_was_set():
    before = bnfast.get_num_threads(), bnfast.active_target()
    meeting = threading.Barrier(8)

    def work(n: int) -> None:
        meeting.wait(60)
        for _ in range(200):
            with bnfast.num_threads(n), bnfast.use_target(bnfast.targets()[n % 2 - 1]):
                pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(n + 1,)) for n in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert (bnfast.get_num_threads(), bnfast.active_target()) == before


def test_a_block_that_cannot_be_changes_nothing():
    before = bnfast.get_num_threads(), bnfast.active_target()
    for block in (bnfast.num_threads(0), bnfast.use_target("sparc")):
        with pytest.raises(ValueError, match="expected"), block:
            pass
    for block in (bnfast.num_threads(True), bnfast.use_target(1)):
        with pytest.raises(TypeError, match="expected"), block:
            pass
    assert (bnfast.get_num_threads(), bnfast.active_target()) == before


ENDS = """
import threading, time
import numpy as np
import bnfast

zero, one = np.zeros(64), np.ones(64)

def start(rows):
    x = np.ones((rows, 64, 200), np.float32)
    ctx = bnfast.batch_norm(x)[1]
    dropped = bnfast.dropout(x)[1]
    layer, drop = bnfast.BatchNorm(64), bnfast.Dropout()
    call = lambda: {call}

    def work():
        while True:
            call()

    threading.Thread(target=work, daemon=True).start()

for rows in (1, 400, 1):  # small calls keep the GIL, large ones release it
    start(rows)
time.sleep(0.1)
"""


@pytest.mark.parametrize(
    "call",
    [
        "bnfast.moments(x)",
        "bnfast.batch_norm(x)",
        "bnfast.batch_norm_backward(x, ctx)",
        "bnfast.batch_norm_backward_sums(x, ctx)",
        "bnfast.batch_norm_inference(x, zero, one)",
        "bnfast.batch_norm_frozen(x, zero, one)",
        "bnfast.dropout(x)",
        "bnfast.dropout_backward(x, dropped)",
        "bnfast.dropout_inference(x)",
        "bnfast.dropout_mask(x.shape, 0.5, seed=1)",
        "ctx.moments",
        "layer.backward(layer(x))",
        "drop.backward(drop(x))",
    ],
)
def test_a_process_ends_while_threads_are_in_a_call(call):
    """Daemon threads never get the GIL back once Python is ending, and must not unwind."""
    done = python("-c", ENDS.format(call=call))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_sub_interpreter_is_refused():
    interpreters = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    script = f"""
import {interpreters} as interpreters
import bnfast
there = interpreters.create()
inside = "import warnings; warnings.simplefilter('ignore'); import bnfast"
try:
    failure = interpreters.run_string(there, inside)
except Exception as error:
    failure = error
print(failure)
"""
    done = python("-c", script)  # Python 3.12 and later refuse by themselves
    assert re.search("ImportError.*sub-?interpreter", done.stdout), done
