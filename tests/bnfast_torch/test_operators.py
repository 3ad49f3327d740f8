"""torch.compile, export, modes and traces go through operators, with the results of the kernels."""

from __future__ import annotations

import copy

import pytest
from torch import nn
from torch.library import opcheck

from bnfast_torch.cases import door, each_norm, torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own parts


@pytest.fixture(autouse=True)
def _nothing_is_compiled_before():
    torch.compiler.reset()


@each_norm
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (3, 4, 5)])
@pytest.mark.parametrize("fused", [False, True])
def test_operators_of_norms_keep_their_promises(norm, shape, fused):
    x, weight, bias, residual = norm.tensors(shape, torch.float32, requires_grad=True)
    if x.dim() == 4:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    extent = {"group": 2, "layer": 1, "rms": 1}.get(norm.name, 0)
    given = (torch.zeros(4), torch.ones(4)) if norm.name == "frozen" else (None, None)
    rate = 0.4 if fused and norm.name != "frozen" else 0.0
    seed = torch.tensor(7) if rate else None
    options = (norm.name, extent, 1e-5, "silu" if fused else None, 0.01, rate)
    tensors = (x, weight, bias, residual if fused else None, *given, seed)
    opcheck(torch.ops.bnfast.norm.default, (*tensors, *options))


@pytest.mark.parametrize("channels", [False, True])
def test_the_operator_of_dropout_keeps_its_promises(channels):
    x = torch.randn(3, 4, 5, requires_grad=True)
    opcheck(torch.ops.bnfast.dropout.default, (x, torch.tensor(7), 0.4, channels))


@each_norm
def test_compiled_functions_have_the_bits_of_the_kernels(norm):
    tensors = norm.tensors(dtype=torch.float32, requires_grad=True)
    wanted = [t for t in tensors if t is not None]
    dy = torch.randn(tensors[0].shape)

    def call(*given):
        return norm.ours(*given, activation="tanh")

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(
        torch.autograd.grad(compiled(*tensors), wanted, dy),
        torch.autograd.grad(call(*tensors), wanted, dy),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


class Network(nn.Module):
    """Every module, and dropout at rates that can be set to zero."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            door.BatchNorm2d(8, activation="relu", dropout=rate),
            door.GroupNorm(2, 8),
            door.InstanceNorm2d(8, affine=True, track_running_stats=True),
            door.LayerNorm(6, activation="gelu"),
            door.Dropout2d(rate),
            door.Dropout(rate),
        )
        self.last = door.RMSNorm(6, dropout=rate)

    def forward(self, x):
        x = self.layers(x)
        y, h = self.last(x, x, return_h=True)
        return y + h


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_network_trains_as_an_eager_one(backend):
    eager = Network(0.0)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend=backend)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(2):
        found = []
        for network in (eager, compiled):
            network.zero_grad()
            y = network(x)
            y.square().sum().backward()
            found.append([y, *(p.grad for p in network.parameters()), *network.buffers()])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(compiled.eval()(x), eager.eval()(x))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_dropout_follows_manual_seed(backend):
    x = torch.ones(100, requires_grad=True)
    call = torch.compile(
        lambda x: (door.dropout(x), door.dropout(x)), fullgraph=True, backend=backend
    )
    torch.manual_seed(1)
    one, other = call(x)
    torch.manual_seed(1)
    again, _ = call(x)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    (dx,) = torch.autograd.grad(one.sum(), x)
    assert torch.equal(dx, one)


def test_shapes_may_be_symbols():
    call = torch.compile(
        lambda x, w: (
            door.batch_norm(x, None, None, w, None, True) + door.layer_norm(x, x.shape[-1:])
        ),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    weight = torch.ones(4, requires_grad=True)
    for n in (5, 7):
        x = torch.randn(n, 4, n)
        want = door.batch_norm(x, None, None, weight, None, True) + door.layer_norm(x, (n,))
        torch.testing.assert_close(call(x, weight), want)


def test_an_exported_program_has_the_operators():
    network = Network(0.3).eval()
    x = torch.randn(4, 3, 8, 8)
    exported = torch.export.export(network, (x,))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert targets.count("bnfast.norm.default") == 5
    torch.testing.assert_close(exported.module()(x), network(x))


def test_modes_and_traces_see_the_operator():
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.randn(3, 4)

    def call(x):
        return door.layer_norm(x, (4,))

    assert "bnfast.norm" in make_fx(call)(x).code
    with FakeTensorMode():
        assert call(torch.empty(3, 4)).shape == (3, 4)
    other = torch.randn(3, 4)
    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(call, x)
    torch.testing.assert_close(traced(other), call(other))


def test_expanded_axes_compile():
    x = torch.randn(3, 1, 4).expand(3, 5, 4).transpose(1, 2)[:, :, ::2]
    for call in (
        lambda t: door.layer_norm(t, t.shape[-1:]),
        lambda t: door.batch_norm(t, None, None, training=True),
    ):
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), call(x))
    dropped = torch.compile(lambda t: door.dropout(t, 0.5), backend="aot_eager", fullgraph=True)(x)
    assert dropped.shape == x.shape
