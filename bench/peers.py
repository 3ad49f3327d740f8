"""The libraries that are timed: bnfast, and those to measure it against.

A new peer is a subclass of `Library` and a line in PEERS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from peer_jax import Jax
from peer_numpy import NumPy
from peer_torch import OneDnn, Torch, TorchCompile
from workload import CHANNELS_A_GROUP, EPS, RATE, SEED, Array, Case, Library

import bnfast


class BnFast(Library):
    """The package itself."""

    name = "bnfast"
    version = bnfast.__version__

    def __init__(self, num_threads: int) -> None:
        bnfast.set_num_threads(num_threads)

    def calls(self, case: Case) -> dict[str, Callable[[], Any]]:
        run = self._call(case)
        return {"out": partial(run, out=case.out), "fresh": run}

    def result(self, returned: Any, case: Case) -> Array:
        array: Array = returned[0] if isinstance(returned, tuple) else returned
        return array

    def _call(self, case: Case) -> Callable[..., Any]:
        operation = case.operation
        if operation.kind == "dropout":
            return partial(bnfast.dropout, case.x, RATE, seed=SEED)
        if operation.kind == "dropout_backward":
            _, ctx = bnfast.dropout(case.dy, RATE, seed=SEED)
            return partial(bnfast.dropout_backward, case.dy, ctx)
        options: dict[str, Any] = {
            "axis": case.axis,
            "eps": EPS,
            "residual": case.residual,
            "activation": "relu" if operation.relu else None,
        }
        if operation.kind == "inference":
            given = case.x, case.mean, case.var, case.gamma, case.beta
            return partial(bnfast.batch_norm_inference, *given, **options)
        if operation.dropout:
            options |= {"dropout": RATE, "seed": SEED}
        norm = operation.norm
        groups = [case.shape.channels // CHANNELS_A_GROUP] if norm == "group" else []
        beta = [] if norm == "rms" else [case.beta]
        forward = partial(
            getattr(bnfast, f"{norm}_norm"), case.x, *groups, case.gamma, *beta, **options
        )
        if operation.kind == "forward":
            return forward
        _, ctx = forward()
        backward = bnfast.batch_norm_backward if norm == "batch" else bnfast.norm_backward
        return partial(backward, case.dy, ctx)


PEERS: dict[str, Callable[[int], Library]] = {
    "torch": Torch,
    "torch-compile": TorchCompile,
    "onednn": OneDnn,
    "jax": Jax,
    "numpy": NumPy,
}


def load_peers(names: list[str], num_threads: int) -> tuple[list[Library], dict[str, str]]:
    """The named peers that are installed, and why each of the others is not."""
    loaded: list[Library] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            loaded.append(PEERS[name](num_threads))
        except ImportError as error:
            missing[name] = str(error)
    return loaded, missing
