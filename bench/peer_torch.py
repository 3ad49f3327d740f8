"""PyTorch as a peer: eager, compiled, and as a way to oneDNN."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from workload import CHANNELS_A_GROUP, EPS, RATE, Array, Case, Library, Operation


class Torch(Library):
    """PyTorch eager on the CPU, on the same memory; rows are its channels-last format."""

    name = "torch"

    def __init__(self, num_threads: int) -> None:
        import torch

        self._torch: Any = torch
        self.version: str = torch.__version__
        torch.set_num_threads(num_threads)
        # Backward is called directly, so that no graph is built in what is timed.
        torch.set_grad_enabled(False)

    def calls(self, case: Case) -> dict[str, Callable[[], Any]]:
        if case.operation.elementwise:
            return {"fresh": self._dropout(case)}
        if case.operation.norm != "batch":
            return {"fresh": self._norm(case)}
        return self._backward(case) if case.operation.kind == "backward" else self._forward(case)

    def result(self, returned: Any, case: Case) -> Array:
        if case.layout == "rows" and returned.ndim > 2:
            returned = returned.movedim(1, -1)
        if case.dtype_name == "bfloat16":
            bits: Array = returned.view(self._torch.int16).numpy()
            return bits.view(case.dtype)
        array: Array = returned.numpy()
        return array

    def _tensor(self, array: Array, case: Case) -> Any:
        """A tensor over the array's memory with channels second, as torch addresses them."""
        torch = self._torch
        if array.dtype.name == "bfloat16":
            # The dtype is unknown to torch's NumPy bridge; its bits are not.
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        return tensor.movedim(-1, 1) if case.layout == "rows" and array.ndim > 2 else tensor

    def _dropout(self, case: Case) -> Callable[[], Any]:
        """Dropout has no out form. Backward takes the mask, a byte an element."""
        if case.operation.kind == "dropout":
            x, dropout = self._tensor(case.x, case), self._torch.nn.functional.dropout
            return lambda: dropout(x, RATE, True)
        dy, mask = self._tensor(case.dy, case), self._tensor(case.mask, case)
        backward, scale = self._torch.ops.aten.native_dropout_backward, 1 / (1 - RATE)
        return lambda: backward(dy, mask, scale)

    def _forward(self, case: Case) -> dict[str, Callable[[], Any]]:
        """Training and inference forward. No running statistics: bnfast updates none either."""
        torch, operation = self._torch, case.operation
        x, out = self._tensor(case.x, case), self._tensor(case.out, case)
        residual = None if case.residual is None else self._tensor(case.residual, case)
        weight, bias = torch.from_numpy(case.gamma), torch.from_numpy(case.beta)
        training = operation.kind == "forward"
        mean = None if training else torch.from_numpy(case.mean)
        var = None if training else torch.from_numpy(case.var)
        saved = {name: torch.empty_like(weight) for name in ("save_mean", "save_invstd")}
        batch_norm = torch.nn.functional.batch_norm
        batch_norm_out = torch.ops.aten.native_batch_norm.out
        dropout = torch.nn.functional.dropout

        def finish(y: Any) -> Any:
            # In place: eager PyTorch's cheapest way to add, to clip and to drop.
            if residual is not None:
                y.add_(residual)
            if operation.relu:
                y.relu_()
            return dropout(y, RATE, True, inplace=True) if operation.dropout else y

        def fresh() -> Any:
            return finish(batch_norm(x, mean, var, weight, bias, training=training, eps=EPS))

        def into_out() -> Any:
            batch_norm_out(x, weight, bias, mean, var, training, 0.1, EPS, out=out, **saved)
            return finish(out)

        return {"out": into_out, "fresh": fresh}

    def _backward(self, case: Case) -> dict[str, Callable[[], Any]]:
        """Backward. Its .out variant copies the fresh result, hence is not among the calls."""
        torch = self._torch
        x, dy = self._tensor(case.x, case), self._tensor(case.dy, case)
        weight, bias = torch.from_numpy(case.gamma), torch.from_numpy(case.beta)
        y, mean, invstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, EPS)
        if case.residual is not None:
            y.add_(self._tensor(case.residual, case))
        clipped = y if case.operation.relu else None
        mask = self._tensor(case.mask, case) if case.operation.dropout else None
        scale, wanted = 1 / (1 - RATE), [True, True, True]
        backward = torch.ops.aten.native_batch_norm_backward
        relu_backward = torch.ops.aten.threshold_backward
        dropout_backward = torch.ops.aten.native_dropout_backward

        def fresh() -> Any:
            dz = dy if mask is None else dropout_backward(dy, mask, scale)
            dz = dz if clipped is None else relu_backward(dz, clipped, 0)
            return backward(dz, x, weight, None, None, mean, invstd, True, EPS, wanted)[0]

        return {"fresh": fresh}

    def _norm(self, case: Case) -> Callable[[], Any]:
        """A norm of a sample. It has no out form but one that copies; backward is autograd's."""
        torch, functional = self._torch, self._torch.nn.functional
        operation, channels = case.operation, case.shape.channels
        x, dy = self._tensor(case.x, case), self._tensor(case.dy, case)
        residual = None if case.residual is None else self._tensor(case.residual, case)
        # Parameters of x's dtype, as its modules have them: with others RMS norm is not fused.
        weight, bias = (torch.from_numpy(v).to(x.dtype) for v in (case.gamma, case.beta))
        norm = {
            "layer": lambda h: functional.layer_norm(h, (channels,), weight, bias, EPS),
            "rms": lambda h: functional.rms_norm(h, (channels,), weight, EPS),
            "group": lambda h: functional.group_norm(
                h, channels // CHANNELS_A_GROUP, weight, bias, EPS
            ),
            "instance": lambda h: functional.instance_norm(h, weight=weight, bias=bias, eps=EPS),
        }[operation.norm]
        if operation.kind == "forward":
            if residual is None:
                return lambda: norm(x)
            return lambda: norm(functional.dropout(x, RATE, True).add_(residual))

        leaves = [x, weight, *([] if operation.norm == "rms" else [bias])]
        with torch.enable_grad():
            for leaf in leaves:
                leaf.requires_grad_()
            h = x
            if residual is not None:
                # What its dropout does, with the mask that all libraries have here.
                mask = self._tensor(case.mask, case)
                h = x * (mask.to(x.dtype) / (1 - RATE)) + residual.requires_grad_()
                leaves.append(residual)
            y = norm(h)
        return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True)[0]


class TorchCompile(Torch):
    """The calls that allocate their result, compiled by PyTorch's own compiler for the case."""

    name = "torch-compile"

    def calls(self, case: Case) -> dict[str, Callable[[], Any]]:
        # Shapes are compiled in, and the compiler gives up on a function after a few of them.
        self._torch.compiler.reset()
        eager = super().calls(case)["fresh"]
        return {"fresh": self._torch.compile(eager, fullgraph=True, dynamic=False)}


class OneDnn(Torch):
    """oneDNN's batch and layer norm alone, through PyTorch, on arrays of oneDNN's."""

    name = "onednn"

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads)
        found = re.search(r"MKL-DNN v([\d.]+)", self._torch.__config__.show())
        self.version = found[1] if found else "unknown"

    def calls(self, case: Case) -> dict[str, Callable[[], Any]]:
        if case.operation == Operation("forward", norm="layer") and case.dtype_name == "float32":
            return {"fresh": self._layer_norm(case)}
        alone = case.operation in map(Operation, ("forward", "backward", "inference"))
        if not alone or case.layout != "planes" or case.dtype_name != "float32":
            return {}
        return {"fresh": super().calls(case)["fresh"]}

    def result(self, returned: Any, case: Case) -> Array:
        return super().result(returned.to_dense(), case)

    def _layer_norm(self, case: Case) -> Callable[[], Any]:
        """Only graphs that PyTorch has rewritten call it; this is such a graph."""
        torch = self._torch
        graph = torch._C.parse_ir(
            "graph(%x : Tensor, %shape : int[], %weight : Tensor, %bias : Tensor, %eps : float,"
            " %cudnn : bool):\n  %y : Tensor ="
            " prim::MKLDNNLayerNorm(%x, %shape, %weight, %bias, %eps, %cudnn)\n  return (%y)"
        )
        layer_norm = torch._C._create_function_from_graph("layer_norm", graph)
        arrays = (case.x, case.gamma, case.beta)
        x, *parameters = (torch.from_numpy(array).to_mkldnn() for array in arrays)
        return lambda: layer_norm(x, [case.shape.channels], *parameters, EPS, False)

    def _tensor(self, array: Array, case: Case) -> Any:
        """A copy in the blocked layout of its convolutions: what one by the identity returns."""
        channels = self._torch.eye(case.shape.channels)[..., None, None]
        return self._torch.conv2d(super()._tensor(array, case).to_mkldnn(), channels)
