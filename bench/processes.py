"""Two processes that use bnfast at once, one beside a busy program, and one that waits."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from peers import BnFast
from report import markdown_table
from shapes import Shape, named
from timing import Summary, ratio, summarise
from workload import OPERATIONS, Case

PROCESSES = 2
# What libgomp's threads do when they have nothing to do. By default they spin for some milliseconds
# and then sleep; passive, they sleep at once; or they spin for a few thousand turns.
SETTINGS = ("default", "OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=5000")
# From the order to the beginning of the loop: long enough for every process to be awake.
START_SECONDS = 0.02
# All memory; all cache; all overhead.
SHAPES = ("64x56x56", "256x1024", "32x64")
SMOKE_SHAPES = ("32x64",)
IDLE_SHAPE = "256x1024"  # wakes all threads, and is made in no time


@dataclass(frozen=True)
class Effort:
    """How often and how long a process runs its loop, and for how long it then waits."""

    rounds: int
    seconds: float
    idle_seconds: float


FULL = Effort(rounds=7, seconds=0.1, idle_seconds=0.5)
SMOKE = Effort(rounds=2, seconds=0.02, idle_seconds=0.05)


@dataclass(frozen=True)
class Order:
    """What a process is to do: a loop of calls, and then nothing for a while."""

    shape: Shape
    threads: int
    start: float  # of time.monotonic(), which is one clock for all processes
    seconds: float
    idle_seconds: float = 0.0


@dataclass(frozen=True)
class Done:
    """Calls a second of the loop, and what the process took of the CPU while it waited."""

    rate: float
    idle_cpu_seconds: float


def serve(pipe: Connection) -> None:
    """A process of ours: obeys orders until the pipe is closed."""
    library = BnFast(1)
    calls: dict[Shape, Callable[[], object]] = {}
    while True:
        try:
            order: Order = pipe.recv()
        except EOFError:
            return
        if order.shape not in calls:
            layout = order.shape.layouts(["planes"])[0]
            case = Case(OPERATIONS["forward"], order.shape, layout, "float32")
            calls[order.shape] = library.contenders(case)[0].call
        library.set_num_threads(order.threads)
        pipe.send(obey(order, calls[order.shape]))


def obey(order: Order, call: Callable[[], object]) -> Done:
    call()
    time.sleep(max(0.0, order.start - time.monotonic()))
    begin, end, count = time.monotonic(), order.start + order.seconds, 0
    while (now := time.monotonic()) < end:
        call()
        count += 1
    before = time.process_time()  # of all threads, those that only spin included
    time.sleep(order.idle_seconds)
    return Done(count / (now - begin), time.process_time() - before)


def spin(pipe: Connection) -> None:
    """Another program: keeps one core busy until the time that it is told."""
    while True:
        try:
            end: float = pipe.recv()
        except EOFError:
            return
        while time.monotonic() < end:
            pass


@dataclass(frozen=True)
class Processes:
    """Their pipes."""

    ours: list[Connection]
    busy: Connection


@contextmanager
def workers(setting: str) -> Iterator[Processes]:
    """All wait for orders. Spawned: a forked one would not have OpenMP's threads."""
    context = multiprocessing.get_context("spawn")
    former = dict(os.environ)
    for other in SETTINGS:
        os.environ.pop(other.partition("=")[0], None)
    if setting != "default":
        name, _, value = setting.partition("=")
        os.environ[name] = value  # libgomp reads it once, when it is loaded
    pipes: list[Connection] = []
    processes = []
    try:
        for target in (*[serve] * PROCESSES, spin):
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        yield Processes(pipes[:-1], pipes[-1])
    finally:
        os.environ.clear()
        os.environ.update(former)
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def ask(pipes: Sequence[Connection], order: Order) -> list[Done]:
    for pipe in pipes:
        pipe.send(order)
    return [pipe.recv() for pipe in pipes]


def throughput(
    processes: Processes, shape: Shape, threads: int, effort: Effort
) -> dict[str, list[float]]:
    """Calls a second of all processes, one value a round, for each way to share the cores."""

    def rate(count: int, threads: int, busy: bool = False) -> float:
        start = time.monotonic() + START_SECONDS
        if busy:
            processes.busy.send(start + effort.seconds)
        done = ask(processes.ours[:count], Order(shape, threads, start, effort.seconds))
        return sum(one.rate for one in done)

    ask(processes.ours, Order(shape, threads, 0.0, 0.0))  # makes the arrays, wakes the threads
    fewer = max(1, threads // PROCESSES)
    ways = {
        "one": partial(rate, 1, threads),
        "all": partial(rate, PROCESSES, threads),
        "share": partial(rate, PROCESSES, fewer),
        "busy": partial(rate, 1, threads, busy=True),
        "busy share": partial(rate, 1, fewer, busy=True),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(effort.rounds):
        for name in ways if index % 2 == 0 else reversed(ways):
            found[name].append(ways[name]())
    return found


def idle_milliseconds(pipe: Connection, shape: Shape, threads: int, effort: Effort) -> Summary:
    """Of CPU time, after a loop of calls has ended."""
    found = []
    for _ in range(effort.rounds):
        start = time.monotonic() + START_SECONDS
        order = Order(shape, threads, start, effort.seconds, effort.idle_seconds)
        found.append(ask([pipe], order)[0].idle_cpu_seconds * 1e3)
    return summarise(found)


def print_processes(threads: int, smoke: bool) -> None:
    """All three tables."""
    effort, names = (SMOKE, SMOKE_SHAPES) if smoke else (FULL, SHAPES)
    shared, beside, idle = [], [], []
    for setting in SETTINGS:
        with workers(setting) as processes:
            for name in names:
                found = throughput(processes, named(name), threads, effort)
                relative = {way: str(ratio(found[way], found["one"])) for way in found}
                alone = f"{summarise(found['one']).median:.0f}"
                shared.append([name, setting, alone, relative["all"], relative["share"]])
                beside.append([name, setting, alone, relative["busy"], relative["busy share"]])
            waiting = idle_milliseconds(processes.ours[0], named(IDLE_SHAPE), threads, effort)
            idle.append([IDLE_SHAPE, setting, f"{waiting.median:.2f}", f"{waiting.upper:.2f}"])
    fewer = max(1, threads // PROCESSES)
    head = ["shape", "setting", "alone, calls/s", f"{threads} threads", f"{fewer} thread(s)"]
    print(f"\n## {PROCESSES} processes at once: forward, calls a second of both together\n")
    print(f"Relative to one process with {threads} threads; 1 is the same work in the same time.\n")
    print(markdown_table(head, shared))
    print("\n## One process beside another program that keeps one core busy\n")
    print("Relative to the same process alone.\n")
    print(markdown_table(head, beside))
    seconds = effort.idle_seconds
    print(f"\n## A process that waits: CPU time in the {seconds} s after its last call\n")
    print(markdown_table(["shape", "setting", "ms, median", "ms, upper quartile"], idle))
