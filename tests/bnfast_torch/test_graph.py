"""Derivatives of bnfast.torch: numerically, twice, many at once, and what the graph keeps."""

from __future__ import annotations

import gc
import weakref

import pytest
from torch.autograd import gradcheck, gradgradcheck

from bnfast_torch.cases import CASES, door, each_norm, torch


@each_norm
@pytest.mark.parametrize(("activation", "rate"), [(None, 0.0), ("gelu", 0.4)])
def test_derivatives(norm, activation, rate):
    tensors = norm.tensors((3, 4, 2), requires_grad=True)

    def call(*given):
        torch.manual_seed(0)  # the same mask each time
        more = {"return_h": True} if norm.residual_first else {}
        return norm.ours(*given, activation=activation, dropout=rate, **more)

    assert gradcheck(call, tensors, check_batched_grad=True)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("function", [door.dropout, door.dropout1d])
def test_derivatives_of_dropout(function):
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)

    def call(x):
        torch.manual_seed(0)
        return function(x, 0.4)

    assert gradcheck(call, (x,), check_batched_grad=True)
    assert gradgradcheck(call, (x * 1,))


@pytest.mark.parametrize("residual", [False, True])
def test_a_gradient_takes_no_path_between_the_arguments(residual):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = door.layer_norm(x, (4,), x[0], x.sum(0), residual=x * 2 if residual else None)
    y = y.square().sum()
    (again,) = torch.autograd.grad(y, x, create_graph=True)  # by torch's operations
    (want,) = torch.autograd.grad(y, x)
    torch.testing.assert_close(again, want)


@each_norm
def test_some_arguments_need_no_gradient(norm):
    for needed in range(4):
        tensors = norm.tensors()
        if tensors[needed] is not None:
            tensors[needed].requires_grad_()
            dy = torch.randn(tensors[0].shape, dtype=torch.float64)
            y = norm.ours(*tensors)
            (got,) = torch.autograd.grad(y, tensors[needed], dy, retain_graph=True)
            (again,) = torch.autograd.grad(y, tensors[needed], dy, create_graph=True)
            (want,) = torch.autograd.grad(norm.torchs(*tensors), tensors[needed], dy)
            torch.testing.assert_close(got, want)
            torch.testing.assert_close(again, want)


@each_norm
def test_no_graph_where_nothing_needs_one(norm):
    tensors = norm.tensors(requires_grad=True)
    with torch.no_grad():
        assert norm.ours(*tensors).grad_fn is None
    assert norm.ours(*norm.tensors()).grad_fn is None
    with torch.inference_mode():
        assert norm.ours(*norm.tensors()).is_inference()


@each_norm
def test_a_change_of_x_in_place_is_noticed(norm):
    x, weight, bias, _ = norm.tensors(requires_grad=True)
    moved = x * 1
    y = norm.ours(moved, weight, bias)
    moved += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@each_norm
def test_backward_lets_go_of_the_tensors(norm):
    x, weight, bias, _ = norm.tensors(requires_grad=True)
    moved = x * 1
    gone = weakref.ref(moved)
    y = norm.ours(moved, weight, bias)
    y.sum().backward()
    del moved
    gc.collect()
    assert gone() is None
    assert y.grad_fn is not None


@each_norm
def test_hooks_on_saved_tensors_may_move_x_away(norm):
    x, weight, bias, residual = norm.tensors(requires_grad=True)
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.detach().clone()

    moved = x * 1
    gone = weakref.ref(moved)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = norm.ours(moved, weight, bias, residual)
    assert moved.shape in packed
    del moved
    gc.collect()
    assert gone() is None
    y.square().sum().backward()
    want = torch.autograd.grad(norm.torchs(x, weight, bias, residual).square().sum(), x)
    torch.testing.assert_close(x.grad, want[0])


@pytest.mark.parametrize("norm", CASES[:1] + CASES[4:5], ids=lambda case: case.name)
def test_checkpoints_draw_the_same_mask_again(norm):
    from torch.utils.checkpoint import checkpoint

    x, weight, bias, residual = norm.tensors(requires_grad=True)

    def call(x):
        return door.dropout(norm.ours(x, weight, bias, residual, dropout=0.5), 0.5)

    torch.manual_seed(3)
    y = checkpoint(call, x, use_reentrant=False)
    (got,) = torch.autograd.grad(y.square().sum(), x)
    torch.manual_seed(3)
    (want,) = torch.autograd.grad(call(x).square().sum(), x)
    assert torch.equal(got, want)


def test_a_graph_is_used_twice():
    x = torch.randn(4, 3, requires_grad=True)
    y = door.batch_norm(x, None, None, training=True, activation="tanh").square().sum()
    first = torch.autograd.grad(y, x, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(y, x)[0])
