"""Folding in the graphs that If and Loop hold, which see the names of the graphs around them."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from bnfast_onnx.models import NORM, SIDE, build, check, check_left, norm, weights  # noqa: E402

CONV = {"w": weights(5, 4, 3), **norm(5)}
SHAPES = "(float[2, 4, 8] x, bool c) => (float[2, 5, 6] y)"


def operators_inside(model):
    return [
        [node.op_type for node in attribute.g.node]
        for outer in model.graph.node
        for attribute in outer.attribute
        if attribute.HasField("g")
    ]


def test_branches_with_weights_from_outside():
    model = build(
        f"""g {SHAPES} {{
            y = If (c) <
                then_branch = a () => (float[2, 5, 6] t) {{ z = Conv(x, w) t = {NORM}(z, {SIDE}) }},
                else_branch = b () => (float[2, 5, 6] e) {{ z = Conv(x, w) e = Relu(z) }}>
        }}""",
        **CONV,
    )
    result = check(model, "If")
    assert operators_inside(result.model) == [["Conv"], ["Conv", "Relu"]]
    assert [tensor.name for tensor in result.model.graph.initializer] == ["w"]
    check(model, "If", given={"x": weights(2, 4, 8), "c": np.array(False)})


def test_branches_that_use_the_same_names():
    branch = f"{{ z = Conv(x, w) t = {NORM}(z, {SIDE}) }}"
    model = build(
        f"""g {SHAPES} {{
            y = If (c) <
                then_branch = a () => (float[2, 5, 6] t) {branch},
                else_branch = b () => (float[2, 5, 6] t) {branch}>
        }}""",
        **CONV,
    )
    result = check(model, "If")
    assert operators_inside(result.model) == [["Conv"], ["Conv"]]
    assert len(result.model.graph.initializer) == 0
    check(model, "If", given={"x": weights(2, 4, 8), "c": np.array(False)})


def test_norm_whose_convolution_is_outside():
    model = build(
        f"""g {SHAPES} {{
            z = Conv(x, w)
            y = If (c) <
                then_branch = a () => (float[2, 5, 6] t) {{ t = {NORM}(z, {SIDE}) }},
                else_branch = b () => (float[2, 5, 6] e) {{ e = Identity(z) }}>
        }}""",
        **CONV,
    )
    check_left(model, "'z' is computed by no node of its graph")


def test_convolution_that_a_branch_reads_too():
    model = build(
        f"""g {SHAPES} {{
            z = Conv(x, w)
            n = {NORM}(z, {SIDE})
            y = If (c) <
                then_branch = a () => (float[2, 5, 6] t) {{ t = Add(n, z) }},
                else_branch = b () => (float[2, 5, 6] e) {{ e = Identity(n) }}>
        }}""",
        **CONV,
    )
    check_left(model, "'z' is used elsewhere")


def test_statistics_that_a_branch_reads_too():
    model = build(
        f"""g {SHAPES} {{
            z = Conv(x, w)
            n = {NORM}(z, {SIDE})
            y = If (c) <
                then_branch = a () => (float[2, 5, 6] t) {{ v = ReduceSum(var) t = Add(n, v) }},
                else_branch = b () => (float[2, 5, 6] e) {{ e = Identity(n) }}>
        }}""",
        **CONV,
    )
    check(model, "Conv If")


def test_constants_that_a_branch_renames():
    model = build(
        f"""g {SHAPES} {{
            y = If (c) <
                then_branch = a () => (float[2, 5, 6] t) {{
                    v = Identity(var) z = Conv(x, w) t = {NORM}(z, gamma, beta, mean, v) }},
                else_branch = b () => (float[2, 5, 6] e) {{ e = Conv(x, w) }}>
        }}""",
        **CONV,
    )
    result = check(model, "If")
    assert operators_inside(result.model) == [["Conv"], ["Conv"]]


def test_loop():
    model = build(
        f"""g (float[2, 5, 8] x) => (float[2, 5, 8] y) {{
            y = Loop (count, , x) <body = b (int64 i, bool go_in, float[2, 5, 8] s)
                => (bool go, float[2, 5, 8] t) {{
                    go = Identity(go_in)
                    z = Conv <pads = [1, 1]> (s, w)
                    t = {NORM}(z, {SIDE})
                }}>
        }}""",
        count=np.int64(3),
        w=weights(5, 5, 3),
        **norm(5),
    )
    result = check(model, "Loop")
    assert operators_inside(result.model) == [["Identity", "Conv"]]


@pytest.mark.parametrize("name", ["m", "mean"])
def test_what_a_loop_carries_is_not_constant(name):
    """Its name may be that of a constant outside, which it hides."""
    model = build(
        f"""g (float[2, 5, 8] x) => (float[2, 5, 8] y, float[5] last) {{
            y, last = Loop (count, , x, mean)
                <body = b (int64 i, bool go_in, float[2, 5, 8] s, float[5] {name})
                => (bool go, float[2, 5, 8] t, float[5] next) {{
                    go = Identity(go_in)
                    z = Conv <pads = [1, 1]> (s, w)
                    t = {NORM}(z, gamma, beta, {name}, var)
                    next = Mul({name}, {name})
                }}>
        }}""",
        count=np.int64(3),
        w=weights(5, 5, 3),
        **norm(5),
    )
    check_left(model, f"{name!r} is not constant")


def test_matmul_in_a_branch():
    model = build(
        f"""g (float[3, 7] x, bool c) => (float[3, 5] y) {{
            y = If (c) <
                then_branch = a () => (float[3, 5] t) {{
                    r = Relu(x) z = MatMul(r, w) t = {NORM}(z, {SIDE}) }},
                else_branch = b () => (float[3, 5] e) {{ e = MatMul(x, w) }}>
        }}""",
        w=weights(7, 5),
        **norm(5),
    )
    result = check(model, "If")
    assert operators_inside(result.model) == [["Relu", "Gemm"], ["MatMul"]]


def test_matmul_whose_input_has_another_shape_in_the_other_branch():
    """Shapes are known by name alone, so that this name has none."""
    model = build(
        f"""g (float[3, 7] x, float[2, 3, 7] u, bool c) => (float[a, b] y) {{
            y = If (c) <
                then_branch = a () => (float[2, 7] e) {{
                    r = Relu(u) e = ReduceMax <keepdims = 0> (r, axis) }},
                else_branch = b () => (float[3, 5] t) {{
                    r = Relu(x) z = MatMul(r, w) t = {NORM}(z, {SIDE}) }}>
        }}""",
        opset=18,
        w=weights(7, 5),
        axis=np.array([1]),
        **norm(5),
    )
    check_left(model, "to have 2 axes")


def test_functions_are_left_until_they_are_inlined():
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g {SHAPES} {{ y = local.block(x, c, w, {SIDE}) }}
        <domain: "local", opset_import: ["": 17]>
        block (x, c, w, {SIDE}) => (y) {{
            z = Conv(x, w)
            n = {NORM}(z, {SIDE})
            y = If (c) <
                then_branch = a () => (float[2, 5, 6] t) {{ t = {NORM}(n, {SIDE}) }},
                else_branch = b () => (float[2, 5, 6] e) {{ e = Relu(n) }}>
        }}"""
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in CONV.items()
    )
    result = check_left(model, "inside the function 'block'")
    assert [left.norm for left in result.left] == ["n", "t"]
    inlined = pytest.importorskip("onnx.inliner").inline_local_functions(model)
    assert len(check(inlined, "Conv If").folded) == 1
