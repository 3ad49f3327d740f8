"""A folded layer computes what the layer and the batch norm behind it do."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import bnfast
from bnfast._fold import fold_batch_norm

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def channels(seed=0, number=5):
    generator = np.random.default_rng(seed)
    mean, gamma, beta = generator.normal(size=(3, number))
    return mean, generator.uniform(0.1, 3, number), gamma, beta


@pytest.mark.parametrize("placement", ["var", "std"])
@pytest.mark.parametrize("with_gamma", [True, False])
@pytest.mark.parametrize("with_beta", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_linear_layer(axis, with_bias, with_beta, with_gamma, placement):
    generator = np.random.default_rng(1)
    mean, var, gamma, beta = channels()
    x = generator.normal(size=(11, 7))
    weight = generator.normal(size=(5, 7))
    bias = generator.normal(size=5)
    eps = 0.25
    z = x @ weight.T + (bias if with_bias else 0)
    deviation = np.sqrt(var + eps) if placement == "var" else np.sqrt(var) + eps
    expected = (z - mean) / deviation * (gamma if with_gamma else 1) + (beta if with_beta else 0)

    weight2, bias2 = fold_batch_norm(
        weight if axis == 0 else weight.T,
        bias if with_bias else None,
        mean,
        var,
        gamma if with_gamma else None,
        beta if with_beta else None,
        eps=eps,
        axis=axis,
        eps_placement=placement,
    )
    weight2 = weight2 if axis == 0 else weight2.T
    np.testing.assert_allclose(x @ weight2.T + bias2, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["conv", "transposed", "grouped", "grouped transposed"])
def test_convolutions_as_torch_folds_them(kind):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = {
        "conv": lambda: torch.nn.Conv2d(4, 6, 3),
        "grouped": lambda: torch.nn.Conv2d(4, 6, 3, groups=2, bias=False),
        "transposed": lambda: torch.nn.ConvTranspose2d(4, 6, 3),
        "grouped transposed": lambda: torch.nn.ConvTranspose2d(4, 6, 3, groups=2),
    }[kind]().double()
    mean, var, gamma, beta = channels(2, 6)
    norm = torch.nn.BatchNorm2d(6).double().eval()
    state = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    norm.load_state_dict({**tensors, "num_batches_tracked": torch.tensor(0)})
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = norm(layer(x))
        weight2, bias2 = fold_batch_norm(
            layer.weight.numpy(),
            None if layer.bias is None else layer.bias.numpy(),
            mean,
            var,
            gamma,
            beta,
            axis=1 if "transposed" in kind else 0,
            groups=layer.groups,
        )
        layer.weight[:] = torch.from_numpy(weight2)
        layer.bias = torch.nn.Parameter(torch.from_numpy(bias2))
        torch.testing.assert_close(layer(x), expected)


def test_parameters_of_torch_are_folded_without_their_gradients():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2)
    mean, var = np.ones(2), np.full(2, 4.0)
    folded = fold_batch_norm(layer.weight, layer.bias, mean, var)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    for got, want in zip(folded, fold_batch_norm(weight, bias, mean, var), strict=True):
        assert not got.requires_grad
        assert np.array_equal(got, want)


def transposed_convolution(x, weight, bias, groups):
    """conv_transpose1d of x (N, C_in, L) by weight (C_in, C_out / groups, K), stride 1."""
    samples, inputs, length = x.shape
    _, here, taps = weight.shape
    z = np.zeros((samples, here * groups, length + taps - 1)) + bias[:, None]
    for i in range(inputs):
        group = i // (inputs // groups)
        for j in range(here):
            for k in range(taps):
                z[:, group * here + j, k : k + length] += x[:, i] * weight[i, j, k]
    return z


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 6, 2), (6, 3, 3), (4, 4, 4)])
def test_grouped_transposed_convolution(inputs, outputs, groups):
    generator = np.random.default_rng(1)
    mean, var, gamma, beta = channels(2, outputs)
    x = generator.normal(size=(2, inputs, 7))
    weight = generator.normal(size=(inputs, outputs // groups, 3))
    bias = generator.normal(size=outputs)
    z = transposed_convolution(x, weight, bias, groups)
    expected = bnfast.batch_norm_inference(z, mean, var, gamma, beta)
    weight2, bias2 = fold_batch_norm(weight, bias, mean, var, gamma, beta, axis=1, groups=groups)
    folded = transposed_convolution(x, weight2, bias2, groups)
    np.testing.assert_allclose(folded, expected, rtol=1e-12, atol=1e-12)


def test_depthwise_convolution_in_the_layout_of_keras():
    """weight (height, width, C_in, multiplier); output channel c * multiplier + m."""
    generator = np.random.default_rng(1)
    mean, var, gamma, beta = channels(2, 6)
    weight = generator.normal(size=(2, 2, 3, 2))
    x = generator.normal(size=(5, 2, 2, 3))  # as large as the kernel: one position
    z = np.einsum("nhwc,hwcm->ncm", x, weight).reshape(5, 6)
    expected = bnfast.batch_norm_inference(z, mean, var, gamma, beta)
    weight2, bias2 = fold_batch_norm(weight, None, mean, var, gamma, beta, axis=-1, groups=3)
    folded = np.einsum("nhwc,hwcm->ncm", x, weight2).reshape(5, 6) + bias2
    np.testing.assert_allclose(folded, expected, rtol=1e-12, atol=1e-12)


def test_groups_do_not_matter_where_all_channels_stand_on_the_axis():
    weight = np.random.default_rng(1).normal(size=(6, 2, 3))
    arguments = channels(2, 6)
    plain, grouped = (fold_batch_norm(weight, None, *arguments, groups=groups) for groups in (1, 3))
    assert plain[0].tobytes() == grouped[0].tobytes()


@pytest.mark.parametrize("value", [5e-324, 1e-200, 1e200, np.inf, np.nan])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_floating_point_state_stops_a_fold(dtype, value):
    with np.errstate(all="ignore"):
        weight = np.full((2, 3), value).astype(dtype)
    arguments = [weight, weight[:, 0], np.full(2, value), np.full(2, value), np.full(2, value)]
    with np.errstate(all="ignore"):
        expected = fold_batch_norm(*arguments)
    with np.errstate(all="raise"):
        got = fold_batch_norm(*arguments)
    for a, b in zip(got, expected, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_weights_and_rounding_happens_once(dtype):
    mean, var, gamma, beta = channels(3)
    weight = np.random.default_rng(4).normal(size=(5, 3, 2)).astype(dtype)
    bias = mean.astype(dtype)
    before = weight.copy()
    weight2, bias2 = fold_batch_norm(weight, bias, mean, var, gamma, beta)
    scale = gamma / np.sqrt(var + 1e-5)
    assert weight2.dtype == bias2.dtype == dtype
    assert weight2.shape == weight.shape
    exact = weight.astype(np.float64) * scale[:, None, None]
    np.testing.assert_array_equal(weight2, exact.astype(dtype))
    exact = (bias.astype(np.float64) - mean) * scale + beta
    np.testing.assert_array_equal(bias2, exact.astype(dtype))
    np.testing.assert_array_equal(weight, before)


@pytest.mark.filterwarnings("error")
def test_no_variance_and_no_eps_gives_beta():
    weight2, bias2 = fold_batch_norm(
        np.ones((2, 3)), [5.0, 5.0], [1.0, 1.0], [0.0, 4.0], beta=[7.0, 7.0], eps=0
    )
    np.testing.assert_array_equal(weight2, [[0, 0, 0], [0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(bias2, [7, 9])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": np.ones((2, 3), int)}, TypeError, "weight has dtype int64, expected float16"),
        ({"weight": np.ones((2, 3), ">f4")}, TypeError, "weight has dtype >f4, expected float16"),
        ({"bias": np.ones(2, complex)}, TypeError, "bias has dtype complex128, expected float16"),
        ({"bias": np.ones(3)}, ValueError, r"bias has shape \(3,\), expected \(2,\)"),
        ({"mean": np.ones(3)}, ValueError, r"mean has shape \(3,\), expected \(2,\)"),
        ({"var": -np.ones(2)}, ValueError, "var has -1, expected no negative entry"),
        ({"var": None}, TypeError, "var is of type NoneType, expected an array"),
        ({"gamma": np.ones(2, np.float16)}, TypeError, "gamma has dtype float16, expected float32"),
        ({"beta": np.ones((2, 1))}, ValueError, r"beta has shape \(2, 1\), expected \(2,\)"),
        ({"eps": -1}, ValueError, "eps is -1, expected a number >= 0 and finite"),
        ({"eps": "0"}, TypeError, "eps is of type str, expected a number"),
        ({"axis": 2}, ValueError, r"axis is 2, expected one in \[-2, 2\) for weight with shape"),
        ({"axis": 0.0}, TypeError, "axis is of type float, expected an integer"),
        (
            {"weight": np.ones((4, 1)), "axis": 1, "groups": 3},
            ValueError,
            r"mean has shape \(2,\), expected \(1,\) or \(3,\) to match axis 1 of weight",
        ),
        ({"groups": 3}, ValueError, "groups is 3, expected a divisor of the number of channels, 2"),
        (
            {"weight": np.ones((1, 3)), "groups": 2},
            ValueError,
            "groups is 2, expected a divisor of the length of an axis before axis 0 of weight",
        ),
        (
            {"weight": np.ones((3, 1)), "axis": 1, "groups": 2},
            ValueError,
            "groups is 2, expected a divisor of the length of an axis before axis 1 of weight",
        ),
        ({"groups": 0}, ValueError, "groups is 0, expected at least 1"),
        ({"groups": 2.0}, TypeError, "groups is of type float, expected an integer"),
        ({"eps_placement": "mean"}, ValueError, "eps_placement is 'mean', expected one of 'var'"),
    ],
)
def test_errors(change, error, message):
    good = {"weight": np.ones((2, 3)), "bias": None, "mean": np.ones(2), "var": np.ones(2)}
    with pytest.raises(error, match=f"^fold_batch_norm: {message}"):
        fold_batch_norm(**{**good, **change})
