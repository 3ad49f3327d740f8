"""The textbook of the four norms, and the norms themselves, agree with torch, where it is there."""

from __future__ import annotations

import numpy as np
import pytest
from cases import ACTIVATIONS, DTYPES

import bnfast
from norms.cases import BEFORE, BEHIND, EPS, NAMES, NormCase, case_of
from norms.reference import backward

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.core,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
]
F = torch.nn.functional
FUNCTIONS = {
    None: lambda z: z,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.01),
    **{name: getattr(F, name) for name in ("relu", "silu", "gelu", "elu")},
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def of_torch(case: NormCase, memory_format=torch.contiguous_format):
    """y, dx, dgamma, dbeta and dresidual by torch's own functions and its automatic gradients."""
    given = [case.x, case.gamma, case.beta, case.options["residual"]]
    leaves = [None if a is None else torch.tensor(a) for a in given]
    if memory_format != torch.contiguous_format:
        leaves[0] = leaves[0].contiguous(memory_format=memory_format)
    for leaf in leaves:
        if leaf is not None:
            leaf.requires_grad_(True)
    x, gamma, beta, residual = leaves
    rate = case.options["dropout"]
    mask = bnfast.dropout_mask(case.x.shape, rate, seed=case.options["seed"])
    factor = torch.tensor(mask / (1 - rate)).to(x.dtype)
    act, eps = FUNCTIONS[case.options["activation"]], EPS[case.name]
    if case.name in BEFORE:
        h = residual + x * factor
        if case.name == "layer_norm":
            y = act(F.layer_norm(h, gamma.shape, gamma, beta, eps))
        else:
            y = act(F.rms_norm(h, gamma.shape, gamma, eps))
        loss = (y * torch.tensor(case.dy)).sum() + (h * torch.tensor(case.dh)).sum()
    else:
        if case.name == "group_norm":
            z = F.group_norm(x, case.options["num_groups"], gamma, beta, eps)
        else:
            z = F.instance_norm(x, weight=gamma, bias=beta, eps=eps)
        y = act(z + residual) * factor
        loss = (y * torch.tensor(case.dy)).sum()
    loss.backward()
    return [y.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]


def assert_agree(got, want, dtype):
    """Within 2^-16 or 2^-40: torch's own sums of float32 are in float32, and float64's in order."""
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            b = b.numpy()
            allowed = (2.0**-40 if dtype == np.float64 else 2.0**-16) * np.abs(b).max()
            np.testing.assert_allclose(a.astype(np.float64), b, rtol=0, atol=allowed)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_torch_agrees(name, activation, dtype):
    for shape in ((4, 6, 35), (2, 4, 5, 6), (3, 2, 2, 3, 4)):
        for axis in (-1, (-2, -1)) if name in BEFORE else (1,):
            case = case_of(name, shape, dtype, axis=axis, activation=activation)
            case.gamma = case.gamma.astype(dtype)
            case.beta = None if case.beta is None else case.beta.astype(dtype)
            residual = np.random.default_rng(5).normal(size=shape).astype(dtype)
            case.options |= {"residual": residual, "dropout": 0.25, "seed": 3}
            want = of_torch(case)
            y, ctx = case.forward()
            assert_agree([y, *case.backward(ctx)], want, dtype)
            y, ctx = case.textbook()
            grads = list(backward(case.dy, ctx, case.dh))
            if case.beta is None:
                grads[2] = None
            assert_agree([y, *grads], want, dtype)


@pytest.mark.parametrize("name", BEHIND)
def test_memory_of_torch_in_channels_last(name):
    """A view of torch's memory is used in place, in whichever order its axes lie there."""
    for dtype in DTYPES[:2]:
        case = case_of(name, (3, 6, 5, 7), dtype, activation="silu", dropout=0.25, seed=3)
        case.gamma, case.beta = case.gamma.astype(dtype), case.beta.astype(dtype)
        case.options["residual"] = case.dy.copy()
        want = of_torch(case, torch.channels_last)
        case.x, case.dy = (
            torch.tensor(a).contiguous(memory_format=torch.channels_last).numpy()
            for a in (case.x, case.dy)
        )
        y, ctx = case.forward()
        assert y.strides == case.x.strides  # channels last, as x is
        assert_agree([y, *case.backward(ctx)], want, dtype)
