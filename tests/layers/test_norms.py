"""Layer, RMS, group and instance norm as layers: the textbook, their functions, and PyTorch."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
from cases import assert_same_bits

import bnfast
from layers.cases import LAYERS, NORMS, TRANSFORMER, assert_same_state, data, make

CHANNELED = [name for name in NORMS if name not in TRANSFORMER]


def textbook(layer, x, residual=0.0):
    """What the layers of `cases.LAYERS` compute with the activation "tanh", without dropout."""
    gamma = 1.0 if layer.gamma is None else layer.gamma
    beta = 0.0 if layer.beta is None else layer.beta
    name = type(layer).__name__
    if name == "RMSNorm":
        h = x + residual
        return np.tanh(gamma * h / np.sqrt((h * h).mean(-1, keepdims=True) + layer.eps))
    if name == "LayerNorm":
        h, added, axes = x + residual, 0.0, (-2, -1)
    else:
        h, added, axes = x, residual, (2, 3)
        if name == "GroupNorm":  # two channels a group, on axis 2
            h, axes = x.reshape(6, 3, 2, 2, 5), (1, 3, 4)
        columns = (-1, 1) if name == "GroupNorm" else (-1, 1, 1)
        gamma, beta = (np.reshape(a, columns) if np.ndim(a) else a for a in (gamma, beta))
    scaled = (h - h.mean(axes, keepdims=True)) / np.sqrt(h.var(axes, keepdims=True) + layer.eps)
    return np.tanh(gamma * scaled.reshape(x.shape) + beta + added)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_both_modes_are_the_textbook(name, training, affine):
    layer = make(name, activation="tanh", affine=affine, eps=0.25).train(training)
    x, residual = data(), data(2)
    state = layer.state_dict()
    np.testing.assert_allclose(layer(x), textbook(layer, x), rtol=1e-12, atol=1e-12)
    expected = textbook(layer, x, residual)
    np.testing.assert_allclose(layer(x, residual), expected, rtol=1e-12, atol=1e-12)
    assert_same_state(layer.state_dict(), state)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_gradients_are_differences(name, training):
    layer = make(name, activation="tanh", dropout=0.3, rng=1).train(training)
    x, residual, dy, dh = (data(seed) / 3 for seed in (1, 2, 3, 4))
    if name not in TRANSFORMER:
        dh = None
    fresh = copy.deepcopy(layer)  # whose next mask is that of the first forward

    def loss(x, residual):
        one = copy.deepcopy(fresh)
        y = one(x, residual)
        return np.sum(y * dy) + (0 if dh is None else np.sum(one.h * dh))

    layer(x, residual)
    grads = layer.backward(dy, dh=dh)
    assert layer.dgamma is grads.dgamma and layer.dbeta is grads.dbeta
    step = 1e-6
    direction = data(5) / 3
    slope = (loss(x + step * direction, residual) - loss(x - step * direction, residual)) / 2e-6
    np.testing.assert_allclose(np.sum(grads.dx * direction), slope, rtol=1e-5)
    slope = (loss(x, residual + step * direction) - loss(x, residual - step * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(grads.dresidual * direction), slope, rtol=1e-5)
    for array, gradient in ((fresh.gamma, grads.dgamma), (fresh.beta, grads.dbeta)):
        assert (array is None) == (gradient is None)
        if array is not None:
            kept = array.copy()
            direction = np.random.default_rng(6).normal(size=array.shape)
            array[...] = kept + step * direction
            slope = loss(x, residual)
            array[...] = kept - step * direction
            slope = (slope - loss(x, residual)) / 2e-6
            array[...] = kept
            np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-5)


FUNCTIONS = {
    "LayerNorm": lambda n, x, **o: bnfast.layer_norm(x, n.gamma, n.beta, axis=(-2, -1), **o),
    "RMSNorm": lambda n, x, **o: bnfast.rms_norm(x, n.gamma, **o),
    "GroupNorm": lambda n, x, **o: bnfast.group_norm(x, 2, n.gamma, n.beta, axis=2, **o),
    "InstanceNorm": lambda n, x, **o: bnfast.instance_norm(x, n.gamma, n.beta, **o),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_layer_is_its_function(name):
    layer = make(name, eps=0.5, activation="relu", dropout=0.4, rng=3)
    generator = np.random.default_rng(3)
    x, residual, dy = data(), data(2), data(3)
    for training in (True, True, False, True):  # evaluation draws nothing
        y = layer.train(training)(x, residual)
        options = {"dropout": 0.4, "seed": generator} if training else {}
        options |= {"residual": residual, "eps": 0.5, "activation": "relu"}
        want, ctx = FUNCTIONS[name](layer, x, **options)
        assert y.tobytes() == want.tobytes()
        for _ in range(2):  # backward may be repeated
            assert_same_bits(layer.backward(dy), bnfast.norm_backward(dy, ctx))


@pytest.mark.parametrize("name", NORMS)
def test_dtypes(name):
    for dtype in (np.float32, np.float64):
        layer = make(name, dtype=dtype)
        assert layer.dtype == layer.gamma.dtype == dtype
        for kind in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
            y = layer(data(dtype=kind))
            assert y.dtype == layer.backward(y).dx.dtype == kind
        assert layer.gamma.dtype == dtype


@pytest.mark.parametrize("scale", [5e-324, 1e-160, 1e-25, 1e30, 1e200, np.inf])
@pytest.mark.parametrize("name", NORMS)
def test_no_floating_point_state_stops_a_layer(name, scale):
    results = []
    with np.errstate(all="ignore"):
        x = data() * scale
    for state in ("ignore", "raise"):
        with np.errstate(all=state):
            layer = make(name, dtype=np.float32)
            y = layer(x)
            results.append((y.tobytes(), layer.backward(y).dx.tobytes(), layer.dgamma.tobytes()))
    assert results[0] == results[1]


# --- the residual stream --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMER)
def test_h_is_what_was_normalised(name):
    x, residual = data(), data(2)
    layer = make(name, rng=5)
    assert layer.h is None
    layer(x)
    assert layer.h is x
    layer(x, residual)
    np.testing.assert_array_equal(layer.h, x + residual)
    layer.dropout = 0.5
    y = layer(x, residual)
    dropped = bnfast.dropout(x, 0.5, seed=np.random.default_rng(5))[0]
    np.testing.assert_array_equal(layer.h, dropped + residual)
    plain = make(name)
    assert y.tobytes() == plain(layer.h).tobytes()
    assert copy.copy(layer).h is None
    with pytest.raises(ValueError, match="expected"):
        layer(x[..., :2])
    assert layer.h is None
    with pytest.raises(AttributeError, match="h"):
        layer.h = x


@pytest.mark.parametrize("name", TRANSFORMER)
def test_a_stream_through_two_blocks(name):
    """dh of the first norm is what the second one's stream brings back."""
    first, second = make(name), make(name, seed=1)
    x, dy, dh = data(), data(2), data(3)
    branch = np.tanh(first(x))
    second(branch, residual=first.h)
    later = second.backward(dy, dh=dh)
    grads = first.backward(later.dx * (1 - branch**2), dh=later.dresidual)

    def loss(x):
        branch = np.tanh(copy.copy(first)(x))
        two = copy.copy(second)
        return np.sum(two(branch, residual=x) * dy) + np.sum(two.h * dh)

    direction = data(4)
    slope = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(grads.dx * direction), slope, rtol=1e-5)


@pytest.mark.parametrize("name", CHANNELED)
def test_norms_behind_convolutions_have_no_stream(name):
    layer = make(name)
    layer(data(), data(2))
    assert not hasattr(layer, "h")
    with pytest.raises(ValueError, match=r"^norm_backward: dh is given, expected none"):
        layer.backward(data(3), dh=data(4))
    assert layer.dgamma is None


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANNELED)
def test_channels_last(name):
    first = make(name, axis=2 if name == "GroupNorm" else 1)
    x = data()
    last = np.moveaxis(x, first.axis, -1).copy()
    for axis in (-1, 3):
        layer = make(name, axis=axis)
        y, dx = layer(last), layer.backward(last).dx
        expected, wanted = first(x), first.backward(x).dx
        np.testing.assert_allclose(np.moveaxis(y, -1, first.axis), expected, atol=1e-12)
        np.testing.assert_allclose(np.moveaxis(dx, -1, first.axis), wanted, atol=1e-12)


@pytest.mark.parametrize("name", TRANSFORMER)
def test_the_normalised_shape(name):
    kind = getattr(bnfast, name)
    for given in (5, np.int64(5), (5,), [5]):
        layer = kind(given)
        assert layer.normalized_shape == layer.gamma.shape == (5,)
        assert type(layer.normalized_shape[0]) is int
    x = data()
    np.testing.assert_array_equal(kind((3, 4, 5))(x)[0], kind((1, 3, 4, 5))(x[:1])[0])
    assert not np.allclose(kind((4, 5))(x), kind(5)(x))


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: bnfast.LayerNorm(0), ValueError, "LayerNorm: normalized_shape is 0, expected at"),
        (lambda: bnfast.LayerNorm((4, 0)), ValueError, "LayerNorm: normalized_shape is 0, expect"),
        (
            lambda: bnfast.LayerNorm(()),
            ValueError,
            r"LayerNorm: normalized_shape is \(\), expected",
        ),
        (lambda: bnfast.LayerNorm(4.0), TypeError, "LayerNorm: normalized_shape is of type float"),
        (lambda: bnfast.LayerNorm("4"), TypeError, "LayerNorm: normalized_shape is of type str"),
        (lambda: bnfast.LayerNorm(4, bias=None), TypeError, "LayerNorm: bias is of type NoneType"),
        (lambda: bnfast.LayerNorm(4, dtype="float16"), TypeError, "LayerNorm: dtype is 'float16'"),
        (lambda: bnfast.RMSNorm((4, True)), TypeError, "RMSNorm: normalized_shape is of type bool"),
        (lambda: bnfast.RMSNorm(4, bias=True), TypeError, ".*bias"),
        (lambda: bnfast.RMSNorm(4, eps=np.nan), ValueError, "RMSNorm: eps is nan, expected a num"),
        (lambda: bnfast.GroupNorm(0, 4), ValueError, "GroupNorm: num_groups is 0, expected at lea"),
        (lambda: bnfast.GroupNorm(2, 0), ValueError, "GroupNorm: num_channels is 0, expected at l"),
        (
            lambda: bnfast.GroupNorm(3, 4),
            ValueError,
            "GroupNorm: num_channels is 4, expected a multiple of num_groups, 3",
        ),
        (lambda: bnfast.InstanceNorm(0), ValueError, "InstanceNorm: num_features is 0, expected"),
        (lambda: bnfast.InstanceNorm(4, rng=-1), ValueError, "InstanceNorm: rng is -1, expected"),
    ],
)
def test_bad_arguments(make_it, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make_it()


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("LayerNorm", ([1.0],), TypeError, "LayerNorm: x is of type list, expected numpy.ndarray"),
        (
            "LayerNorm",
            (data()[..., :4],),
            ValueError,
            r"LayerNorm: x has .* expected \(\.\.\., 4, 5",
        ),
        (
            "LayerNorm",
            (np.ones(5),),
            ValueError,
            r"LayerNorm: x has shape \(5,\), expected \(\.\.\.",
        ),
        ("LayerNorm", (data(), data()[1:]), ValueError, "layer_norm: residual has shape"),
        ("LayerNorm", (data().astype(int),), TypeError, "layer_norm: x has dtype int64"),
        ("RMSNorm", (np.float64(1),), TypeError, "RMSNorm: x is of type float64, expected numpy"),
        (
            "RMSNorm",
            (np.ones(()),),
            ValueError,
            r"RMSNorm: x has shape \(\), expected \(\.\.\., 5\)",
        ),
        ("GroupNorm", (data()[:, :, 1:],), ValueError, "GroupNorm: x has .* 4 channels on axis 2"),
        ("GroupNorm", (np.ones(4),), ValueError, "GroupNorm: axis is 2, expected one in .-1, 1"),
        ("InstanceNorm", (data()[:, 1:],), ValueError, "InstanceNorm: x has .* 3 channels on axis"),
    ],
)
def test_bad_input_leaves_no_forward(name, arguments, error, message):
    layer = make(name)
    layer(data())
    before = layer.state_dict()
    with pytest.raises(error, match=f"^{message}"):
        layer(*arguments)
    assert_same_state(layer.state_dict(), before)
    with pytest.raises(RuntimeError, match=rf"^{name}\.backward: no forward was run, expected y ="):
        layer.backward(data())


@pytest.mark.parametrize("name", CHANNELED)
def test_the_axis_of_the_samples_is_not_that_of_the_channels(name):
    layer = LAYERS[name](axis=0)
    channels = layer.gamma.size
    with pytest.raises(ValueError, match="norm: axis is 0, expected"):
        layer(np.ones((channels, channels)))


def test_repr():
    for layer, shown in (
        (
            bnfast.LayerNorm(4, bias=False, dtype=np.float64),
            "LayerNorm((4,), bias=False, eps=1e-05",
        ),
        (
            bnfast.RMSNorm((4, 5)),
            "RMSNorm((4, 5), eps=1e-06, affine=True, activation=None, dropout",
        ),
        (bnfast.GroupNorm(2, 4, dropout=0.25), "GroupNorm(2, 4, axis=1, bias=True, eps=1e-05, aff"),
        (
            bnfast.InstanceNorm(3),
            "InstanceNorm(3, axis=1, bias=False, eps=1e-05, affine=False, act",
        ),
    ):
        assert repr(layer).startswith(shown)
        assert repr(layer).endswith(f"dropout={layer.dropout:g}, dtype={layer.dtype})")


# --- PyTorch --------------------------------------------------------------------------------------


def torch_pairs(torch):
    """Our layers and theirs of the same names, with the shape of their inputs."""
    for shape in ((7,), (3, 7)):
        for bias in (True, False):
            theirs = torch.nn.LayerNorm(shape, bias=bias)
            yield bnfast.LayerNorm(shape, bias=bias), theirs, (2, 4, *shape)
        yield bnfast.RMSNorm(shape, eps=1e-5), torch.nn.RMSNorm(shape, eps=1e-5), (2, 4, *shape)
    yield bnfast.LayerNorm(7, affine=False), torch.nn.LayerNorm(7, elementwise_affine=False), (5, 7)
    for groups in (1, 2, 6):
        theirs = torch.nn.GroupNorm(groups, 6)
        yield bnfast.GroupNorm(groups, 6), theirs, (3, 6, 5, 4)
    for affine in (True, False):
        for d, kind in enumerate(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), 1):
            theirs = getattr(torch.nn, kind)(6, affine=affine)
            yield bnfast.InstanceNorm(6, affine=affine), theirs, (3, 6, *[4] * d)


def test_torch_both_ways():
    torch = pytest.importorskip("torch", minversion="2.4")  # the first with RMSNorm
    generator = np.random.default_rng(0)

    def close(a, b):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-4)

    for ours, theirs, shape in torch_pairs(torch):
        state = theirs.state_dict()
        assert list(state) == list(ours.state_dict())
        for value in state.values():  # views of the module's own parameters
            value.copy_(torch.from_numpy(generator.normal(1, 0.5, value.shape)))
        ours.load_state_dict(state)  # theirs to ours
        for key, value in ours.state_dict().items():
            np.testing.assert_array_equal(value, state[key].numpy())
        for training in (True, False):
            ours.train(training)
            theirs.train(training)
            theirs.zero_grad()
            x, dy = generator.normal(1, 2, (2, *shape)).astype(np.float32)
            tensor = torch.from_numpy(x).requires_grad_()
            y = theirs(tensor)
            y.backward(torch.from_numpy(dy))
            close(ours(x), y)
            close(ours.backward(dy).dx, tensor.grad)
            for name, gradient in (("weight", ours.dgamma), ("bias", ours.dbeta)):
                parameter = getattr(theirs, name, None)
                assert (parameter is None) == (gradient is None)
                if parameter is not None:
                    close(gradient, parameter.grad)
        if ours.gamma is not None:
            ours.gamma += 1
        saved = ours.state_dict()
        theirs.load_state_dict({k: torch.from_numpy(a) for k, a in saved.items()})  # ours to theirs
        close(ours(x), theirs(tensor))


def test_a_state_of_torch_with_running_statistics_is_refused():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.InstanceNorm1d(3, affine=True, track_running_stats=True)
    with pytest.raises(ValueError, match=r"has the unknown keys \['running_mean', 'running_var'"):
        make("InstanceNorm").load_state_dict(theirs.state_dict())
