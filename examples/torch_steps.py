"""Time training steps of a ResNet-18 and of a Transformer, as torch runs them and converted.

    pip install bnfast torch scikit-learn matplotlib tqdm
    python examples/torch_steps.py           # some minutes; writes one picture
    python examples/torch_steps.py --quick   # under a minute, for continuous integration

Builds each network in plain PyTorch, converts a copy with ``bnfast.torch.convert``, and trains both
on the same batches in turn, so that whatever else the machine does slows down both. Prints the
median time of a step, the peak memory of a step in a process of its own, and the loss, and writes
torch_output/torch_steps.png. Exits with 1 if a converted network does not learn as its original.
docs/torch.md explains what came out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch_models import FUSE, LanguageModel, resnet18
from torch_plots import plot_steps
from tqdm import tqdm

import bnfast
from bnfast.torch import convert

KINDS = ("torch", "bnfast")
TASKS = ("ResNet-18", "ResNet-18, channels last", "Transformer")
MEMORY_STEPS = 3  # after which the peak does not grow any more
CLOSE = 0.15  # allowed difference of the losses at the end, relative


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    steps: dict[str, int]
    batch: int
    pixels: int  # of a side of an image
    channels: int  # of the first layer of the ResNet
    width: int  # of the Transformer
    tokens: int


FULL = Size(
    steps=dict(zip(TASKS, (8, 6, 30), strict=True)),
    batch=16,
    pixels=224,
    channels=64,
    width=256,
    tokens=128,
)
QUICK = Size(steps=dict.fromkeys(TASKS, 4), batch=8, pixels=32, channels=8, width=64, tokens=32)


@dataclass
class Run:
    """What was seen of one network on one task."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a step; the first one, in which memory is set up, does not count."""
        return statistics.median(self.seconds[1:])

    @property
    def final_loss(self) -> float:
        return statistics.fmean(self.losses[-3:])

    def step(self, x: Tensor, target: Tensor) -> None:
        begin = time.perf_counter()
        self.optimiser.zero_grad()
        loss = functional.cross_entropy(self.model(x).flatten(0, -2), target.flatten())
        loss.backward()
        self.optimiser.step()
        self.seconds.append(time.perf_counter() - begin)
        self.losses.append(loss.item())


def build(task: str, size: Size) -> nn.Module:
    """Return the network of a task, the same each time."""
    torch.manual_seed(0)
    if task == "Transformer":
        return LanguageModel(size.width, heads=8, layers=4, tokens=size.tokens, dropout=0.1)
    return resnet18(size.channels, classes=10).to(memory_format=memory_format(task))


def memory_format(task: str) -> torch.memory_format:
    return torch.channels_last if "last" in task else torch.contiguous_format


def start(task: str, kind: str, size: Size) -> Run:
    """Return a network that has not been trained, and its optimiser."""
    model = build(task, size)
    if kind == "bnfast":
        model = convert(model, fuse=FUSE)
    if task == "Transformer":
        return Run(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    return Run(model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9))


def batches(task: str, size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets without end: enlarged digits, or the source of this library."""
    generator = torch.Generator().manual_seed(1)
    if task == "Transformer":
        sources = sorted(Path(bnfast.__file__).parent.glob("*.py"))
        text = torch.tensor(list(b"".join(path.read_bytes() for path in sources)))
        while True:
            starts = torch.randint(len(text) - size.tokens, (size.batch, 1), generator=generator)
            places = starts + torch.arange(size.tokens + 1)
            yield text[places[:, :-1]], text[places[:, 1:]]
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    while True:
        chosen = torch.randint(len(labels), (size.batch,), generator=generator)
        x = functional.interpolate(images[chosen], (size.pixels, size.pixels)).repeat(1, 3, 1, 1)
        yield x.contiguous(memory_format=memory_format(task)), labels[chosen]


def train(task: str, size: Size) -> dict[str, Run]:
    """Train both kinds on the same batches, step by step in turn."""
    runs = {kind: start(task, kind, size) for kind in KINDS}
    data = batches(task, size)
    for step in tqdm(range(size.steps[task]), desc=task, leave=False):
        x, target = next(data)
        for kind in KINDS if step % 2 else KINDS[::-1]:
            runs[kind].step(x, target)
    return runs


def resident(which: str) -> int:
    """Return the memory of this process now (VmRSS) or at its peak (VmHWM), in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0])


def peak_memory(task: str, kind: str, size: Size) -> float:
    """Return the most memory that training steps need beyond the network, in MB."""
    run, data = start(task, kind, size), batches(task, size)
    x, target = next(data)
    before = resident("VmRSS")
    for _ in range(MEMORY_STEPS):
        run.step(x, target)
    return 1.024e-3 * (resident("VmHWM") - before)


def peak_memory_elsewhere(task: str, kind: str, arguments: list[str]) -> float:
    """Return what peak_memory says in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--memory", task, kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks and few steps")
    parser.add_argument("--output", type=Path, default=Path("torch_output"))
    parser.add_argument("--memory", nargs=2, metavar=("TASK", "KIND"), help="print peak memory")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    torch.set_num_threads(bnfast.get_num_threads())
    if options.memory:
        print(peak_memory(*options.memory, size))
        return 0

    results = {task: train(task, size) for task in TASKS}
    arguments = ["--quick"] if options.quick else []
    print(f"{'ms a step: torch':>42} {'bnfast':>8} {'ratio':>6} {'MB: torch':>11} {'bnfast':>7}")
    failed = []
    for task, runs in results.items():
        theirs, ours = (runs[kind] for kind in KINDS)
        memory = [peak_memory_elsewhere(task, kind, arguments) for kind in KINDS]
        print(
            f"{task:<25} {1e3 * theirs.median:16.0f} {1e3 * ours.median:8.0f} "
            f"{theirs.median / ours.median:6.2f} {memory[0]:11.0f} {memory[1]:7.0f}   "
            f"loss {theirs.final_loss:.3f}, {ours.final_loss:.3f}"
        )
        if abs(ours.final_loss - theirs.final_loss) > CLOSE * theirs.losses[0]:
            failed.append(task)
    options.output.mkdir(exist_ok=True)
    plot_steps(
        {t: {k: (r.losses, r.median) for k, r in runs.items()} for t, runs in results.items()},
        options.output / "torch_steps.png",
    )
    for task in failed:
        print(f"{task}: the losses differ by more than {CLOSE:.0%} of the first", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
