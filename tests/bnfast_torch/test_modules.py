"""Modules of bnfast.torch have the arguments, state and results of torch's, and what is fused."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
from torch import nn

from bnfast_torch.cases import door, torch

MODULES = {
    "BatchNorm1d": ((6,), (4, 6)),
    "BatchNorm2d": ((6,), (4, 6, 5, 3)),
    "BatchNorm3d": ((6,), (4, 6, 5, 3, 2)),
    "InstanceNorm1d": ((6,), (4, 6, 5)),
    "InstanceNorm2d": ((6,), (4, 6, 5, 3)),
    "InstanceNorm3d": ((6,), (4, 6, 5, 3, 2)),
    "GroupNorm": ((2, 6), (4, 6, 5, 3)),
    "LayerNorm": (((5, 3),), (4, 6, 5, 3)),
    "RMSNorm": ((3,), (4, 6, 5, 3)),
}
DROPOUTS = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"]
each_module = pytest.mark.parametrize("name", MODULES)


def pair(name, **options):
    """Return our module and torch's with the same random state, and an x."""
    args, shape = MODULES[name]
    ours = getattr(door, name)(*args, **options)
    theirs = getattr(nn, name)(*args, **options)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(shape)


def assert_alike(ours, theirs, x, train=True):
    for module in (ours, theirs):
        module.train(train)
    results = []
    for module in (ours, theirs):
        given = x.clone().requires_grad_()
        y = module(given)
        (dx,) = torch.autograd.grad(y.square().sum(), given)
        results.append((y, dx))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@each_module
@pytest.mark.parametrize("options", [{}, {"eps": 0.1}])
def test_results_and_state_are_those_of_torch(name, options):
    ours, theirs, x = pair(name, **options)
    assert isinstance(ours, getattr(nn, name))
    for _ in range(2):
        assert_alike(ours, theirs, x)
    assert_alike(ours, theirs, x, train=False)


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith(("Batch", "Instance"))])
@pytest.mark.parametrize(
    "options",
    [
        {"affine": False, "track_running_stats": False},
        {"affine": True, "bias": False, "momentum": 0.3, "track_running_stats": True},
    ],
)
def test_tracking(name, options):
    ours, theirs, x = pair(name, **options)
    for train in (True, True, False):
        assert_alike(ours, theirs, x, train)


def test_momentum_none_is_the_average_of_all_batches():
    ours, theirs, x = pair("BatchNorm1d", momentum=None)
    for k in range(3):
        assert_alike(ours, theirs, x + k)
    assert int(ours.num_batches_tracked) == 6 // 2


@pytest.mark.parametrize("name", ["InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"])
def test_a_sample_without_a_batch(name):
    ours, theirs, x = pair(name)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))
    torch.testing.assert_close(ours(x[0], x[0]), theirs(x[0]) + x[0])
    fused = getattr(door, name)(*MODULES[name][0], activation="relu")
    torch.testing.assert_close(fused(x[0]), theirs(x[0]).relu())
    converted = door.convert(nn.Sequential(theirs, nn.ReLU()))
    torch.testing.assert_close(converted(x[0]), theirs(x[0]).relu())


@each_module
def test_what_is_fused(name):
    args, shape = MODULES[name]
    module = getattr(door, name)(*args, activation="leaky_relu", activation_slope=0.2, dropout=0.5)
    plain = getattr(nn, name)(*args)
    x, residual = torch.randn(shape), torch.randn(shape)
    first = name in ("LayerNorm", "RMSNorm")
    module.eval()
    plain.eval()
    want = plain(x + residual) if first else plain(x) + residual
    got = module(x, residual)
    torch.testing.assert_close(got, nn.functional.leaky_relu(want, 0.2), rtol=1e-4, atol=1e-5)
    module.train()
    torch.manual_seed(0)
    one = module(x)
    torch.manual_seed(0)
    assert torch.equal(one, module(x))
    assert not torch.equal(one, module(x))
    for part in ("activation='leaky_relu'", "activation_slope=0.2", "dropout=0.5"):
        assert part in repr(module)
    if first:
        y, h = module.eval()(x, residual, return_h=True)
        assert torch.equal(y, got)
        assert torch.equal(h, x + residual)


@each_module
def test_what_is_fused_is_checked_when_a_module_is_made(name):
    make, args = getattr(door, name), MODULES[name][0]
    for activation in ("swish", nn.ReLU(), torch.relu):
        with pytest.raises(ValueError, match=rf"^{name}: activation is .*, expected one of None"):
            make(*args, activation=activation)
    with pytest.raises(ValueError, match=rf"^{name}: dropout is 1.5, expected a number in"):
        make(*args, dropout=1.5)
    with pytest.raises(TypeError, match=rf"^{name}: dropout is of type Dropout, expected"):
        make(*args, dropout=nn.Dropout(0.5))


@each_module
def test_copies_and_pickles(name):
    args, shape = MODULES[name]
    module = getattr(door, name)(*args, activation="tanh")
    x = torch.randn(shape)
    want = module(x)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), want)


@pytest.mark.parametrize("name", [*MODULES, *DROPOUTS])
def test_torchs_arguments_are_taken(name):
    ours, theirs = getattr(door, name), getattr(nn, name)
    args = MODULES.get(name, ((0.3,), None))[0]
    names = set(inspect.signature(theirs).parameters) & {"device", "dtype"}
    module = ours(*args, **dict.fromkeys(names))
    assert repr(module) == repr(theirs(*args))
    with pytest.raises(TypeError):
        ours(*args, nonsense=1)


@pytest.mark.parametrize("name", [*MODULES, *DROPOUTS])
def test_a_call_names_x_as_torch_does(name):
    ours, theirs = (inspect.signature(getattr(of, name).forward) for of in (door, nn))
    assert list(ours.parameters)[:2] == list(theirs.parameters)


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout(name):
    module = getattr(door, name)(0.4)
    assert isinstance(module, getattr(nn, name))
    x = torch.ones(
        4, 6, *[3] * {"Dropout": 1, "Dropout1d": 1, "Dropout2d": 2, "Dropout3d": 3}[name]
    )
    torch.manual_seed(0)
    got = module(x)
    torch.manual_seed(0)
    function = getattr(door, name.lower())
    assert torch.equal(got, function(x, 0.4))
    assert 0 < float((got == 0).double().mean()) < 1
    assert module.eval()(x) is x


def test_16_bit_modules():
    for dtype in (torch.float16, torch.bfloat16):
        for name in MODULES:
            ours, theirs, x = pair(name)
            x = x.to(dtype)
            got, want = ours.to(dtype)(x), theirs.to(dtype)(x)
            assert got.dtype == dtype
            tolerance = 8 * torch.finfo(dtype).eps
            torch.testing.assert_close(got, want, rtol=tolerance, atol=4 * tolerance)
