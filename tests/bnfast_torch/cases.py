"""Every normalization of bnfast.torch as a function of its tensors, and as torch composes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

import torch.nn.functional as F  # noqa: E402

import bnfast  # noqa: E402
import bnfast.torch as door  # noqa: E402

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ACTIVATIONS: dict[str | None, Callable[[Any], Any]] = {
    None: lambda z: z,
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
}


@dataclass
class Case:
    """One normalization: `call(functions, x, weight, bias, **fused)` has it of some functions."""

    name: str
    call: Callable[..., Any]
    has_bias: bool = True
    residual_first: bool = False
    along: int = 1  # the axis that weight and bias lie along

    def tensors(self, shape=(4, 6, 5, 3), dtype=torch.float64, *, requires_grad=False):
        """Return x, weight, bias and residual."""
        generator = torch.Generator().manual_seed(len(shape))

        def normal(*size):
            values = torch.randn(size, dtype=torch.float64, generator=generator).to(dtype)
            return values.requires_grad_(requires_grad)

        length = shape[self.along]
        bias = normal(length) if self.has_bias else None
        return normal(*shape), normal(length), bias, normal(*shape)

    def ours(self, x, weight, bias, residual=None, **fused):
        return self.call(door, x, weight, bias, residual=residual, **fused)

    def torchs(self, x, weight, bias, residual=None, activation=None, keep=None, rate=0.0):
        """The same in torch's operations; `keep` is the mask of dropout."""

        def drop(t):
            return t if keep is None else torch.where(keep, t / (1 - rate), 0)

        def add(t):
            return t if residual is None else t + residual

        if self.residual_first:
            return ACTIVATIONS[activation](self.call(F, add(drop(x)), weight, bias))
        return drop(ACTIVATIONS[activation](add(self.call(F, x, weight, bias))))


def _running(x):
    values = torch.linspace(0.5, 1.5, x.shape[1], dtype=torch.float64)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return values.to(dtype) - 1, values.to(dtype)


def _batch(f, x, weight, bias, **fused):
    return f.batch_norm(x, None, None, weight, bias, True, **fused)


def _frozen(f, x, weight, bias, **fused):
    return f.batch_norm(x, *_running(x), weight, bias, False, **fused)


def _instance(f, x, weight, bias, **fused):
    return f.instance_norm(x, None, None, weight, bias, **fused)


def _group(f, x, weight, bias, **fused):
    return f.group_norm(x, 2, weight, bias, **fused)


def _layer(f, x, weight, bias, **fused):
    return f.layer_norm(x, x.shape[-1:], weight, bias, **fused)


def _rms(f, x, weight, bias, **fused):
    return f.rms_norm(x, x.shape[-1:], weight, **fused)


CASES = [
    Case("batch", _batch),
    Case("frozen", _frozen),
    Case("instance", _instance),
    Case("group", _group),
    Case("layer", _layer, residual_first=True, along=-1),
    Case("rms", _rms, has_bias=False, residual_first=True, along=-1),
]
each_norm = pytest.mark.parametrize("norm", CASES, ids=lambda case: case.name)


def next_mask(shape, rate, **options):
    """Return the mask that the next dropout will draw."""
    state = torch.get_rng_state()
    seed = int(torch.empty((), dtype=torch.int64).random_())
    torch.set_rng_state(state)
    return torch.from_numpy(bnfast.dropout_mask(tuple(shape), rate, seed=seed, **options))


def wide(tensor):
    return None if tensor is None else tensor.detach().double()


def assert_close(got, want, dtype):
    """Compare with a result in float64, to some roundings of 1 or its largest value in dtype."""
    got, want = got.detach().double(), want.detach()
    tolerance = 64 * torch.finfo(dtype).eps * max(1.0, float(want.abs().max()))
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance, equal_nan=True)
