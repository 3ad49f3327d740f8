"""PyTorch as a contender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from contender import Contender
from workload import EPS, Array, Case


class Torch:
    """PyTorch eager on the CPU, on the same memory; rows are its channels-last format."""

    name = "torch"

    def __init__(self, num_threads: int) -> None:
        import torch

        self._torch: Any = torch
        self.version: str = torch.__version__
        torch.set_num_threads(num_threads)
        # Backward is called directly, so that no graph is built in what is timed.
        torch.set_grad_enabled(False)

    def _tensor(self, array: Array, case: Case) -> Any:
        """A tensor over the array's memory with channels second, as torch addresses them."""
        torch = self._torch
        if case.dtype_name == "bfloat16":
            # The dtype is unknown to torch's NumPy bridge; its bits are not.
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        if case.layout == "rows" and array.ndim > 2:
            tensor = tensor.movedim(-1, 1)
        return tensor

    def _array(self, tensor: Any, case: Case) -> Array:
        torch = self._torch
        if case.layout == "rows" and tensor.ndim > 2:
            tensor = tensor.movedim(1, -1)
        if case.dtype_name == "bfloat16":
            bits: Array = tensor.view(torch.int16).numpy()
            return bits.view(case.dtype)
        array: Array = tensor.numpy()
        return array

    def contenders(self, case: Case) -> list[Contender]:
        make = self._backward if case.operation.kind == "backward" else self._forward
        return [
            Contender(self.name, mode, call, lambda returned: self._array(returned, case))
            for mode, call in make(case).items()
        ]

    def _forward(self, case: Case) -> dict[str, Callable[[], Any]]:
        """Training and inference forward. No running statistics: bnfast updates none either."""
        torch, channels = self._torch, case.shape.channels
        x, out = self._tensor(case.x, case), self._tensor(case.out, case)
        residual = None if case.residual is None else self._tensor(case.residual, case)
        weight, bias = torch.from_numpy(case.gamma), torch.from_numpy(case.beta)
        training = case.operation.kind == "forward"
        relu = case.operation.relu
        mean = None if training else torch.from_numpy(case.mean)
        var = None if training else torch.from_numpy(case.var)
        save_mean, save_invstd = weight.new_empty(channels), weight.new_empty(channels)
        batch_norm = torch.nn.functional.batch_norm
        batch_norm_out = torch.ops.aten.native_batch_norm.out

        def finish(y: Any) -> Any:
            # In place: eager PyTorch's cheapest way to add and to clip.
            if residual is not None:
                y.add_(residual)
            return y.relu_() if relu else y

        def fresh() -> Any:
            return finish(batch_norm(x, mean, var, weight, bias, training=training, eps=EPS))

        def into_out() -> Any:
            batch_norm_out(
                x,
                weight,
                bias,
                mean,
                var,
                training,
                0.1,
                EPS,
                out=out,
                save_mean=save_mean,
                save_invstd=save_invstd,
            )
            return finish(out)

        return {"out": into_out, "fresh": fresh}

    def _backward(self, case: Case) -> dict[str, Callable[[], Any]]:
        """Backward. Its .out variant copies the fresh result, hence is not among the calls."""
        torch = self._torch
        x, dy = self._tensor(case.x, case), self._tensor(case.dy, case)
        weight, bias = torch.from_numpy(case.gamma), torch.from_numpy(case.beta)
        normalised, mean, invstd = torch.native_batch_norm(
            x, weight, bias, None, None, True, 0.1, EPS
        )
        if case.residual is not None:
            normalised.add_(self._tensor(case.residual, case))
        y = normalised if case.operation.relu else None
        backward = torch.ops.aten.native_batch_norm_backward
        relu_backward = torch.ops.aten.threshold_backward
        wanted = [True, True, True]

        def fresh() -> Any:
            dz = dy if y is None else relu_backward(dy, y, 0)
            return backward(dz, x, weight, None, None, mean, invstd, True, EPS, wanted)[0]

        return {"fresh": fresh}
