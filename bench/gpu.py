"""The CUDA backend on a GPU, beside copies of the same bytes and PyTorch: times of CUDA graphs.

    python bench/gpu.py --results bench/results
    python bench/gpu.py --dry-run --results /tmp     # tiny shapes on the CPU: every line runs

Each call is captured once, for as many sets of tensors as the GPU's cache cannot hold together, and
replayed in rounds in which all contenders take turns. So times are the GPU's alone: what Python
takes to make a call is not in them. Needs PyTorch, whose tensors are used.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import git_commit
from shapes import GROUPS
from timing import Summary, geometric_mean, ratio, summarise

import bnfast

Call = Callable[[], object]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BATCH = 256  # of the images
NORM_ELEMENTS = 1 << 26
NORM_FEATURES = (256, 768, 1024, 4096, 8192, 16_384, 65_536)
SAMPLE_SECONDS = 4e-4  # a sample is at least so long: events are exact to half a microsecond
CACHES = 4  # the tensors of a sample are so many times as large as the GPU's cache


@dataclass(frozen=True)
class Operation:
    """What is timed, and what is wanted of it."""

    passes: float  # reads and writes of a tensor of x's size, at least
    most_over_copy: float  # the time of a copy of these bytes
    least_torch_over_ours: float | None = None  # in the geometric mean


OPERATIONS = {
    "forward": Operation(2, 1.2),
    "backward": Operation(3, 1.2),
    "step": Operation(5, 1.2, 1.5),  # forward and backward
    "inference": Operation(2, 1.1),
    "dropout": Operation(2, 1.1),
    "add_relu_dropout": Operation(3, 1.2),  # forward, with a residual
    "add_relu_dropout_step": Operation(8, 1.2, 1.5),
    "layer_norm": Operation(2, 1.15),
    "layer_norm_step": Operation(5, 1.15, 1.5),
    "rms_norm": Operation(2, 1.15),
    "rms_norm_step": Operation(5, 1.15, 1.5),
}
OF_IMAGES = [name for name in OPERATIONS if "norm" not in name]


class Tensors:
    """One set of tensors that calls read and write."""

    def __init__(self, shape: tuple[int, ...], layout: str, dtype: torch.dtype, device: str):
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        order = torch.channels_last if layout == "rows" else torch.contiguous_format

        def tensor() -> torch.Tensor:
            return torch.randn(shape, **options).contiguous(memory_format=order)

        self.x, self.dy, self.residual = tensor(), tensor(), tensor()
        self.y, self.dx = torch.empty_like(self.x), torch.empty_like(self.x)
        self.gamma, self.beta = self.parameters = torch.rand(2, shape[1], device=device).unbind(0)
        self.mean, self.var = torch.zeros_like(self.gamma), torch.ones_like(self.gamma)
        # PyTorch wants parameters of x's dtype, but not of a batch norm.
        own = dtype if layout == "features" else torch.float32
        leaves = (self.x, self.residual, self.gamma.to(own), self.beta.to(own))
        self.leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        self.ctx: Any = None  # of batch norm, for backward alone
        if layout != "features":
            _, self.ctx = bnfast.batch_norm(self.x, *self.parameters)


# --- the calls: of one set of tensors -------------------------------------------------------------


def ours(name: str, t: Tensors) -> object:
    fused = {"residual": t.residual, "activation": "relu", "dropout": 0.1, "seed": 1, "out": t.y}
    match name:
        case "forward":
            return bnfast.batch_norm(t.x, *t.parameters, out=t.y)
        case "backward":
            return bnfast.batch_norm_backward(t.dy, t.ctx, out=t.dx)
        case "step":
            _, ctx = bnfast.batch_norm(t.x, *t.parameters, out=t.y)
            return bnfast.batch_norm_backward(t.dy, ctx, out=t.dx)
        case "inference":
            return bnfast.batch_norm_inference(t.x, t.mean, t.var, *t.parameters, out=t.y)
        case "dropout":
            return bnfast.dropout(t.x, 0.1, seed=1, out=t.y)
        case "add_relu_dropout":
            return bnfast.batch_norm(t.x, *t.parameters, **fused)
        case "add_relu_dropout_step":
            _, ctx = bnfast.batch_norm(t.x, *t.parameters, **fused)
            return bnfast.batch_norm_backward(t.dy, ctx, out=t.dx)
        case "layer_norm":
            return bnfast.layer_norm(t.x, *t.parameters, out=t.y)
        case "layer_norm_step":
            _, ctx = bnfast.layer_norm(t.x, *t.parameters, out=t.y)
            return bnfast.norm_backward(t.dy, ctx, out=t.dx)
        case "rms_norm":
            return bnfast.rms_norm(t.x, t.gamma, out=t.y)
        case _:
            _, ctx = bnfast.rms_norm(t.x, t.gamma, out=t.y)
            return bnfast.norm_backward(t.dy, ctx, out=t.dx)


def torchs(name: str, t: Tensors) -> Any:
    """The same by PyTorch, or None where it has no such call apart: backward."""
    x, residual, gamma, beta = t.leaves
    with torch.set_grad_enabled(name.endswith("step")):
        match name.removesuffix("_step"):
            case "backward":
                return None
            case "forward" | "step":
                y = F.batch_norm(x, t.mean, t.var, gamma, beta, training=True)
            case "inference":
                y = F.batch_norm(x, t.mean, t.var, gamma, beta)
            case "dropout":
                y = F.dropout(x, 0.1)
            case "add_relu_dropout":
                z = F.batch_norm(x, t.mean, t.var, gamma, beta, training=True)
                y = F.dropout(F.relu(z + residual), 0.1)
            case "layer_norm":
                y = F.layer_norm(x, gamma.shape, gamma, beta)
            case _:
                y = F.rms_norm(x, gamma.shape, gamma, 1e-6)
    if not name.endswith("step"):
        return y
    wanted = [x, gamma] if "rms" in name else [x, gamma, beta]
    wanted += [residual] if "add" in name else []
    return y, torch.autograd.grad(y, wanted, t.dy)


# --- time -----------------------------------------------------------------------------------------


class Gpu:
    """How work is captured, replayed and timed."""

    device = "cuda"

    def capture(self, call: Call) -> Call:
        """Return what replays the call; itself, where it cannot be captured, which is said."""
        with torch.cuda.stream(torch.cuda.Stream()):
            call()  # what is loaded and allocated in a first call
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError as error:
            print(f"not captured: {error}", file=sys.stderr)
            return call
        return graph.replay

    def seconds(self, call: Call, repeats: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats

    def sets(self, nbytes: int) -> int:
        """Of how many sets of tensors the GPU's cache does not hold a fourth."""
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return max(1, math.ceil(CACHES * cache / nbytes))

    def facts(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(0)
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
        return {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "versions": {**versions, "cudnn": torch.backends.cudnn.version()},
        }


class DryRun:
    """The CPU in the GPU's place: nothing is captured."""

    device = "cpu"

    def capture(self, call: Call) -> Call:
        call()
        return call

    def seconds(self, call: Call, repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - begin) / repeats

    def sets(self, nbytes: int) -> int:
        return 2

    def facts(self) -> dict[str, Any]:
        return {"device": "dry run", "versions": {"torch": torch.__version__}}


def measure(gpu: Gpu | DryRun, calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one value a round."""
    repeats = {
        name: math.ceil(SAMPLE_SECONDS / max(gpu.seconds(call, 2), 1e-6))
        for name, call in calls.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds):
        names = list(calls)
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(gpu.seconds(calls[name], repeats[name]))
    return seconds


# --- cases ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    operation: str
    shape: tuple[int, ...]
    layout: str  # planes, rows, or features: normalised along the last axis
    dtype: str

    @property
    def section(self) -> tuple[str, str, str]:
        return self.operation, self.layout, self.dtype


def cases(dry_run: bool) -> Iterator[Case]:
    """All that is timed; those of one shape, layout and dtype one after the other."""
    for dtype in DTYPES:
        for layout in ("planes", "rows"):
            for image in GROUPS["resnet50"][:2] if dry_run else GROUPS["resnet50"]:
                shape = (2, 8, 4, 4) if dry_run else (BATCH, image.channels, *image.spatial)
                for name in OF_IMAGES:
                    if name != "dropout" or layout == "planes":
                        yield Case(name, shape, layout, dtype)
        for features in NORM_FEATURES[:2] if dry_run else NORM_FEATURES:
            rows = 4 if dry_run else NORM_ELEMENTS // features
            for name in OPERATIONS:
                if name not in OF_IMAGES:
                    yield Case(name, (rows, features), "features", dtype)


def disagreement(name: str, t: Tensors) -> float:
    """How far our results are from PyTorch's at most; 0 where each draws a mask of its own."""
    if name == "backward" or "dropout" in name:
        return 0.0
    ours(name, t)
    theirs = torchs(name, t)
    pairs = [(theirs[0], t.y), (theirs[1][0], t.dx)] if name.endswith("step") else [(theirs, t.y)]
    return max(float((a.detach().float() - b.float()).abs().max()) for a, b in pairs)


def rounded(summary: Summary) -> dict[str, float]:
    return {key: round(value, 3) for key, value in summary.as_json().items()}


def run_case(gpu: Gpu | DryRun, case: Case, sets: list[Tensors], rounds: int) -> dict[str, Any]:
    """Time one case, and say what the times are to each other."""
    operation, x = OPERATIONS[case.operation], sets[0].x
    apart = disagreement(case.operation, sets[0])
    if not apart < (0.1 if case.dtype == "bfloat16" else 1e-3):
        raise RuntimeError(f"results are {apart} apart from PyTorch's")
    half = math.ceil(operation.passes / 2 * x.numel())  # a copy reads and writes
    buffers = [torch.empty(half, dtype=x.dtype, device=x.device) for _ in range(2)]

    def for_each(call: Callable[..., object], *arguments: Any) -> Call:
        return lambda: [call(*arguments, t) for t in sets]

    calls = {
        "copy": gpu.capture(lambda: [buffers[1].copy_(buffers[0]) for _ in sets]),
        "bnfast": gpu.capture(for_each(ours, case.operation)),
    }
    if case.operation != "backward":
        calls["torch"] = gpu.capture(for_each(torchs, case.operation))
    seconds = measure(gpu, calls, rounds)
    microseconds = {k: summarise(v).median / len(sets) * 1e6 for k, v in seconds.items()}
    moved = operation.passes * x.numel() * x.element_size() * len(sets)
    captured = all(getattr(call, "__name__", "") == "replay" for call in calls.values())
    result: dict[str, Any] = {
        "operation": case.operation,
        "layout": case.layout,
        "dtype": case.dtype,
        "shape": list(case.shape),
        "captured": captured,
        "microseconds": {k: round(v, 2) for k, v in microseconds.items()},
        "gb_per_s": round(moved / summarise(seconds["bnfast"]).median / 1e9, 1),
        "over_copy": rounded(ratio(seconds["bnfast"], seconds["copy"])),
    }
    if "torch" in seconds:
        result["torch_over_ours"] = rounded(ratio(seconds["torch"], seconds["bnfast"]))
    return result


def run(gpu: Gpu | DryRun, dry_run: bool, rounds: int, limit: float) -> Iterator[dict[str, Any]]:
    """Time all cases, as long as there is time; one that fails says why and stops no other."""
    end = time.monotonic() + limit
    for (shape, layout, dtype), group in groupby(
        cases(dry_run), lambda c: (c.shape, c.layout, c.dtype)
    ):
        nbytes = math.prod(shape) * DTYPES[dtype].itemsize
        made = [Tensors(shape, layout, DTYPES[dtype], gpu.device) for _ in range(gpu.sets(nbytes))]
        for case in group:
            if time.monotonic() > end:
                print(f"out of time before {case}", file=sys.stderr)
                return
            try:
                yield run_case(gpu, case, made, rounds)
            except RuntimeError as error:
                first = str(error).splitlines()[0]
                print(f"{case}: {first}", file=sys.stderr)
                yield {"operation": case.operation, "layout": layout, "dtype": dtype,
                       "shape": list(shape), "error": first}  # fmt: skip
        del made


# --- the report -----------------------------------------------------------------------------------


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Geometric means over the shapes, and the worst shape; `!` marks what missed its target."""
    yield f"{'':42}{'time / copy':>24}{'torch / bnfast':>24}"
    yield f"{'':42}{'mean':>8}{'worst':>8}{'most':>8}{'mean':>8}{'worst':>8}{'least':>8}"

    def section(result: dict[str, Any]) -> tuple[str, str, str]:
        return result["operation"], result["layout"], result["dtype"]

    good = sorted((r for r in results if "error" not in r), key=section)
    for (name, layout, dtype), group in groupby(good, section):
        found, operation = list(group), OPERATIONS[name]
        over = [r["over_copy"]["median"] for r in found]
        most, mean = operation.most_over_copy, geometric_mean(over)
        line = f"{name:22}{layout:10}{dtype:10}{mean:8.2f}{max(over):8.2f}{most:8.2f}"
        missed = mean > most
        if "torch_over_ours" in found[0]:
            times = [r["torch_over_ours"]["median"] for r in found]
            least, mean = operation.least_torch_over_ours, geometric_mean(times)
            missed = missed or (least is not None and (mean < least or min(times) < 0.95))
            line += f"{mean:8.2f}{min(times):8.2f}{least or '':>8}"
        yield line + (" !" if missed else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="folder for the JSON file")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=150, help="begin no case after these")
    parser.add_argument("--note", action="append", default=[], help="to be kept with the results")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, on the CPU")
    options = parser.parse_args()
    gpu = DryRun() if options.dry_run else Gpu()
    facts = gpu.facts()
    facts |= {"date": time.strftime("%Y-%m-%d"), "commit": git_commit(), "notes": options.note}
    facts["versions"]["bnfast"] = bnfast.__version__
    rounds = 2 if options.dry_run else options.rounds
    results = list(run(gpu, options.dry_run, rounds, options.seconds))
    device = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
    path = options.results / f"{facts['date']}-{device}.json"
    lines = ",\n".join(f"  {json.dumps(result)}" for result in results)
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    path.write_text(f'{head},\n "results": [\n{lines}\n ]\n}}\n')
    print(*table(results), f"written to {path}", sep="\n")
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
