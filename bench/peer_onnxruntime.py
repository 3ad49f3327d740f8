"""ONNX Runtime as a contender: inference on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from contender import Contender
from workload import EPS, Array, Case

OPSET = 17
# The newest runtime may lag behind the onnx package, which writes its own version by default.
IR_VERSION = 9
DTYPES = ("float32", "float64")  # those of its batch norm on the CPU


class OnnxRuntime:
    """A model of one BatchNormalization node, with Add and Relu after it where asked."""

    name = "onnxruntime"

    def __init__(self, num_threads: int) -> None:
        import onnx
        import onnxruntime

        self._onnx: Any = onnx
        self._ort: Any = onnxruntime
        self._num_threads = num_threads
        self.version: str = onnxruntime.__version__

    def contenders(self, case: Case) -> list[Contender]:
        # ONNX knows channels second only, which an (N, C) array has in either layout.
        channels_second = case.layout == "planes" or case.x.ndim == 2
        inference = case.operation.kind == "inference"
        if not inference or not channels_second or case.dtype_name not in DTYPES:
            return []
        session = self._session(case)
        feeds = {"x": case.x} if case.residual is None else {"x": case.x, "residual": case.residual}
        binding = session.io_binding()
        from_numpy = self._ort.OrtValue.ortvalue_from_numpy
        values = {name: from_numpy(array) for name, array in (*feeds.items(), ("y", case.out))}
        for name in feeds:
            binding.bind_ortvalue_input(name, values[name])
        binding.bind_ortvalue_output("y", values["y"])
        return [
            Contender(
                self.name,
                "out",
                lambda: session.run_with_iobinding(binding),
                lambda returned: values["y"].numpy(),
            ),
            Contender(
                self.name,
                "fresh",
                lambda: session.run(["y"], feeds),
                lambda returned: np.asarray(returned[0]),
            ),
        ]

    def _session(self, case: Case) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._num_threads
        # Its idle threads would go on spinning on the cores of the next contender.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = self._model(case).SerializeToString()
        return self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _model(self, case: Case) -> Any:
        helper = self._onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(case.dtype)

        def value(name: str) -> Any:
            return helper.make_tensor_value_info(name, kind, case.x.shape)

        def parameter(name: str, values: Array) -> Any:
            return self._onnx.numpy_helper.from_array(values.astype(case.dtype), name)

        parameters = {"gamma": case.gamma, "beta": case.beta, "mean": case.mean, "var": case.var}
        steps = [("BatchNormalization", ["x", *parameters], {"epsilon": EPS})]
        if case.residual is not None:
            steps.append(("Add", ["step0", "residual"], {}))
        if case.operation.relu:
            steps.append(("Relu", [f"step{len(steps) - 1}"], {}))
        last = len(steps) - 1
        nodes = [
            helper.make_node(kind, inputs, ["y" if i == last else f"step{i}"], **attributes)
            for i, (kind, inputs, attributes) in enumerate(steps)
        ]
        inputs = [value("x")] if case.residual is None else [value("x"), value("residual")]
        initializers = [parameter(name, values) for name, values in parameters.items()]
        graph = helper.make_graph(nodes, "batch_norm", inputs, [value("y")], initializers)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
