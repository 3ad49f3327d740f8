"""Random small graphs compute after folding what they computed before, with few norms left."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import bnfast.onnx
from bnfast_onnx.models import NORM, build, check, norm, weights

# Each operation keeps the shape of its input, so that any may follow any.
SHAPES = {"Conv": (2, 4, 6), "MatMul": (4, 4)}
LINEAR = {
    "Conv": [
        "Conv <pads = [1, 1]> ({x}, w{i})",
        "Conv <pads = [1, 1]> ({x}, w{i}, b{i})",
        "Conv <pads = [1, 1], group = 2> ({x}, g{i}, b{i})",
        "ConvTranspose <pads = [1, 1]> ({x}, w{i})",
        "ConvTranspose <pads = [1, 1], group = 2> ({x}, t{i}, b{i})",
    ],
    "MatMul": [
        "MatMul({x}, w{i})",
        "Gemm <transB = 1, alpha = 0.5> ({x}, w{i})",
        "Gemm <beta = 0.5> ({x}, w{i}, b{i})",
    ],
}
BIAS = ["Add({x}, b{i})", "Add(b{i}, {x})"]
NORMS = [f"{NORM}({{x}}, gamma{{i}}, beta{{i}}, mean{{i}}, var{{i}})"] * 4
OTHERS = ["Relu({x})", "Add({x}, {other})"]
ARRAYS = {
    f"{name}{i}": value
    for i in (0, 1)
    for name, value in (norm(4, seed=i) | {"b": weights(4, seed=i)}).items()
}
KERNELS = {
    "Conv": {"w": (4, 4, 3), "g": (4, 2, 3), "t": (4, 2, 3)},
    "MatMul": {"w": (4, 4)},
}


@st.composite
def graphs(draw):
    """Draw the text of a graph and the kind of its linear nodes."""
    kind = draw(st.sampled_from(sorted(SHAPES)))
    choices = LINEAR[kind] + NORMS + OTHERS + (BIAS if kind == "MatMul" else [])
    tensors, lines = ["x"], []
    for number in range(draw(st.integers(2, 8))):
        x = draw(st.sampled_from(tensors[-2:]))
        form = draw(st.sampled_from(choices))
        operation = form.format(
            x=x, other=draw(st.sampled_from(tensors)), i=draw(st.integers(0, 1))
        )
        tensors.append(f"y{number}")
        lines.append(f"{tensors[-1]} = {operation}")
    outputs = draw(st.sets(st.sampled_from(tensors[1:-1]), max_size=1)) | {tensors[-1]}
    shape = ", ".join(map(str, SHAPES[kind]))
    ends = ", ".join(f"float[{shape}] {name}" for name in sorted(outputs))
    return f"g (float[{shape}] x) => ({ends}) {{\n" + "\n".join(lines) + "\n}", kind


def operators_after(model):
    """Which operators should be left: the rules of folding again, for graphs of this kind."""
    graph = model.graph
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    operators: list[str | None] = []
    makers: dict[str, int] = {}  # tensors that one node alone reads, and who computes them now
    biased: dict[int, int] = {}  # an Add of a bias, and its MatMul
    for node in graph.node:
        index = len(operators)
        operators.append(node.op_type)
        x = [name for name in node.input if name not in ARRAYS]
        before = makers.get(x[0]) if x else None
        if before is None:
            pass
        elif node.op_type == "Add" and len(x) == 1 and operators[before] == "MatMul":
            biased[index] = before
        elif node.op_type == NORM:
            if before in biased:
                operators[before], before = None, biased[before]
            if operators[before] in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
                operators[before] = operators[before].replace("MatMul", "Gemm")
                operators[index], index = None, before
        if reads[node.output[0]] == 1:
            makers[node.output[0]] = index
    return [operator for operator in operators if operator]


@settings(max_examples=150)
@given(graphs())
def test_random_graphs(drawn):
    text, kind = drawn
    kernels = {
        f"{name}{i}": weights(*shape, seed=i)
        for i in (0, 1)
        for name, shape in KERNELS[kind].items()
    }
    arrays = {name: value for name, value in (ARRAYS | kernels).items() if name in text}
    model = build(text, **arrays)
    result = check(model, " ".join(operators_after(model)))
    norms = [node.output[0] for node in model.graph.node if node.op_type == NORM]
    reported = [entry.norm for entry in (*result.folded, *result.left)]
    assert sorted(reported) == sorted(norms)
    assert bnfast.onnx.fold(result.model).folded == ()
