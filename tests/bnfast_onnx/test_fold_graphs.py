"""What folding leaves as it was, and what becomes of tensors that a graph shares."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from google.protobuf.message import EncodeError  # noqa: E402 (after the skip)

import bnfast.onnx  # noqa: E402
from bnfast.onnx import Folded, Left  # noqa: E402
from bnfast_onnx.models import (  # noqa: E402
    NORM,
    SIDE,
    build,
    check,
    check_left,
    norm,
    weights,
)

CONV = {"w": weights(5, 4, 3), **norm(5)}
SHAPES = "(float[2, 4, 8] x) => (float[2, 5, 6] y)"


@pytest.mark.parametrize("value", [None, "net.onnx", b"", 1])
def test_what_is_no_model(value):
    with pytest.raises(TypeError, match=r"^onnx\.fold: model is of type .*, expected onnx.Model"):
        bnfast.onnx.fold(value)


def test_graph_is_no_model():
    model = build(f"g {SHAPES} {{ y = Conv(x, w) }}", w=weights(5, 4, 3))
    with pytest.raises(TypeError, match="GraphProto"):
        bnfast.onnx.fold(model.graph)
    assert bnfast.onnx.fold(model) == (model, (), ())


def test_names_are_kept_and_what_nothing_reads_is_dropped():
    model = build(
        f"g {SHAPES} {{ z = Conv(x, w) n = {NORM}(z, {SIDE}) y = Relu(n) }}",
        **CONV,
    )
    model.graph.node[0].name, model.graph.node[1].name = "first", "second"
    model = onnx.shape_inference.infer_shapes(model)
    result = check(model, "Conv Relu")
    assert result.folded == (Folded("second", "first", "Conv"),)
    graph = result.model.graph
    assert list(graph.node[0].output) == ["n"]
    assert {tensor.name for tensor in graph.initializer} == {"first_weight", "first_bias"}
    assert [value.name for value in graph.value_info] == ["n"]


def test_new_names_differ_from_all_that_there_are():
    model = build(
        f"g {SHAPES} {{ z = Conv(x, y_weight) y_bias = {NORM}(z, {SIDE}) y = Relu(y_bias) }}",
        y_weight=weights(5, 4, 3),
        **norm(5),
    )
    model.graph.node[0].name = "y"
    result = check(model, "Conv Relu")
    names = {tensor.name for tensor in result.model.graph.initializer}
    assert names == {"y_weight_1", "y_bias_1"}


def test_weights_that_another_node_shares():
    model = build(
        f"""g {SHAPES} {{
            a = Conv(x, w)
            n = {NORM}(a, {SIDE})
            b = Conv(x, w)
            y = Add(n, b)
        }}""",
        **CONV,
    )
    result = check(model, "Conv Conv Add")
    assert result.model.graph.node[1] == model.graph.node[2]
    assert {tensor.name for tensor in result.model.graph.initializer} > {"w"}


def test_weights_and_statistics_that_two_pairs_share():
    model = build(
        f"""g {SHAPES} {{
            a = Conv(x, w)
            b = Conv <dilations = [1]> (x, w)
            m = {NORM}(a, {SIDE})
            n = {NORM} <epsilon = 0.5> (b, {SIDE})
            y = Add(m, n)
        }}""",
        **CONV,
    )
    result = check(model, "Conv Conv Add")
    assert len(result.folded) == 2 and len(result.model.graph.initializer) == 4


def test_weight_that_is_an_output():
    model = build(
        f"""g (float[2, 4, 8] x) => (float[2, 5, 6] y, float[5, 4, 3] w) {{
            z = Conv(x, w) y = {NORM}(z, {SIDE}) }}""",
        **CONV,
    )
    check(model, "Conv")


def test_statistics_that_another_node_reads():
    model = build(
        f"g {SHAPES} {{ z = Conv(x, w) n = {NORM}(z, {SIDE}) m = ReduceSum(var) y = Add(n, m) }}",
        **CONV,
    )
    check(model, "Conv ReduceSum Add")


@pytest.mark.parametrize("second", ["Relu(z)", f"{NORM}(z, {SIDE})"])
def test_convolution_that_two_nodes_read(second):
    model = build(
        f"g {SHAPES} {{ z = Conv(x, w) n = {NORM}(z, {SIDE}) r = {second} y = Add(n, r) }}",
        **CONV,
    )
    check_left(model, "'z' is used elsewhere")


def test_convolution_that_is_an_output():
    model = build(
        f"""g (float[2, 4, 8] x) => (float[2, 5, 6] y, float[2, 5, 6] z) {{
            z = Conv(x, w) y = {NORM}(z, {SIDE}) }}""",
        **CONV,
    )
    check_left(model, "'z' is used elsewhere")


def test_one_norm_is_folded_and_another_left():
    model = build(
        f"""g (float[2, 5, 8] x) => (float[2, 5, 6] y) {{
            first = {NORM}(x, {SIDE})
            z = Conv(first, w)
            y = {NORM}(z, {SIDE})
        }}""",
        w=weights(5, 5, 3),
        **norm(5),
    )
    result = check(model, f"{NORM} Conv")
    assert result.folded == (Folded("y", "y", "Conv"),)
    assert result.left == (Left("first", "its input 'x' is computed by no node of its graph"),)


@pytest.mark.parametrize(
    ("between", "operator"),
    [
        ("s = Relu(z)", "Relu"),
        ("s = Identity(z)", "Identity"),
        ("s = Add(z, c)", "Add"),
        ("r = Sigmoid(x2) s = Add(z, r)", "Add"),
    ],
)
def test_norm_that_does_not_follow_a_linear_node(between, operator):
    model = build(
        f"""g (float[2, 4, 8] x, float[2, 5, 6] x2) => (float[2, 5, 6] y) {{
            z = Conv(x, w) {between} y = {NORM}(s, {SIDE}) }}""",
        **CONV,
        **({"c": weights(1, 5, 1)} if "c)" in between else {}),
    )
    check_left(model, f"its input is computed by {operator}")


def test_convolution_of_another_domain():
    model = build(f"g {SHAPES} {{ z = Conv(x, w) y = {NORM}(z, {SIDE}) }}", **CONV)
    model.graph.node[0].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)
    result = bnfast.onnx.fold(model)
    assert result.model == model and len(result.left) == 1


@pytest.mark.parametrize("name", ["w", "b", *SIDE.split(", ")])
@pytest.mark.parametrize("default", [True, False])
def test_what_a_caller_may_replace_is_not_constant(name, default):
    model = build(f"g {SHAPES} {{ z = Conv(x, w, b) y = {NORM}(z, {SIDE}) }}", b=weights(5), **CONV)
    tensors = model.graph.initializer
    index = [tensor.name for tensor in tensors].index(name)
    model.graph.input.add().CopyFrom(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, tensors[index].dims)
    )
    if not default:
        del tensors[index]
    given = {"x": weights(2, 4, 8), name: abs(weights(*(CONV | {"b": weights(5)})[name].shape))}
    check_left(model, f"{name!r} is not constant", given=given)


def test_values_of_constant_nodes_and_through_identity():
    model = build(
        f"""g {SHAPES} {{
            v = Constant <value = float[5] {{1, 2, 3, 4, 5}}> ()
            m = Identity(v)
            m2 = Identity(m)
            z = Conv(x, w)
            y = {NORM}(z, gamma, beta, m2, v)
        }}""",
        w=weights(5, 4, 3),
        gamma=weights(5),
        beta=weights(5),
    )
    check(model, "Conv")


def test_constant_node_that_is_still_read():
    model = build(
        f"""g {SHAPES} {{
            v = Constant <value = float[5] {{1, 2, 3, 4, 5}}> ()
            z = Conv(x, w)
            n = {NORM}(z, gamma, beta, mean, v)
            s = ReduceSum(v)
            y = Add(n, s)
        }}""",
        **{name: value for name, value in CONV.items() if name != "var"},
    )
    check(model, "Constant Conv ReduceSum Add")


@pytest.mark.parametrize("opset", [9, 13, 15])
def test_training_mode(opset):
    mode, outputs = ("<training_mode = 1>", "m, v") if opset > 13 else ("", "m, v, sm, sv")
    model = build(
        f"g {SHAPES} {{ z = Conv(x, w) y, {outputs} = {NORM} {mode} (z, {SIDE}) }}",
        opset=opset,
        **CONV,
    )
    assert bnfast.onnx.fold(model) == (model, (), (Left("y", "it is in training mode"),))


@pytest.mark.parametrize(
    ("versions", "mode", "reason"),
    [
        ({"opset": 6}, "", "the model has operator set 6"),
        ({"ir": 3}, "", "the model has IR version 3"),
        ({"opset": 7}, "<spatial = 0>", "spatial = 0"),
    ],
)
def test_older_forms(versions, mode, reason):
    model = build(
        f"g {SHAPES} {{ z = Conv(x, w) y = {NORM} {mode} (z, {SIDE}) }}",
        check=False,
        **versions,
        **CONV,
    )
    result = bnfast.onnx.fold(model)
    assert result.model == model
    assert len(result.left) == 1 and reason in result.left[0].reason


def test_initializers_that_training_may_change():
    model = build(f"g {SHAPES} {{ z = Conv(x, w) y = {NORM}(z, {SIDE}) }}", **CONV)
    model.training_info.add()
    check_left(model, "training_info")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"var": [1, 2, -1e-6, 3, 4]}, "var has -1e-06"),
        ({"var": [1, 2, 0, 3, 4]}, "epsilon of a channel are 0"),
        ({"var": [1, np.nan, 1, 3, 4]}, "not be finite numbers of float32"),
        ({"gamma": [3e38] * 5, "var": [1e-8] * 5, "mean": [0] * 5}, "not be finite"),
        ({"beta": [np.inf, 0, 0, 0, 0]}, "not be finite"),
    ],
)
def test_values_that_folding_would_change(values, reason):
    values = {name: np.array(value, np.float32) for name, value in values.items()}
    eps = 0.0 if "epsilon" in reason or "gamma" in values else 1e-5
    model = build(
        f"g {SHAPES} {{ z = Conv(x, w) y = {NORM} <epsilon = {eps}> (z, {SIDE}) }}",
        **(CONV | values),
    )
    result = bnfast.onnx.fold(model)
    assert result.model == model
    assert [reason in left.reason for left in result.left] == [True], result.left


def test_weights_in_a_file_that_was_not_loaded(tmp_path):
    model = build(f"g {SHAPES} {{ z = Conv(x, w) y = {NORM}(z, {SIDE}) }}", **CONV)
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="values", size_threshold=0)
    result = bnfast.onnx.fold(onnx.load(path, load_external_data=False))
    assert "a file that was not loaded" in result.left[0].reason
    check(onnx.load(path), "Conv")


@pytest.mark.parametrize(
    ("linear", "shapes", "reason"),
    [
        ("z = MatMul(x, w)", "(float[2, 5, 7] x) => (float[2, 5, 5] y)", "to have 2 axes"),
        ("z = MatMul(x, stack)", "(float[5, 7] x) => (float[2, 5, 5] y)", "'stack', which MatMul"),
        ("z = MatMul(w, x)", "(float[5, 7] x) => (float[7, 7] y)", "'x' is not constant"),
        ("s = MatMul(x, w) z = Add(s, rows)", "(float[3, 7] x) => (float[3, 5] y)", "one row"),
        ("s = MatMul(x, w) z = Add(s, cube)", "(float[3, 7] x) => (float[2, 3, 5] y)", "one row"),
    ],
)
def test_matmul_that_is_no_gemm(linear, shapes, reason):
    channels = 7 if "w, x" in linear else 3 if "cube" in linear else 5
    model = build(
        f"g {shapes} {{ {linear} y = {NORM}(z, {SIDE}) }}",
        **({"stack": weights(2, 7, 5)} if "stack" in linear else {"w": weights(7, 5)}),
        **({"rows": weights(3, 5)} if "rows" in linear else {}),
        **({"cube": weights(2, 1, 5)} if "cube" in linear else {}),
        **norm(channels),
    )
    check_left(model, reason)


def test_matmul_whose_input_has_no_known_shape():
    model = build(
        f"""g (float[3, 7] x, int64[r] shape) => (float[a, b] y) {{
            s = Reshape(x, shape) z = MatMul(s, w) y = {NORM}(z, {SIDE}) }}""",
        w=weights(7, 5),
        **norm(5),
    )
    check_left(model, "to have 2 axes", given={"x": weights(3, 7), "shape": np.array([3, 7])})


def test_model_that_is_too_large_to_infer_shapes_of(monkeypatch):
    model = build(
        f"""g (float[3, 7] x) => (float[3, 5] y) {{
            r = Relu(x) z = MatMul(r, w) y = {NORM}(z, {SIDE}) }}""",
        w=weights(7, 5),
        **norm(5),
    )
    inferred = onnx.shape_inference.infer_shapes(model)
    too_large = mock.Mock(side_effect=EncodeError)
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", too_large)
    assert "to have 2 axes" in bnfast.onnx.fold(model).left[0].reason
    assert [folded.norm for folded in bnfast.onnx.fold(inferred).folded] == ["y"]
    assert too_large.call_count == 2
