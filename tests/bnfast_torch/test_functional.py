"""Functions of bnfast.torch give what torch's operations give in float64, and keep formats."""

from __future__ import annotations

import inspect

import pytest

from bnfast_torch.cases import (
    ACTIVATIONS,
    CASES,
    DTYPES,
    F,
    assert_close,
    door,
    each_norm,
    next_mask,
    torch,
    wide,
)


def leaves(norm, shape, dtype):
    return norm.tensors(shape, dtype, requires_grad=True)


@each_norm
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_values_and_gradients(norm, dtype, activation, rate):
    rate = 0.0 if norm.name == "frozen" else rate
    tensors = leaves(norm, (4, 6, 5, 3), dtype)
    reference = [None if t is None else wide(t).requires_grad_() for t in tensors]
    keep = next_mask(tensors[0].shape, rate) if rate else None
    got = norm.ours(*tensors, activation=activation, dropout=rate)
    want = norm.torchs(*reference, activation=activation, keep=keep, rate=rate)
    assert got.dtype == dtype
    assert_close(got, want, dtype)
    dy = torch.linspace(-1, 1, got.numel()).reshape(got.shape).to(dtype)
    got.backward(dy)
    want.backward(wide(dy))
    for ours, theirs in zip(tensors, reference, strict=True):
        if ours is not None:
            assert ours.grad.dtype == dtype
            assert_close(ours.grad, theirs.grad, dtype)


@each_norm
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_without_a_graph(norm, activation):
    x, weight, bias, _ = norm.tensors()
    got = norm.ours(x, weight, bias, activation=activation, activation_slope=0.2)
    assert_close(got, norm.torchs(x, weight, bias, activation=activation), torch.float64)


@each_norm
def test_channels_last_is_kept(norm):
    x, weight, bias, residual = leaves(norm, (4, 6, 5, 3), torch.float32)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = norm.ours(last, weight, bias, residual)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(y.square().sum(), last)
    assert dx.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, norm.ours(x, weight, bias, residual))


@each_norm
def test_a_residual_of_another_dtype_is_promoted(norm):
    x, weight, bias, residual = norm.tensors(dtype=torch.bfloat16)
    y = norm.ours(x, weight.float(), None if bias is None else bias.float(), residual.float())
    assert y.dtype == torch.float32


@pytest.mark.parametrize("norm", CASES[4:], ids=lambda case: case.name)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_h_is_what_was_normalised_and_its_gradient_joins(norm, rate):
    x, weight, bias, residual = leaves(norm, (4, 6), torch.float64)
    keep = next_mask(x.shape, rate) if rate else torch.ones(x.shape, dtype=torch.bool)
    y, h = norm.ours(x, weight, bias, residual, dropout=rate, return_h=True)
    want = residual + torch.where(keep, x / (1 - rate), 0)
    torch.testing.assert_close(h, want)
    theirs = (norm.torchs(want, weight, bias) * 2 + want**2).sum()
    ours = (y * 2 + h**2).sum()
    for of in ((x, residual, weight), (x, residual)):
        got, expected = (torch.autograd.grad(s, of, retain_graph=True) for s in (ours, theirs))
        torch.testing.assert_close(got, expected)
    got = torch.autograd.grad((h**2).sum(), (x, residual))  # y takes no part
    torch.testing.assert_close(got, torch.autograd.grad((want**2).sum(), (x, residual)))


@pytest.mark.parametrize("function", ["batch_norm", "instance_norm"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_running_statistics_are_updated_as_torch_does(function, dtype):
    x = torch.randn(4, 3, 5, 2, dtype=torch.float64).to(dtype)
    found = []
    for functions, values in ((door, x), (F, x.double())):
        mean = torch.full((3,), 0.5, dtype=values.dtype)
        var = torch.full((3,), 2.0, dtype=values.dtype)
        args = (True,) if function == "batch_norm" else ()
        getattr(functions, function)(values, mean, var, None, None, *args, momentum=0.25)
        found.append((mean, var))
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs, dtype)


def test_the_eps_of_rms_norm_is_by_default_that_of_the_type_computed_in():
    for dtype in DTYPES:
        x = torch.full((2, 4), 1e-4).to(dtype)
        torch.testing.assert_close(door.rms_norm(x, (4,)), F.rms_norm(x, (4,)), rtol=5e-3, atol=0)


NAMES = ["batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"]
NAMES += ["dropout", "dropout1d", "dropout2d", "dropout3d"]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_have_the_names_order_and_defaults_of_torch(name):
    ours, theirs = (inspect.signature(getattr(of, name)).parameters for of in (door, F))
    for mine, torchs in zip(ours.values(), theirs.values(), strict=False):
        assert (mine.name, mine.default) == (torchs.name, torchs.default)
    assert all(p.kind is p.KEYWORD_ONLY for p in [*ours.values()][len(theirs) :])


def test_bad_arguments():
    x = torch.ones(1, 3)
    with pytest.raises(ValueError, match=r"batch_norm: x has shape \(1, 3\), expected more than 1"):
        door.batch_norm(x, None, None, training=True)
    with pytest.raises(ValueError, match="instance_norm: x has shape"):
        door.instance_norm(torch.ones(2, 3, 1))
    with pytest.raises(ValueError, match="group_norm: x has shape"):
        door.group_norm(x, 3)
    with pytest.raises(ValueError, match="batch_norm: running_mean or running_var is None"):
        door.batch_norm(x, None, None)
    for shape in ((), (2,), (1, 1, 3)):
        with pytest.raises(ValueError, match="normalized_shape is"):
            door.layer_norm(x, shape)
    with pytest.raises(ValueError, match="layer_norm: activation is 'swish', expected one of"):
        door.layer_norm(x, (3,), activation="swish")
    with pytest.raises(ValueError, match="rms_norm: dropout is 2"):
        door.rms_norm(x, (3,), dropout=2.0)
    with pytest.raises(ValueError, match="gamma has shape"):
        door.layer_norm(x, (3,), torch.ones(4))


def test_groups_of_one_value_are_refused_as_torch_does():
    weight = torch.ones(4)
    for norm in (F.group_norm, door.group_norm):
        assert norm(torch.randn(3, 4), 4, weight).abs().max() < 1e-3  # torch's is not quite 0
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            norm(torch.randn(1, 4), 4, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [door.batch_norm, door.instance_norm])
def test_running_statistics_are_checked_before_one_is_written(norm, dtype):
    x, mean, var = torch.randn(2, 3, 5, dtype=dtype), torch.zeros(3, dtype=dtype), torch.ones(2, 3)
    with pytest.raises((ValueError, TypeError), match="shape"):
        norm(x, mean, var.to(dtype), None, None, True)
    assert not mean.any()
