"""bench/threads.py and bench/processes.py: the tables are whole, and their arithmetic is right."""

from __future__ import annotations

import os
import re
import time

import pytest
from bench_programs import bench_programs

import bnfast


@pytest.fixture(scope="module")
def bench():
    count = bnfast.get_num_threads()
    with bench_programs("processes", "threads") as programs:
        yield programs
    bnfast.set_num_threads(count)


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_numbers_of_threads(bench, most, expected):
    assert bench["threads"].counts_up_to(most) == expected


def test_speed_up_is_time_alone_over_time_together(bench):
    seconds = {"bnfast 1": [4.0, 8.0], "bnfast 2": [2.0, 4.0], "floor 1": [3.0], "floor 2": [2.0]}
    assert bench["threads"].speed_ups(seconds, [1, 2]) == ["2.00 ±0.00", "1.50 ±0.00"]


def test_a_process_that_spins_is_noticed(bench):
    processes = bench["processes"]

    class Spinning:
        """Burns CPU time in what obey takes for sleep."""

        def sleep(self, seconds):
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass

        def __getattr__(self, name):
            return getattr(time, name)

    time.sleep(0.1)  # OpenMP's threads may still spin after an earlier test
    order = processes.Order(None, 1, time.monotonic(), 0.01, idle_seconds=0.05)
    assert processes.obey(order, lambda: None).idle_cpu_seconds < 0.04
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "time", Spinning())
        assert processes.obey(order, lambda: None).idle_cpu_seconds >= 0.05


def test_rate_counts_calls(bench):
    processes = bench["processes"]
    order = processes.Order(None, 1, time.monotonic(), 0.05)
    assert 20 < processes.obey(order, lambda: time.sleep(0.005)).rate <= 200


def test_ways_to_share_the_cores(bench):
    """Who is asked for what: all threads alone, two processes, and beside a busy core."""
    processes = bench["processes"]
    asked, busy = [], []

    class Ours:
        def send(self, order):
            asked.append((order.threads, bool(busy)))

        def recv(self):
            return processes.Done(10.0, 0.0)

    class Busy:
        def send(self, end):
            assert end > time.monotonic()
            busy.append(end)

    there = processes.Processes([Ours(), Ours()], Busy())
    found = processes.throughput(there, None, 4, processes.Effort(1, 0.01, 0.0))
    assert found == {
        "one": [10.0],
        "all": [20.0],
        "share": [20.0],
        "busy": [10.0],
        "busy share": [10.0],
    }
    alone = [(4, False)] * 2 + [(4, False)] + [(4, False)] * 2 + [(2, False)] * 2
    assert asked == [*alone, (4, True), (2, True)]
    assert len(busy) == 2


def test_settings_reach_the_processes_and_no_one_else(bench, monkeypatch):
    processes = bench["processes"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    seen = []

    class Process:
        def __init__(self, **_):
            pass

        def start(self):
            seen.append(os.environ.get("OMP_WAIT_POLICY"))

        def join(self):
            pass

    class Context:
        Pipe = staticmethod(processes.multiprocessing.Pipe)

    Context.Process = Process
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda _: Context)
    for setting in ("default", "OMP_WAIT_POLICY=passive"):
        with processes.workers(setting):
            pass
    assert seen == [None] * 3 + ["passive"] * 3
    assert os.environ["OMP_WAIT_POLICY"] == "active"


def test_smoke_prints_every_table(bench, capsys):
    assert bench["threads"].main(["--smoke", "--threads", "2", "--parts", "scaling,sizes"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if re.match(r"\| (4x4-batch8, planes|32x64) ", line)]
    assert [row.split("|")[2].strip() for row in rows] == 2 * ["forward", "backward", "dropout"]
    assert len({row.count("|") for row in rows[:3]}) == 1


def test_unknown_part_is_an_error(bench, capsys):
    with pytest.raises(SystemExit):
        bench["threads"].main(["--parts", "scaling,nonsense"])
    assert "--parts: got nonsense, expected of scaling,sizes" in capsys.readouterr().err
