"""Times one small call through every door of bnfast, and prints the times of docs/doors.md.

python bench/doors.py             # what is not installed is left out, with a line on stderr
python bench/doors.py --smoke     # that it works; its times say nothing
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import measure

import bnfast

SHAPE = (32, 64)
Calls = dict[str, Callable[[], Any]]


def numpy_door(x: np.ndarray) -> Calls:
    return {"NumPy": lambda: bnfast.batch_norm(x)}


def strict_door(x: np.ndarray) -> Calls:
    array = importlib.import_module("array_api_strict").asarray(x)
    return {"array-api-strict (DLPack capsules)": lambda: bnfast.batch_norm(array)}


def torch_doors(x: np.ndarray) -> Calls:
    torch = importlib.import_module("torch")
    ours = importlib.import_module("bnfast.torch")
    tensor, dy = torch.from_numpy(x), torch.ones(SHAPE)
    leaf = tensor.clone().requires_grad_()
    compiled = torch.compile(
        lambda t: ours.batch_norm(t, None, None, training=True), fullgraph=True
    )
    theirs = torch.nn.functional.batch_norm

    def backward(norm: Callable[..., Any]) -> Any:
        return torch.autograd.grad(norm(leaf, None, None, training=True), leaf, dy)

    return {
        "tensors of PyTorch (DLPack, C exchange)": lambda: bnfast.batch_norm(tensor),
        "bnfast.torch": lambda: ours.batch_norm(tensor, None, None, training=True),
        "bnfast.torch, in torch.compile": lambda: compiled(tensor),
        "*PyTorch's own*": lambda: theirs(tensor, None, None, training=True),
        "bnfast.torch, forward and backward": lambda: backward(ours.batch_norm),
        "*PyTorch's own, forward and backward*": lambda: backward(theirs),
    }


def jax_doors(x: np.ndarray) -> Calls:
    jax = importlib.import_module("jax")
    ours = importlib.import_module("bnfast.jax")
    array, ones, zeros = (jax.numpy.asarray(a) for a in (x, np.ones(64), np.zeros(64)))

    def textbook(t: Any) -> Any:
        return (t - t.mean(0)) * jax.lax.rsqrt(t.var(0) + 1e-5)

    compiled = jax.jit(lambda t: ours.batch_norm(t, ones, zeros)[0])
    own = jax.jit(textbook)
    return {
        "arrays of JAX (DLPack capsules)": lambda: bnfast.batch_norm(array),
        "bnfast.jax, in jax.jit": lambda: jax.block_until_ready(compiled(array)),
        "*jax.numpy, in jax.jit*": lambda: jax.block_until_ready(own(array)),
    }


def c_door() -> float:
    """Microseconds of a call from C; OSError where there is no compiler."""
    source = Path(__file__).with_name("doors.c")
    libraries = Path(bnfast.get_include()).parent / "lib"
    library = next(libraries.glob("libbnfast.*"))
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "doors"
        command = [
            "cc",
            "-std=gnu99",
            "-O2",
            f"-I{bnfast.get_include()}",
            str(source),
            str(library),
        ]
        subprocess.run([*command, f"-Wl,-rpath,{libraries}", "-o", str(program)], check=True)
        return float(subprocess.run([program], check=True, capture_output=True, text=True).stdout)


def rows(rounds: int) -> Iterator[tuple[str, float]]:
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    try:
        yield "C", c_door()
    except (OSError, StopIteration) as error:
        print(f"C is left out: {error}", file=sys.stderr)
    calls: Calls = {}
    for door in (numpy_door, torch_doors, jax_doors, strict_door):
        try:
            calls |= door(x)
        except ImportError as error:
            print(f"{door.__name__} is left out: {error}", file=sys.stderr)
    for call in calls.values():
        call()
    for name, seconds in measure(calls, rounds).items():
        yield name, statistics.median(seconds) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    print("| batch norm of a (32, 64) float32 tensor through | us a call |\n|---|---:|")
    for name, microseconds in rows(1 if options.smoke else options.rounds):
        print(f"| {name} | {microseconds:.1f} |")


if __name__ == "__main__":
    main()
