"""Which way tensors on a GPU go in bnfast.torch: traced ones, as there is no GPU here."""

from __future__ import annotations

import warnings

import pytest

from bnfast import _core

torch = pytest.importorskip("torch")
door = pytest.importorskip("bnfast.torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from bnfast.torch import _route  # noqa: E402


@pytest.fixture
def fakes():
    with FakeTensorMode():
        yield torch.empty(4, 6, 5, device="cuda"), torch.empty(6, device="cuda")


def test_tensors_on_a_gpu_go_to_kernels(fakes):
    x, weight = fakes
    assert _route.route("a norm", x, weight) is _route.Route.OPERATOR
    y = door.batch_norm(x, None, None, weight, weight, training=True, activation="relu")
    assert (y.device, y.shape) == (x.device, x.shape)
    state = torch.ops.bnfast.norm(
        *(x, weight, weight, None, None, None, None),
        *("batch", 0, 1e-5, None, 0.01, 0.0),
    )[2]
    assert (state.device, state.dtype, state.shape) == (x.device, torch.float64, (42,))
    assert door.dropout(x).device == x.device


def test_tensors_on_a_gpu_go_to_torch_where_there_is_no_cuda(fakes, monkeypatch):
    _core.restore_backend("cuda")
    if _core.cuda_unavailable() is None:
        pytest.skip("there is CUDA")
    monkeypatch.setattr(_route, "_told", set())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert _route.route("a norm", *fakes) is _route.Route.TORCH
        assert _route.route("a norm", *fakes) is _route.Route.TORCH
    assert [str(w.message) for w in told] == [
        "bnfast.torch: a norm of tensors on cuda is computed by torch's own operations"
    ]
