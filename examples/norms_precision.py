"""Print how far norms of PyTorch and of bnfast are from exact ones: the tables of docs/norms.md.

    python examples/norms_precision.py               # a few seconds; needs PyTorch and ml_dtypes

What is exact comes from PyTorch's functions in float64, for the same x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

import bnfast

Array = NDArray[Any]

MATRIX, IMAGES = (512, 768), (16, 32, 28, 28)
GROUPS = 4
RATE = 0.1
THEIRS: dict[str, Callable[[Any], Any]] = {
    "layer": lambda x: functional.layer_norm(x, x.shape[1:]),
    "RMS": lambda x: functional.rms_norm(x, x.shape[1:], eps=1e-6),
    "group": lambda x: functional.group_norm(x, GROUPS),
    "instance": lambda x: functional.instance_norm(x),
}
OURS: dict[str, Callable[[Array, int], Array]] = {
    "layer": lambda x, axis: bnfast.layer_norm(x)[0],
    "RMS": lambda x, axis: bnfast.rms_norm(x)[0],
    "group": lambda x, axis: bnfast.group_norm(x, GROUPS, axis=axis)[0],
    "instance": lambda x, axis: bnfast.instance_norm(x, axis=axis)[0],
}


def normal(ratio: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Elements of standard deviation 1 around a mean."""
    return rng.standard_normal(shape) + ratio


def constant(ratio: float, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """One number in all of a sample, from 0.01 to 100,000: exactly 0 when its mean is taken off."""
    values = 10 ** rng.uniform(-2, 5, shape[0])
    return np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape)


CASES: dict[str, tuple[type, Callable[..., Array], float]] = {
    "float32, mean / std 0": (np.float32, normal, 0),
    "1e2": (np.float32, normal, 1e2),
    "1e4": (np.float32, normal, 1e4),
    "constant": (np.float32, constant, 0),
    "bfloat16, mean / std 0": (ml_dtypes.bfloat16, normal, 0),
    "1e2 ": (ml_dtypes.bfloat16, normal, 1e2),
    "constant ": (ml_dtypes.bfloat16, constant, 0),
}


def tensor(array: Array) -> Any:
    """A tensor over the same memory; PyTorch's bridge to NumPy does not know bfloat16."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def errors(norm: str, x: Array, last: bool) -> tuple[float, float]:
    """The largest error of PyTorch's y and of ours, for channels first or last in memory."""
    shifted = tensor(x).double()
    if norm != "RMS":
        # Changes nothing but that a constant sample becomes 0 and stays exact.
        shifted = shifted - shifted.flatten(1)[:, 0].reshape(-1, *[1] * (x.ndim - 1))
    exact = THEIRS[norm](shifted)
    order = torch.channels_last if last else torch.contiguous_format
    theirs = THEIRS[norm](tensor(x).contiguous(memory_format=order)).double()
    y = OURS[norm](np.moveaxis(x, 1, -1).copy() if last else x, -1 if last else 1)
    ours = tensor(np.moveaxis(y, -1, 1).astype(np.float64) if last else y.astype(np.float64))
    return float((theirs - exact).abs().max()), float((ours - exact).abs().max())


def print_errors() -> None:
    heads = (head.strip() for head in CASES)
    print(f"| largest error of y, PyTorch's / ours | {' | '.join(heads)} |")
    print(f"|---|{'---:|' * len(CASES)}")
    for norm in THEIRS:
        shape = IMAGES if norm in ("group", "instance") else MATRIX
        for last in (False, True) if norm == "group" else (False,):
            cells = []
            for dtype, draw, ratio in CASES.values():
                rng = np.random.default_rng(0)
                found = errors(norm, draw(ratio, shape, rng).astype(dtype), last)
                cells.append(" / ".join(f"{error:.1e}" if error else "0" for error in found))
            print(f"| {norm}{', channels last' if last else ''} | {' | '.join(cells)} |")


def print_roundings() -> None:
    """Of h = residual + drop(x) in 16 bits, and the eps that PyTorch's RMS norm has by default."""
    heads = ("h not rounded to nearest", "h's factor of x where kept")
    print(f"\n| PyTorch / bnfast | {' | '.join(heads)} | eps of F.rms_norm |\n|---|---:|---:|---:|")
    rng = np.random.default_rng(1)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        x, residual = (rng.standard_normal((1000, 1000)).astype(dtype) for _ in range(2))
        torch.manual_seed(0)
        mask = functional.dropout(torch.ones_like(tensor(x)), RATE).ne(0).numpy()
        torch.manual_seed(0)
        theirs = (functional.dropout(tensor(x), RATE) + tensor(residual)).double().numpy()
        ours = bnfast.layer_norm(x, residual=residual, dropout=RATE, seed=0)[1].h
        exact = x.astype(np.float64) / (1 - RATE) + residual
        least = np.abs(exact.astype(dtype) - exact)
        wrong, factors = [], []
        for h, kept in ((theirs, mask), (ours, bnfast.dropout_mask(x.shape, RATE, seed=0))):
            # Of a tie either neighbour will do, but for the last bits of float32.
            wrong.append(float((np.abs(h - exact) > least + 1e-6)[kept].mean()))
            a, b = x[kept].astype(np.float64), (h - residual.astype(np.float64))[kept]
            factors.append(float(a @ b / (a @ a)))
        small = tensor(np.full((1, 64), 1e-3, dtype))
        y = functional.rms_norm(small, (64,))
        eps = ((small.double() / y.double()) ** 2 - small.double() ** 2).mean()
        cells = [f"{wrong[0]:.1%} / {wrong[1]:.1%}", f"{factors[0]:.4f} / {factors[1]:.4f}"]
        print(f"| {np.dtype(dtype).name} | {' | '.join(cells)} | {float(eps):.1e} |")


if __name__ == "__main__":
    print_errors()
    print_roundings()
