"""The contenders: bnfast, and the list of the libraries to measure against.

A new peer is a file with a class that has the members of `Library`, and one line in PEERS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from contender import Contender, Library
from peer_jax import Jax
from peer_keras import Keras
from peer_numpy import NumPyPlain
from peer_onednn import OneDnn
from peer_onnxruntime import OnnxRuntime
from peer_torch import Torch, TorchCompile
from workload import EPS, RATE, SEED, Array, Case


class BnFast:
    """The package itself."""

    name = "bnfast"

    def __init__(self, num_threads: int) -> None:
        import bnfast

        self._lib: Any = bnfast
        self.version: str = getattr(bnfast, "__version__", "unknown")
        bnfast.set_num_threads(num_threads)

    def set_num_threads(self, num_threads: int) -> None:
        """Without the checks of the public function, which short calls would notice."""
        self._lib._core.set_num_threads(num_threads)

    def forward(self, x: Array, out: Array) -> object:
        """The plainest call, on any shape; channels second."""
        return self._lib.batch_norm(x, out=out)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self._lib.targets())

    @property
    def target(self) -> str:
        return str(self._lib.active_target())

    def stream(self, dst: Array, srcs: list[Array], num_threads: int, /) -> object:
        """The kernel behind every floor; private to the benchmarks."""
        return self._lib._core.stream(dst, srcs, num_threads)

    def contenders(self, case: Case) -> list[Contender]:
        run, result = self._runner(case)
        return [
            Contender(self.name, "out", partial(run, case.out), result),
            Contender(self.name, "fresh", partial(run, None), result),
        ]

    def _runner(self, case: Case) -> tuple[Callable[[Array | None], Any], Callable[[Any], Array]]:
        if case.operation.elementwise:
            return self._dropout(case)
        lib = self._lib
        rate, seed = (RATE, SEED) if case.operation.dropout else (0.0, None)
        x, gamma, beta, residual = case.x, case.gamma, case.beta, case.residual
        axis, activation = case.axis, case.activation

        def forward(out: Array | None) -> Any:
            return lib.batch_norm(
                x,
                gamma,
                beta,
                axis=axis,
                eps=EPS,
                residual=residual,
                activation=activation,
                dropout=rate,
                seed=seed,
                out=out,
            )

        if case.operation.kind == "forward":
            return forward, lambda returned: returned[0]
        if case.operation.kind == "backward":
            dy = case.dy
            _, ctx = forward(None)
            return (
                lambda out: lib.batch_norm_backward(dy, ctx, out=out),
                lambda returned: returned.dx,
            )
        mean, var = case.mean, case.var
        return (
            lambda out: lib.batch_norm_inference(
                x,
                mean,
                var,
                gamma,
                beta,
                axis=axis,
                eps=EPS,
                residual=residual,
                activation=activation,
                out=out,
            ),
            lambda returned: returned,
        )

    def _dropout(self, case: Case) -> tuple[Callable[[Array | None], Any], Callable[[Any], Array]]:
        lib = self._lib
        if case.operation.kind == "dropout":
            x = case.x
            return (
                lambda out: lib.dropout(x, RATE, seed=SEED, out=out),
                lambda returned: returned[0],
            )
        dy = case.dy
        _, ctx = lib.dropout(dy, RATE, seed=SEED)
        return lambda out: lib.dropout_backward(dy, ctx, out=out), lambda returned: returned


PEERS: dict[str, Callable[[int], Library]] = {
    "torch": Torch,
    "torch-compile": TorchCompile,
    "onednn": OneDnn,
    "jax": Jax,
    "keras": Keras,
    "onnxruntime": OnnxRuntime,
    "numpy": NumPyPlain,
}


def load_peers(names: list[str], num_threads: int) -> tuple[list[Library], dict[str, str]]:
    """The named peers that are installed, and why each of the others is not."""
    loaded: list[Library] = []
    missing: dict[str, str] = {}
    for name in names:
        if name not in PEERS:
            raise ValueError(f"peer: got {name}, expected one of {', '.join(PEERS)}")
        try:
            loaded.append(PEERS[name](num_threads))
        except ImportError as error:
            missing[name] = str(error)
    return loaded, missing
