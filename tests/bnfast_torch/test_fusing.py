"""What stands around a norm becomes part of its call where that computes the same."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
door = pytest.importorskip("bnfast.torch")
nn, functional = torch.nn, torch.nn.functional

NORMS = {
    "batch": nn.BatchNorm1d(6),
    "group": nn.GroupNorm(2, 6),
    "instance": nn.InstanceNorm1d(6),
    "layer": nn.LayerNorm(5),
    "rms": nn.RMSNorm(5),
}
KNOWN = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(0.3),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "elu": nn.ELU(),
}
OTHERS = [nn.GELU(approximate="tanh"), nn.ELU(0.5), nn.ReLU6(), nn.Softplus()]


class Calls:
    """The functions of bnfast.torch that normalise, and what each call was given to fuse."""

    def __init__(self, monkeypatch):
        self.fused = []
        for name in ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"):
            self.watch(monkeypatch, name, getattr(door.functional, name))

    def watch(self, monkeypatch, name, function):
        def watched(*args, **options):
            self.fused.append((options["activation"], options["dropout"]))
            return function(*args, **options)

        monkeypatch.setattr(door.functional, name, watched)


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


@pytest.fixture
def x():
    return torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("activation", [*KNOWN.values(), *OTHERS], ids=repr)
def test_fused_is_what_the_modules_compute(name, activation, x, calls):
    norm, dropout, residual = NORMS[name], nn.Dropout(0.0), x.flip(0)
    given = {"activation": activation, "dropout": dropout}
    want = door.fused(norm, x, residual, **given)
    assert calls.fused == []
    got = door.fused(door.convert(norm), x, residual, **given)
    torch.testing.assert_close(got, want)
    in_front = name in ("layer", "rms")
    steps = norm(x + residual) if in_front else norm(x) + residual
    torch.testing.assert_close(want, activation(steps))
    known = [key for key, value in KNOWN.items() if value is activation]
    assert calls.fused == [(known[0] if known else None, 0.0)]


@pytest.mark.parametrize("name", NORMS)
def test_dropout_is_fused(name, x, calls):
    norm, dropout = door.convert(NORMS[name]), nn.Dropout(0.25)
    y = door.fused(norm, x, dropout=dropout, activation=nn.Sigmoid())
    assert calls.fused == [("sigmoid", 0.25)]
    if name not in ("layer", "rms"):
        assert 0 < (y == 0).sum() < y.numel()
    norm.eval(), dropout.eval()
    torch.testing.assert_close(door.fused(norm, x, dropout=dropout), norm(x))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_a_dropout_with_a_mode_of_its_own_is_called_by_itself(name, training, x, calls):
    """As where batch norm is frozen, and dropout is not; or the reverse."""
    norm, dropout = door.convert(NORMS[name]).train(not training), nn.Dropout(1.0).train(training)
    y = door.fused(norm, x, torch.ones_like(x), dropout=dropout)
    assert calls.fused == [(None, 0.0)]
    in_front = name in ("layer", "rms")
    want = NORMS[name].train(not training)
    if training:
        want = want(torch.ones_like(x)) if in_front else torch.zeros_like(x)
    else:
        want = want(x + 1) if in_front else want(x) + 1
    torch.testing.assert_close(y, want)
    NORMS[name].train()


@pytest.mark.parametrize("at", ["norm", "activation", "dropout"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_hooks_see_what_they_would(at, everywhere, x, calls):
    modules = {"norm": door.BatchNorm1d(6), "activation": nn.ReLU(), "dropout": nn.Dropout(0.5)}
    seen = []

    def hook(module, args, y):
        seen.append((module, y))

    if everywhere:
        handle = nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = modules[at].register_forward_hook(hook)
    y = door.fused(x=x, **modules)
    handle.remove()
    ((_, got),) = (pair for pair in seen if pair[0] is modules[at])
    z = functional.batch_norm(x, None, None, training=True)
    want = {"norm": z, "activation": z.relu(), "dropout": y}[at]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_h_is_what_was_normalised(name, x):
    residual = x.flip(0)
    for norm in (NORMS[name], door.convert(NORMS[name])):
        y, h = door.fused(norm, x, residual, dropout=nn.Dropout(0.0), return_h=True)
        torch.testing.assert_close(h, residual + x)
        torch.testing.assert_close(y, norm(h))
        y, h = door.fused(norm, x, return_h=True)
        assert torch.equal(h, x)
        torch.testing.assert_close(y, norm(x))


def test_a_norm_keeps_what_it_was_made_with(x, calls):
    norm = door.BatchNorm1d(6, activation="tanh", dropout=0.0)
    y = door.fused(norm, x, activation=nn.ReLU())
    torch.testing.assert_close(y, functional.batch_norm(x, None, None, training=True).tanh().relu())
    assert calls.fused == [("tanh", 0.0)]


def test_sequential_fuses_runs_of_modules(x, calls):
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.BatchNorm1d(6), relu, nn.Dropout(0.0), nn.Dropout(0.0),
        nn.BatchNorm1d(6), nn.Dropout(0.0), relu,
        nn.LayerNorm(5), relu, nn.Dropout(0.0),
        nn.GroupNorm(2, 6),
    )  # fmt: skip
    converted = door.convert(model)
    torch.testing.assert_close(converted(x), model(x))
    assert calls.fused == [("relu", 0.0), (None, 0.0), ("relu", 0.0), (None, 0.0)]
    assert type(converted[:3]) is door.Sequential
    assert converted[1] is converted[6]


def test_settings_are_looked_at_in_each_call(x, calls):
    model = door.convert(nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5)))
    model[1].p = 1.0
    assert not model(x).any()
    model.eval()
    assert model(x).any()
    assert calls.fused == [(None, 1.0), (None, 0.0)]


def test_a_norm_with_hooks_keeps_what_it_does_itself():
    x, residual = torch.randn(6, 3), torch.randn(6, 3)
    for norm in (
        door.BatchNorm1d(3, activation="relu"),
        door.LayerNorm(3, activation="relu", dropout=0.5),
    ):
        torch.manual_seed(0)
        plain = door.fused(norm, x, residual)
        norm.register_forward_hook(lambda *_: None)
        torch.manual_seed(0)
        torch.testing.assert_close(door.fused(norm, x, residual), plain)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), door.BatchNorm1d(6)], ids=repr)
def test_names_and_rates_are_refused_before_the_norm_has_run(norm, x):
    for given in ({"activation": "relu"}, {"dropout": 0.1}):
        (name,) = given
        with pytest.raises(TypeError, match=rf"^fused: {name} is .*, expected a module"):
            door.fused(norm, x, **given)
    assert norm.num_batches_tracked == 0
