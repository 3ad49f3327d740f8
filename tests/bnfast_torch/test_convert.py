"""convert changes the classes of modules and nothing else, and convert_back undoes it."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")
door = pytest.importorskip("bnfast.torch")
nn = torch.nn


class Block(nn.Module):
    """A residual block, whose ReLU serves twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv(x)))
        return self.relu(self.bn2(self.conv(y)) + x)


class FusedBlock(Block):
    def forward(self, x):
        y = door.fused(self.bn1, self.conv(x), activation=self.relu)
        return door.fused(self.bn2, self.conv(y), x, activation=self.relu)


class OwnNorm(nn.LayerNorm):
    def forward(self, x):
        return 2 * super().forward(x)


def network():
    """One of everything that convert knows, in images of 8 x 8."""
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(4)
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), shared, nn.ReLU(), nn.Dropout(0.0)
        ),
        Block(),
        shared,
        nn.Sequential(nn.GroupNorm(2, 4), nn.GELU(), nn.InstanceNorm2d(4), nn.Dropout2d(0.0)),
        nn.Flatten(2),
        nn.Sequential(nn.LayerNorm(64), nn.SiLU(), nn.RMSNorm(64), nn.BatchNorm1d(4), nn.Tanh()),
        nn.TransformerEncoderLayer(64, 2, 8, 0.0),
        nn.Dropout1d(0.0),
    ).double()


def step(model):
    """Result, gradients and buffers after a step forward and backward."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    y = model(x)
    grads = torch.autograd.grad(y.pow(3).sum(), [x, *model.parameters()])
    return [y.detach(), *grads, *(b.clone() for b in model.buffers())]


def alike(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * max(1.0, float(b.abs().max())))


def types(model):
    return {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}


@pytest.mark.parametrize("fuse", [None, {Block: FusedBlock}], ids=["plain", "blocks"])
def test_a_converted_model_computes_what_it_did(fuse):
    model = network()
    converted = door.convert(model, fuse=fuse)
    assert door.left_alone(converted) == {}
    assert isinstance(converted[1], FusedBlock) == bool(fuse)
    alike(step(converted), step(model))
    alike(step(converted.eval()), step(model.eval()))


@pytest.mark.parametrize("fuse", [None, {Block: FusedBlock}], ids=["plain", "blocks"])
def test_back_is_what_it_was(fuse):
    model = network()
    before = types(model), copy.deepcopy(model.state_dict())
    converted = door.convert(model, fuse)
    restored = door.convert_back(converted)
    assert types(converted) != before[0] == types(model) == types(restored)
    for state in (model.state_dict(), converted.state_dict(), restored.state_dict()):
        assert list(state) == list(before[1])
        assert all(torch.equal(state[name], value) for name, value in before[1].items())
    for (name, a), b in zip(model.named_modules(), restored.modules(), strict=True):
        assert vars(a).keys() == vars(b).keys(), name
    assert types(door.convert(converted, fuse)) == types(converted)


def test_what_was_trained_goes_back():
    converted = door.convert(network())
    optimiser = torch.optim.SGD(converted.parameters(), 0.1)
    converted(torch.randn(4, 3, 8, 8).double()).square().mean().backward()
    optimiser.step()
    restored = door.convert_back(converted)
    for name, value in converted.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)
    alike(step(restored), step(converted))


def test_flags_types_hooks_and_sharing_stay():
    model = network()
    model[3].eval()
    model[0][1].weight.requires_grad_(False)
    model[5].float()
    seen = []
    model[3][1].register_forward_hook(lambda module, args, y: seen.append(y))
    converted = door.convert(model)
    flags = [m.training for m in model.modules()]
    assert [m.training for m in converted.modules()] == flags
    assert converted[0][1] is converted[2] is not model[2]
    assert not converted[2].weight.requires_grad
    assert converted[5][0].weight.dtype is torch.float32
    x = torch.randn(2, 4, 5, 5).double()
    converted[3](x)
    torch.testing.assert_close(seen[0], model[3][:2](x))


def test_copies_and_pickles_work():
    converted = door.convert(network(), {Block: FusedBlock})
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    for other in (
        copy.deepcopy(converted),
        pickle.loads(pickle.dumps(converted)),
        torch.load(file, weights_only=False),
    ):
        assert types(door.convert_back(other)) == types(network())
        alike(step(other), step(copy.deepcopy(converted)))


def test_fuse_takes_subclasses_only():
    with pytest.raises(TypeError, match=r"fuse has .*ReLU.*, expected a subclass of .*Block"):
        door.convert(network(), fuse={Block: nn.ReLU})


def test_what_is_left_alone_and_why():
    parametrized = nn.LayerNorm(3)
    nn.utils.parametrize.register_parametrization(parametrized, "weight", nn.Identity())
    model = nn.ModuleDict(
        {
            "own": OwnNorm(3),
            "parametrized": parametrized,
            "alpha": nn.AlphaDropout(0.1),
            "lstm": nn.LSTM(2, 2, 2, dropout=0.1),
            "sync": nn.SyncBatchNorm(3),
            "gru": nn.GRU(2, 2),
            "linear": nn.Linear(2, 2),
        }
    )
    converted = door.convert(model)
    assert types(converted) == types(model)
    reasons = door.left_alone(converted)
    assert reasons == {
        "own": "OwnNorm: a subclass, whose code may not be torch's",
        "parametrized": "ParametrizedLayerNorm: it is parametrized",
        "alpha": "AlphaDropout: bnfast has none of its kind",
        "lstm": "LSTM: its dropout is part of torch's own loop over time",
        "sync": "SyncBatchNorm: on the CPU, use bnfast.torch.SyncBatchNorm.convert_sync_batchnorm",
    }
    assert door.left_alone(nn.Sequential(nn.Dropout(), nn.LazyBatchNorm1d())) == {
        "0": "Dropout: not converted",
        "1": "LazyBatchNorm1d: run the model once and convert it then",
    }


def test_a_lazy_module_is_converted_once_it_has_run():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    model(torch.randn(4, 3))
    assert type(door.convert(model)[0]) is door.BatchNorm1d


def test_what_torch_cannot_do_does_not_go_back():
    with pytest.raises(ValueError, match=r"convert_back: 1 is BatchNorm1d.*'relu'"):
        door.convert_back(nn.Sequential(nn.ReLU(), door.BatchNorm1d(3, activation="relu")))
    assert type(door.convert_back(door.BatchNorm1d(3))) is nn.BatchNorm1d
