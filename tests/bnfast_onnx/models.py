"""ONNX models in text form, and what must hold of every model that is folded."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import bnfast.onnx

NORM = "BatchNormalization"
# The parameters of a batch norm, as `norm` names them.
SIDE = "gamma, beta, mean, var"


def build(text, *, opset=17, ir=8, check=True, **arrays):
    """Return the model of `text`, `arrays` being its initializers."""
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]>\n{text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()
    )
    if check:
        onnx.checker.check_model(model, full_check=True)
    return model


def norm(channels, seed=0, dtype=np.float32):
    """Return parameters of a batch norm."""
    generator = np.random.default_rng(seed)
    values = {
        "gamma": generator.normal(1, 0.5, channels),
        "beta": generator.normal(0, 1, channels),
        "mean": generator.normal(0, 1, channels),
        "var": generator.uniform(0.3, 3, channels),
    }
    return {name: value.astype(dtype) for name, value in values.items()}


def weights(*shape, seed=1, dtype=np.float32):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(dtype)


def feeds(model, seed=2):
    """Return random inputs of a model; a bool is True, a dimension without a number 2."""
    generator = np.random.default_rng(seed)
    given = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 2 for dim in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        drawn = generator.normal(size=shape)
        given[value.name] = np.array(True) if dtype.kind == "b" else drawn.astype(dtype)
    return given


def run(model, given, *, optimise=False):
    """Return the outputs that ONNX Runtime computes, each node as it stands unless optimised."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, given)


def run_reference(model, given):
    """Return the outputs that the reference implementation of ONNX computes."""
    return ReferenceEvaluator(model).run(None, given)


def operators(model):
    return [node.op_type for node in model.graph.node]


def check(model, expected, *, given=None, run=run, tolerance=1e-5):
    """Fold a model, compare its operators and outputs, and return what fold returned."""
    before = model.SerializeToString(deterministic=True)
    result = bnfast.onnx.fold(model)
    assert model.SerializeToString(deterministic=True) == before
    assert expected is None or operators(result.model) == expected.split()
    onnx.checker.check_model(result.model, full_check=True)
    assert result.model.opset_import == model.opset_import
    assert result.model.graph.input == model.graph.input
    assert result.model.graph.output == model.graph.output
    reads = bnfast.onnx._reads(result.model.graph)
    assert all(reads[tensor.name] for tensor in result.model.graph.initializer)

    given = given or feeds(model)
    for was, now in zip(run(model, given), run(result.model, given), strict=True):
        assert now.dtype == was.dtype
        was, now = was.astype(np.float64), now.astype(np.float64)
        np.testing.assert_allclose(now, was, rtol=tolerance, atol=tolerance * abs(was).max())
    return result


def check_left(model, reason, **options):
    """Fold a model whose batch norms stay for a reason, and compare the model with it."""
    result = check(model, " ".join(operators(model)), **options)
    assert result.model == model
    assert result.folded == ()
    assert result.left and all(reason in left.reason for left in result.left), result.left
    return result
