"""The state of layers is saved, loaded and copied whole, and goes to PyTorch and back."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

import bnfast
from layers.cases import LAYERS, NORMS, assert_same_state, data, make


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["ema", "cumulative", "population"])
def test_training_resumes_bit_for_bit(mode, dtype):
    arguments = {"running_mode": mode, "dtype": dtype}
    through, saved = make(**arguments), make(**arguments)
    for seed in range(6):
        x = data(seed, np.float32)
        if seed == 1:
            x[0, 0, 0, 0] = np.nan  # a channel that misses a batch
        through(x)
        if seed < 3:
            saved(x)
    loaded = make(seed=9, **arguments)
    loaded.load_state_dict(saved.state_dict())
    for resumed in (loaded, copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        for seed in range(3, 6):
            resumed(data(seed, np.float32))
        assert_same_state(resumed.state_dict(), through.state_dict())


def test_state_keys():
    keys = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    state = make().state_dict()
    assert list(state) == keys
    assert state["num_batches_tracked"].dtype == np.int64
    assert state["num_batches_tracked"].shape == ()
    assert list(make(affine=False).state_dict()) == keys[2:]
    assert list(make(track_running_stats=False).state_dict()) == keys[:2]
    extra = {"running_count", "running_m2", "running_mean_low"}
    assert set(make(running_mode="population").state_dict()) == {*keys, *extra}
    for name in NORMS:
        layer = make(name)
        held = {"weight": layer.gamma}
        if name != "RMSNorm":
            held["bias"] = layer.beta
        assert_same_state(layer.state_dict(), held)
        assert make(name, affine=False).state_dict() == {}


def arrays_of(layer):
    arrays = [array for array in (layer.gamma, layer.beta) if array is not None]
    running = getattr(layer, "running", None)
    return arrays if running is None else [*arrays, running.mean, running.var]


@pytest.mark.parametrize("name", LAYERS)
def test_state_is_copied_and_arrays_keep_their_identity(name):
    layer = make(name)
    layer(data())
    arrays = arrays_of(layer)
    state = layer.state_dict()
    for array in arrays:
        array += 1
    layer.load_state_dict(state)
    assert all(array is now for array, now in zip(arrays, arrays_of(layer), strict=True))
    assert_same_state(layer.state_dict(), state)
    state["weight"][:] = 99
    assert np.all(layer.gamma != 99)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("weight", np.zeros(2), ValueError, r"weight has shape \(2,\), expected \(3,\)"),
        ("bias", np.zeros(3, int), TypeError, "bias has dtype int64, expected float32 or float64"),
        ("running_var", np.zeros((3, 1)), ValueError, r"var has shape \(3, 1\), expected \(3,\)"),
        ("num_batches_tracked", -1, ValueError, "num_batches_tracked is -1, expected at least 0"),
        (
            "running_m2",
            np.zeros(3),
            ValueError,
            r"state has the unknown keys \['running_m2'\], expected those",
        ),
        (
            "running_mean",
            None,
            ValueError,
            r"state lacks the keys \['running_mean'\], expected those",
        ),
    ],
)
def test_a_bad_state_changes_nothing(key, value, error, message):
    bn = make()
    bn(data())
    before = bn.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    state[key] = value
    if value is None:
        del state[key]
    with pytest.raises(error, match=message):
        bn.load_state_dict(state)
    assert_same_state(bn.state_dict(), before)


@pytest.mark.parametrize(
    ("layer", "key", "value", "error", "message"),
    [
        (make("LayerNorm"), "weight", np.ones(5), ValueError, r"weight has shape \(5,\), expected"),
        (make("LayerNorm"), "bias", np.ones(4), ValueError, r".* \(4,\), expected \(4, 5\)"),
        (make("LayerNorm"), "weight", None, ValueError, r"state lacks the keys \['weight'\]"),
        (make("LayerNorm", bias=False), "bias", np.ones((4, 5)), ValueError, ".*unknown keys"),
        (make("RMSNorm"), "bias", np.ones(5), ValueError, r".*has the unknown keys \['bias'\]"),
        (make("RMSNorm"), "weight", np.ones(5, int), TypeError, "weight has dtype int64, expected"),
        (make("GroupNorm"), "bias", np.ones(3), ValueError, r".*\(3,\), expected \(4,\)"),
        (make("InstanceNorm"), "running_mean", np.ones(3), ValueError, ".*unknown keys"),
        (bnfast.InstanceNorm(3), "weight", np.ones(3), ValueError, ".*unknown keys"),
    ],
)
def test_a_bad_state_of_the_other_norms_changes_nothing(layer, key, value, error, message):
    before = layer.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    state[key] = value
    if value is None:
        del state[key]
    with pytest.raises(error, match=rf"^{type(layer).__name__}\.load_state_dict: {message}"):
        layer.load_state_dict(state)
    assert_same_state(layer.state_dict(), before)


@pytest.mark.parametrize("momentum", [0.1, 0.4, None])
@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_torch_both_ways(kind, momentum):
    torch = pytest.importorskip("torch")
    shape = {"BatchNorm1d": (8, 3), "BatchNorm2d": (4, 3, 5, 2), "BatchNorm3d": (2, 3, 2, 3, 4)}
    theirs = getattr(torch.nn, kind)(3, momentum=momentum)
    ours = bnfast.BatchNorm.from_preset("torch", 3, momentum=momentum)
    generator = np.random.default_rng(0)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(generator.uniform(0.5, 2, 3)))
        theirs.bias.copy_(torch.from_numpy(generator.normal(size=3)))

    def batch():
        return generator.normal(1, 2, shape[kind]).astype(np.float32)

    def both(x):
        tensor = torch.from_numpy(x.copy()).requires_grad_()
        theirs.zero_grad()
        y = theirs(tensor)
        dy = batch()
        y.backward(torch.from_numpy(dy))
        np.testing.assert_allclose(ours(x), y.detach().numpy(), rtol=1e-4, atol=1e-5)
        grads = ours.backward(dy)
        np.testing.assert_allclose(grads.dx, tensor.grad.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.dgamma, theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours.dbeta, theirs.bias.grad.numpy(), rtol=1e-4, atol=1e-4)

    def same_state():
        state = theirs.state_dict()
        assert state.keys() == ours.state_dict().keys()
        for key, array in ours.state_dict().items():
            np.testing.assert_allclose(array, state[key].numpy(), rtol=1e-5, atol=1e-6)

    theirs(torch.from_numpy(batch()))
    ours.load_state_dict(theirs.state_dict())  # theirs to ours
    same_state()
    for _ in range(3):
        both(batch())
        same_state()
    state = {key: torch.from_numpy(array) for key, array in ours.state_dict().items()}
    theirs.load_state_dict(state)  # ours to theirs, every key known there
    assert theirs.num_batches_tracked.item() == 4
    both(batch())
    same_state()
    theirs.eval()
    ours.eval()
    both(batch())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_values_of_any_float_type_are_loaded(dtype, name):
    saved, loaded = make(name), make(name, seed=9, dtype=np.float32)
    saved(data())
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    state = saved.state_dict()
    rounded = {key: value.astype(kind) for key, value in state.items() if value.ndim}
    loaded.load_state_dict({**state, **rounded})
    for key, value in rounded.items():
        np.testing.assert_array_equal(loaded.state_dict()[key], value.astype(np.float32))


@pytest.mark.parametrize("kind", ["half", "bfloat16", "float", "double"])
def test_tensors_of_any_kind_are_loaded(kind):
    """Those with gradients included, which NumPy does not read, nor does it bfloat16."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.BatchNorm1d(3), kind)()
    theirs(torch.randn(8, 3, dtype=theirs.weight.dtype))
    state = theirs.state_dict()
    state["weight"] = torch.nn.Parameter(torch.full_like(state["weight"], 1.5))
    bn = bnfast.BatchNorm(3, dtype=np.float64)
    bn.load_state_dict(state)
    np.testing.assert_array_equal(bn.gamma, 1.5)
    np.testing.assert_array_equal(bn.running.var, state["running_var"].double().numpy())
    assert bn.running.num_batches_tracked == 1
    bn.running.load_state_dict({"mean": state["running_mean"], "var": state["running_var"]})


def test_a_checkpoint_without_bias_or_count():
    """PyTorch's bias=False, and its versions before num_batches_tracked."""
    bn = make()
    bn(data())
    state = bn.state_dict()
    bn.load_state_dict({key: state[key] for key in ("weight", "running_mean", "running_var")})
    np.testing.assert_array_equal(bn.beta, 0)
    np.testing.assert_array_equal(bn.gamma, state["weight"])
    assert bn.running.num_batches_tracked == 0
    with pytest.raises(ValueError, match=r"state lacks the keys \['weight'\], expected"):
        bn.load_state_dict({key: state[key] for key in ("bias", "running_mean", "running_var")})


@pytest.mark.parametrize("name", ["LayerNorm", "GroupNorm", "InstanceNorm"])
def test_a_checkpoint_of_another_norm_without_bias(name):
    layer, other = make(name), make(name, seed=9, bias=False)
    layer.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(layer.gamma, other.gamma)
    np.testing.assert_array_equal(layer.beta, 0)


def test_keys_that_are_missing_and_unknown_are_told_apart():
    message = (
        r"^BatchNorm\.load_state_dict: state lacks the keys \['running_mean', 'running_var'\] "
        r"and has the unknown keys \['moving_mean', 3\], expected those that state_dict returns$"
    )
    with pytest.raises(ValueError, match=message):
        make().load_state_dict({"weight": np.ones(3), "moving_mean": np.ones(3), 3: None})
    for state in (None, [("weight", 1)], "weight"):
        with pytest.raises(TypeError, match=r"state is of type \w+, expected a mapping$"):
            make().load_state_dict(state)


@pytest.mark.parametrize("mode", ["ema", "cumulative", "population"])
def test_a_state_is_checked_under_its_own_names(mode):
    bn = make(running_mode=mode)
    state = bn.state_dict()
    name = r"^BatchNorm\.load_state_dict: running_"
    for key in [key for key in state if key.startswith("running_")]:
        with pytest.raises(ValueError, match=rf"{name}\w+ has shape \(4,\), expected \(3,\)"):
            bn.load_state_dict({**state, key: np.ones(4, state[key].dtype)})
    for values in (np.array([1, -1, 2.0]), np.array([np.nan, 0, -1.0])):
        with pytest.raises(ValueError, match=name + "var has -1, expected no negative entry"):
            bn.load_state_dict({**state, "running_var": values})
    masked = np.ma.array(np.ones(3), mask=[0, 1, 0])
    for key in ("running_var", "weight"):
        with pytest.raises(TypeError, match=rf"{key} is a masked array, expected its \.data"):
            bn.load_state_dict({**state, key: masked})
    assert_same_state(bn.state_dict(), state)


class Named(bnfast.BatchNorm):
    """What a user may derive: another constructor, attributes of its own."""

    def __init__(self, note):
        super().__init__(3, running_mode="population", dropout=0.5, rng=4)
        self.running = NamedStats(note)
        self.note = note


class NamedStats(bnfast.RunningStats):
    __slots__ = ("kept",)

    def __init__(self, kept):
        super().__init__(3)
        self.kept = kept


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_derived_layers_are_copied_whole(protocol):
    bn = Named("first")
    bn(data())
    bn.axis = -1
    made = pickle.loads(pickle.dumps(bn, protocol))
    for copied in (made, copy.deepcopy(bn)):
        assert type(copied) is Named and copied.note == "first" and repr(copied) == repr(bn)
        assert type(copied.running) is NamedStats and copied.running.kept == "first"
        assert_same_state(copied.state_dict(), bn.state_dict())
        x = np.moveaxis(data(3), 1, -1)
        assert copied(x).tobytes() == copy.deepcopy(bn)(x).tobytes()  # the same mask, too
        assert copied.running.mean.tobytes() == copied.state_dict()["running_mean"].tobytes()
        assert np.all(copied.running.mean != bn.running.mean)


class NamedNorm(bnfast.GroupNorm):
    def __init__(self, note):
        super().__init__(2, 4, axis=2, activation="relu", dropout=0.5, rng=4)
        self.note = note


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_derived_norms_are_copied_whole(protocol):
    norm = NamedNorm("first")
    norm.gamma = np.arange(4.0)
    norm(data())
    for copied in (pickle.loads(pickle.dumps(norm, protocol)), copy.deepcopy(norm)):
        assert type(copied) is NamedNorm and copied.note == "first" and repr(copied) == repr(norm)
        assert_same_state(copied.state_dict(), norm.state_dict())
        assert copied(data(3)).tobytes() == copy.deepcopy(norm)(data(3)).tobytes()
        assert copied.gamma is not norm.gamma


@pytest.mark.parametrize("name", LAYERS)
def test_copies_keep_who_shares_a_parameter(name):
    """An optimiser that is copied with its layer still changes the layer's array."""
    one = make(name)
    pair = one, one.gamma
    for layer, gamma in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert layer.gamma is gamma and gamma is not one.gamma


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("value", [1e-310, 1e-60, 1e300, np.inf, np.nan])
def test_no_floating_point_state_stops_a_load_or_a_copy(value, name):
    state = make(name, dtype=np.float64).state_dict()
    changed = [key for key in ("weight", "running_mean") if key in state]
    state.update({key: np.full_like(state[key], value) for key in changed})
    with np.errstate(all="raise"):
        layer = LAYERS[name]()
        layer.load_state_dict(state)
        layer.gamma = state["weight"]
        copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    for made in (layer, *copies):
        for key in changed:
            with np.errstate(all="ignore"):
                expected = state[key].astype(np.float32)
            np.testing.assert_array_equal(made.state_dict()[key], expected)
