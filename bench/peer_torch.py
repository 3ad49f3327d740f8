"""PyTorch as a contender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from contender import Contender
from workload import EPS, RATE, Array, Case


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
        make = {
            "backward": self._backward,
            "dropout": self._dropout,
            "dropout_backward": self._dropout_backward,
        }.get(case.operation.kind, self._forward)
        return [
            Contender(self.name, mode, call, lambda returned: self._array(returned, case))
            for mode, call in make(case).items()
        ]

    def _dropout(self, case: Case) -> dict[str, Callable[[], Any]]:
        """Dropout, which has no out form."""
        x, dropout = self._tensor(case.x, case), self._torch.nn.functional.dropout
        return {"fresh": lambda: dropout(x, RATE, True)}

    def _dropout_backward(self, case: Case) -> dict[str, Callable[[], Any]]:
        """Backward from the mask that PyTorch's forward stores, a byte an element."""
        dy, mask = self._tensor(case.dy, case), self._mask(case)
        backward, scale = self._torch.ops.aten.native_dropout_backward, 1 / (1 - RATE)
        return {"fresh": lambda: backward(dy, mask, scale)}

    def _mask(self, case: Case) -> Any:
        """The mask of bnfast as a tensor, so that the gradients agree."""
        mask = self._torch.from_numpy(case.mask)
        return mask.movedim(-1, 1) if case.layout == "rows" and mask.ndim > 2 else mask

    def _forward(self, case: Case) -> dict[str, Callable[[], Any]]:
        """Training and inference forward. No running statistics: bnfast updates none either."""
        torch, channels = self._torch, case.shape.channels
        x, out = self._tensor(case.x, case), self._tensor(case.out, case)
        residual = None if case.residual is None else self._tensor(case.residual, case)
        weight, bias = torch.from_numpy(case.gamma), torch.from_numpy(case.beta)
        training = case.operation.kind == "forward"
        relu, drop = case.operation.relu, case.operation.dropout
        mean = None if training else torch.from_numpy(case.mean)
        var = None if training else torch.from_numpy(case.var)
        save_mean, save_invstd = weight.new_empty(channels), weight.new_empty(channels)
        batch_norm = torch.nn.functional.batch_norm
        batch_norm_out = torch.ops.aten.native_batch_norm.out
        dropout = torch.nn.functional.dropout

        def finish(y: Any) -> Any:
            # In place: eager PyTorch's cheapest way to add, to clip and to drop.
            if residual is not None:
                y.add_(residual)
            if relu:
                y.relu_()
            return dropout(y, RATE, True, inplace=True) if drop else y

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
        dropout_backward, scale = torch.ops.aten.native_dropout_backward, 1 / (1 - RATE)
        mask = self._mask(case) if case.operation.dropout else None
        wanted = [True, True, True]

        def fresh() -> Any:
            dz = dy if mask is None else dropout_backward(dy, mask, scale)
            dz = dz if y is None else relu_backward(dz, y, 0)
            return backward(dz, x, weight, None, None, mean, invstd, True, EPS, wanted)[0]

        return {"fresh": fresh}


class TorchCompile(Torch):
    """The calls that allocate their result, compiled by PyTorch's own compiler for the case."""

    name = "torch-compile"

    def contenders(self, case: Case) -> list[Contender]:
        # Shapes are compiled in, and the compiler gives up on a function after a few of them.
        self._torch.compiler.reset()
        return [
            replace(eager, call=self._torch.compile(eager.call, fullgraph=True, dynamic=False))
            for eager in super().contenders(case)
            if eager.mode == "fresh"
        ]
