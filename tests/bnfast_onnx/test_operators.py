"""The norms and dropout of ONNX's own reference implementation, as oracles for ours."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx.reference import ReferenceEvaluator  # noqa: E402 (after the skip)

import bnfast  # noqa: E402

DTYPES = [np.float32, np.float64]
ATOL = {np.float32: 2e-6, np.float64: 1e-12}
EPS = 0.0078125  # a power of two, which the attribute (a float32) and a float hold alike


def operator(name, version, *inputs, outputs=1, **attributes):
    """Return what the reference implementation gives for one node of an operator set."""
    given = {f"i{number}": value for number, value in enumerate(inputs)}
    made = [f"o{number}" for number in range(outputs)]
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(name, list(given), made, **attributes)],
        "one node",
        [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for key, v in given.items()
        ],
        [helper.make_empty_tensor_value_info(output) for output in made],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    return ReferenceEvaluator(model).run(None, given)


def arrays(dtype, *shapes):
    generator = np.random.default_rng(0)
    return [generator.normal(0.5, 2, size=shape).astype(dtype) for shape in shapes]


def close(ours, theirs, dtype):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=10 * ATOL[dtype], atol=ATOL[dtype])


@pytest.mark.parametrize("momentum", [None, 0.75])
@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3), (2, 5, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_normalization_15(dtype, shape, momentum):
    x, gamma, beta, mean = arrays(dtype, shape, 5, 5, 5)
    var = np.array([0.5, 1, 2, 3, 4], dtype)
    overrides = {} if momentum is None else {"momentum": momentum}
    layer = bnfast.BatchNorm.from_preset("onnx", 5, dtype=dtype, **overrides)
    state = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    layer.load_state_dict(layer.state_dict() | state)
    given = [x, gamma, beta, mean, var]

    layer.eval()
    close(layer(x), operator("BatchNormalization", 15, *given)[0], dtype)
    layer.train()
    y, running_mean, running_var = operator(
        "BatchNormalization", 15, *given, outputs=3, training_mode=1, **overrides
    )
    close(layer(x), y, dtype)
    after = layer.state_dict()
    # Its momentum is a float32: 0.9 is 0.89999998.
    np.testing.assert_allclose(after["running_mean"], running_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["running_var"], running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1, -2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_normalization_17(dtype, axis):
    shape = (2, 3, 4, 5)
    axes = tuple(range(axis % 4 - 4, 0))
    x, gamma, beta = arrays(dtype, shape, shape[axis % 4 :], shape[axis % 4 :])
    y, mean, invstd = operator(
        "LayerNormalization", 17, x, gamma, beta, outputs=3, axis=axis, epsilon=EPS
    )
    ours, ctx = bnfast.layer_norm(x, gamma, beta, axis=axes, eps=EPS)
    close(ours, y, dtype)
    # Theirs keep the axes that were normalised, with length 1.
    close(ctx.mean.reshape(mean.shape), mean, dtype)
    close(ctx.invstd.reshape(invstd.shape), invstd, dtype)


@pytest.mark.parametrize("axis", [-1, 2, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_normalization_23(dtype, axis):
    shape = (2, 3, 4, 5)
    axes = tuple(range(axis % 4 - 4, 0))
    x, gamma = arrays(dtype, shape, shape[axis % 4 :])
    (y,) = operator("RMSNormalization", 23, x, gamma, axis=axis, epsilon=EPS)
    close(bnfast.rms_norm(x, gamma, axis=axes, eps=EPS)[0], y, dtype)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_group_normalization_21(dtype, groups):
    x, gamma, beta = arrays(dtype, (2, 6, 3, 4), 6, 6)
    stash = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)  # what it computes in
    (y,) = operator(
        "GroupNormalization",
        21,
        x,
        gamma,
        beta,
        num_groups=groups,
        epsilon=EPS,
        stash_type=stash,
    )
    close(bnfast.group_norm(x, groups, gamma, beta, eps=EPS)[0], y, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_instance_normalization_22(dtype):
    x, gamma, beta = arrays(dtype, (2, 6, 3, 4), 6, 6)
    (y,) = operator("InstanceNormalization", 22, x, gamma, beta, epsilon=EPS)
    close(bnfast.instance_norm(x, gamma, beta, eps=EPS)[0], y, dtype)


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_22_scales_what_it_keeps_as_inverted_dropout_does(dtype, rate):
    """The masks differ, being random; where both keep an element, it has the same value."""
    (x,) = arrays(dtype, (40, 50))
    theirs, their_mask = operator(
        "Dropout", 22, x, np.array(rate, dtype), np.array(True), outputs=2, seed=1
    )
    ours, ctx = bnfast.dropout(x, rate, seed=1, mode="inverted")
    mask = bnfast.dropout_mask(x.shape, rate, seed=1)
    both = mask & their_mask
    assert both.any()
    close(ours[both], theirs[both], dtype)
    assert not ours[~mask].any() and not theirs[~their_mask].any()
    # Theirs on our mask, which is the formula of the specification.
    close(ours, np.where(mask, x, 0) * dtype(1 / (1 - rate)), dtype)
    close(bnfast.dropout_backward(x, ctx), ours, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_22_copies_in_inference(dtype):
    (x,) = arrays(dtype, (4, 5))
    y, mask = operator("Dropout", 22, x, np.array(0.5, dtype), np.array(False), outputs=2)
    assert mask.all()
    np.testing.assert_array_equal(bnfast.dropout_inference(x, 0.5, mode="inverted"), y)
