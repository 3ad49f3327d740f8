"""Fold the batch norms of three networks in ONNX, and run them before and after.

    pip install onnx onnxruntime
    python examples/onnx_fold.py                    # a minute

The networks are a ResNet-18 (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
table 1), a MobileNet (Howard et al., "MobileNets: Efficient Convolutional Neural Networks for
Mobile Vision Applications", 2017, table 1) and four linear layers of 256 units, with random weights
and running statistics. Prints the number of nodes and the time of one sample in ONNX Runtime on one
thread, with its own optimisations switched off and on; they fold convolutions, too. Exits with 1 if
outputs differ by more than rounding.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import bnfast.onnx

# Channels and stride: of two blocks of the ResNet, and of one of the MobileNet.
RESNET = ((64, 1), (128, 2), (256, 2), (512, 2))
MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5)
MOBILENET += ((1024, 2), (1024, 1))
FLOAT = onnx.TensorProto.FLOAT
ALLOWED = 1e-5  # difference of outputs, as a share of the largest


class Network:
    """Nodes and weights, to which each method adds a layer; it returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def weight(self, value: np.ndarray) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def convolution(
        self, x: str, channels: int, outputs: int, size: int, stride: int = 1, groups: int = 1
    ) -> str:
        """A convolution and its batch norm."""
        shape = (outputs, channels // groups, size, size)
        weight = self.weight(self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape))
        window = {"strides": [stride] * 2, "pads": [size // 2] * 4}
        z = self.node("Conv", x, weight, group=groups, **window)
        return self.norm(z, outputs)

    def linear(self, x: str, channels: int, outputs: int) -> str:
        weight = self.weight(self.rng.normal(0, np.sqrt(2 / channels), (outputs, channels)))
        return self.node("Gemm", x, weight, self.weight(np.zeros(outputs)), transB=1)

    def norm(self, z: str, channels: int) -> str:
        gamma, var = self.rng.uniform(0.5, 1.5, (2, channels))
        beta, mean = self.rng.normal(0, 0.3, (2, channels))
        parameters = [self.weight(value) for value in (gamma, beta, mean, var)]
        return self.node("BatchNormalization", z, *parameters)

    def residual_block(self, x: str, channels: int, outputs: int, stride: int) -> str:
        """Two convolutions, and what is added to them: x, or a convolution of it."""
        z = self.node("Relu", self.convolution(x, channels, outputs, 3, stride))
        z = self.convolution(z, outputs, outputs, 3)
        if stride != 1 or channels != outputs:
            x = self.convolution(x, channels, outputs, 1, stride)
        return self.node("Relu", self.node("Add", z, x))

    def separable_block(self, x: str, channels: int, outputs: int, stride: int) -> str:
        """A convolution of each channel by itself, and one of all channels of a pixel."""
        x = self.node("Relu", self.convolution(x, channels, channels, 3, stride, channels))
        return self.node("Relu", self.convolution(x, channels, outputs, 1))

    def classify(self, z: str, channels: int) -> str:
        """The mean over all pixels, and a linear layer."""
        return self.linear(self.node("Flatten", self.node("GlobalAveragePool", z)), channels, 1000)

    def model(self, name: str, input_shape: tuple[int, ...], output: str) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", FLOAT, ["n", *input_shape])
        y = helper.make_tensor_value_info(output, FLOAT, ["n", None])
        graph = helper.make_graph(self.nodes, name, [x], [y], self.weights)
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def resnet18(size: int = 224) -> onnx.ModelProto:
    """Return a ResNet-18 for images of size x size pixels."""
    network = Network()
    z = network.node("Relu", network.convolution("x", 3, 64, 7, 2))
    z = network.node("MaxPool", z, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for outputs, stride in RESNET:
        z = network.residual_block(z, channels, outputs, stride)
        z = network.residual_block(z, outputs, outputs, 1)
        channels = outputs
    return network.model("ResNet-18", (3, size, size), network.classify(z, channels))


def mobilenet(size: int = 224) -> onnx.ModelProto:
    """Return a MobileNet for images of size x size pixels."""
    network = Network()
    z = network.node("Relu", network.convolution("x", 3, 32, 3, 2))
    channels = 32
    for outputs, stride in MOBILENET:
        z = network.separable_block(z, channels, outputs, stride)
        channels = outputs
    return network.model("MobileNet", (3, size, size), network.classify(z, channels))


def perceptron(units: int = 256) -> onnx.ModelProto:
    """Return four linear layers, each with batch norm and ReLU."""
    network = Network()
    z = "x"
    for _ in range(4):
        z = network.node("Relu", network.norm(network.linear(z, units, units), units))
    return network.model("perceptron", (units,), z)


def session(model: onnx.ModelProto, optimise: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def milliseconds(sessions: list[onnxruntime.InferenceSession], x: np.ndarray) -> list[float]:
    """Return the shortest of 50 times on the processor of each session, which take turns."""
    best = [float("inf")] * len(sessions)
    for _ in range(50):
        for index, one in enumerate(sessions):
            start = time.thread_time()
            one.run(None, {"x": x})
            best[index] = min(best[index], 1e3 * (time.thread_time() - start))
    return best


def main() -> int:
    largest = 0.0
    print("|            |        | nodes | ms, as it is | ms, optimised |")
    print("|------------|--------|------:|-------------:|--------------:|")
    for before in (resnet18(), mobilenet(), perceptron()):
        shape = [dim.dim_value or 1 for dim in before.graph.input[0].type.tensor_type.shape.dim]
        x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        after = bnfast.onnx.fold(before).model
        models = {"before": before, "after": after}
        sessions = [
            session(model, optimise) for model in models.values() for optimise in (False, True)
        ]
        outputs = [one.run(None, {"x": x})[0] for one in sessions]
        difference = max(abs(output - outputs[0]).max() for output in outputs)
        largest = max(largest, difference / abs(outputs[0]).max())
        times = iter(milliseconds(sessions, x))
        for title, model in models.items():
            nodes, plain, optimised = len(model.graph.node), next(times), next(times)
            row = f"| {before.graph.name:10} | {title:6} | {nodes:5} | {plain:12.3g} |"
            print(f"{row} {optimised:13.3g} |")
    print(f"Outputs differ by {largest:.1e} of the largest.")
    return int(largest > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
