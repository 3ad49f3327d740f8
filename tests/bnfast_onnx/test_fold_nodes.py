"""Each linear node of ONNX that a batch norm can become a part of, in all its forms."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from bnfast.onnx import Folded
from bnfast_onnx.models import NORM, SIDE, build, check, norm, run_reference, weights


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolution(axes, groups, bias):
    sides = ", ".join(["9"] * axes)
    model = build(
        f"""g (float[2, 4, {sides}] x) => (float[2, 6, {", ".join(["5"] * axes)}] y) {{
            z = Conv <group = {groups}, strides = [{", ".join(["2"] * axes)}],
                      pads = [{", ".join(["1"] * 2 * axes)}]> (x, w{bias})
            y = {NORM} <epsilon = 0.01> (z, {SIDE})
        }}""",
        w=weights(6, 4 // groups, *[3] * axes),
        **({"b": weights(6)} if bias else {}),
        **norm(6),
    )
    result = check(model, "Conv")
    assert result[1:] == ((Folded("y", "y", "Conv"),), ())


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [1, 2])
def test_transposed_convolution(axes, groups, bias):
    sides, ends = ", ".join(["4"] * axes), ", ".join(["10"] * axes)
    model = build(
        f"""g (float[2, 4, {sides}] x) => (float[2, 6, {ends}] y) {{
            z = ConvTranspose <group = {groups}, strides = [{", ".join(["2"] * axes)}],
                               output_padding = [{", ".join(["1"] * axes)}]> (x, w{bias})
            y = {NORM} (z, {SIDE})
        }}""",
        w=weights(4, 6 // groups, *[3] * axes),
        **({"b": weights(6)} if bias else {}),
        **norm(6),
    )
    check(model, "ConvTranspose")


@pytest.mark.parametrize("factors", ["", "alpha = 0.5, beta = -2.0,", "beta = 0.0,"])
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5), (1, 1), (3, 1), (3, 5)])
def test_gemm(bias, transposed, factors):
    a, b = transposed
    model = build(
        f"""g (float[{"7, 3" if a else "3, 7"}] x) => (float[3, 5] y) {{
            z = Gemm <{factors} transA = {a}, transB = {b}> (x, w{"" if bias is None else ", b"})
            y = {NORM} (z, {SIDE})
        }}""",
        w=weights(*((5, 7) if b else (7, 5))),
        **({} if bias is None else {"b": weights(*bias)}),
        **norm(5),
    )
    check(model, "Gemm")


def test_matmul_becomes_a_gemm():
    model = build(
        f"g (float[n, 7] x) => (float[n, 5] y) {{ z = MatMul(x, w) y = {NORM}(z, {SIDE}) }}",
        w=weights(7, 5),
        **norm(5),
    )
    result = check(model, "Gemm")
    assert result.folded == (Folded("y", "y", "Gemm"),)


@pytest.mark.parametrize("order", ["z, b", "b, z"])
@pytest.mark.parametrize("bias", [(), (1,), (5,), (1, 5), (1, 1)])
def test_matmul_and_add_become_a_gemm(bias, order):
    model = build(
        f"""g (float[3, 7] x) => (float[3, 5] y) {{
            z = MatMul(x, w)
            s = Add({order})
            y = {NORM}(s, {SIDE})
        }}""",
        w=weights(7, 5),
        b=weights(*bias),
        **norm(5),
    )
    check(model, "Gemm")


def test_float64_is_folded_to_its_accuracy():
    model = build(
        f"""g (double[4, 8] x) => (double[4, 6] y) {{
            z = Gemm(x, w, b) y = {NORM}(z, {SIDE}) }}""",
        w=weights(8, 6, dtype=np.float64),
        b=weights(6, dtype=np.float64),
        **norm(6, dtype=np.float64),
    )
    check(model, "Gemm", run=run_reference, tolerance=1e-14)


@pytest.mark.parametrize("statistics", ["same", np.float32])
@pytest.mark.parametrize(
    ("name", "dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)]
)
def test_16_bit_types(name, dtype, statistics):
    model = build(
        f"""g ({name}[4, 8] x) => ({name}[4, 6] y) {{
            z = Gemm(x, w, b) y = {NORM}(z, {SIDE}) }}""",
        w=weights(8, 6, dtype=dtype),
        b=weights(6, dtype=dtype),
        **norm(6, dtype=dtype if statistics == "same" else statistics),
    )
    last_bit = float(ml_dtypes.finfo(dtype).eps)
    result = check(model, "Gemm", run=run_reference, tolerance=4 * last_bit)
    types = {tensor.data_type for tensor in result.model.graph.initializer}
    assert types == {model.graph.input[0].type.tensor_type.elem_type}


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 20])
@pytest.mark.parametrize("linear", ["Conv(x, w)", "ConvTranspose(x, w)"])
def test_operator_sets(linear, opset):
    spatial = "<spatial = 1>" if opset < 9 else ""
    model = build(
        f"""g (float[2, 5, 6] x) => (float[2, 5, s] y) {{
            z = {linear} y = {NORM} {spatial} (z, {SIDE}) }}""",
        opset=opset,
        w=weights(5, 5, 2),
        **norm(5),
    )
    check(model, linear.split("(")[0])


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_matmul_of_older_operator_sets(opset):
    model = build(
        f"g (float[3, 7] x) => (float[3, 5] y) {{ z = MatMul(x, w) y = {NORM}(z, {SIDE}) }}",
        opset=opset,
        w=weights(7, 5),
        **norm(5),
    )
    check(model, "Gemm")


def test_a_chain_of_norms():
    second = {f"{name}2": value for name, value in norm(5, seed=5).items()}
    model = build(
        f"""g (float[2, 4, 8] x) => (float[2, 5, 6] y) {{
            z = Conv(x, w)
            s = {NORM}(z, {SIDE})
            y = {NORM}(s, {", ".join(second)})
        }}""",
        w=weights(5, 4, 3),
        **norm(5),
        **second,
    )
    result = check(model, "Conv")
    assert [folded.norm for folded in result.folded] == ["s", "y"]


def test_infinite_variance_gives_beta_as_before():
    values = norm(5) | {"var": np.array([1, np.inf, 2, 3, 4], np.float32)}
    model = build(
        f"g (float[3, 7] x) => (float[3, 5] y) {{ z = MatMul(x, w) y = {NORM}(z, {SIDE}) }}",
        w=weights(7, 5),
        **values,
    )
    check(model, "Gemm")
