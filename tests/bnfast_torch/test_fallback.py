"""Tensors for which there is no kernel go to torch's own operations, and one warning says so."""

from __future__ import annotations

import warnings

import pytest

from bnfast.torch import _route
from bnfast_torch import cases
from bnfast_torch.cases import F, door, each_norm, torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own parts


@pytest.fixture(autouse=True)
def _nothing_is_told(monkeypatch):
    monkeypatch.setattr(_route, "_told", set())


@each_norm
def test_meta_tensors_have_their_shape_without_a_warning(norm):
    x, weight, bias, residual = (
        None if t is None else t.to("meta") for t in norm.tensors(dtype=torch.float32)
    )
    if norm.name == "frozen":
        y = door.batch_norm(x, weight, weight, weight, bias, residual=residual)
    else:
        y = norm.ours(x, weight, bias, residual, activation="relu", dropout=0.5)
    assert y.is_meta
    assert y.shape == x.shape
    assert door.dropout(y).is_meta


@each_norm
def test_transformations_are_computed_by_torch(norm):
    x, weight, bias, residual = norm.tensors((3, 4, 5))

    def ours(x):
        return norm.ours(x, weight, bias, residual, activation="silu").square().sum()

    def theirs(x):
        return norm.torchs(x, weight, bias, residual, activation="silu").square().sum()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        got = torch.func.grad(ours)(x)
        torch.testing.assert_close(got, torch.func.grad(theirs)(x))
        xs = torch.stack([x, x * 2])
        got = torch.func.vmap(torch.func.grad(ours))(xs)
        torch.testing.assert_close(got, torch.func.vmap(torch.func.grad(theirs))(xs))
        _, got = torch.func.jvp(ours, (x,), (x,))
        torch.testing.assert_close(got, torch.func.jvp(theirs, (x,), (x,))[1])
    own = [w for w in told if "in a transformation of torch.func" in str(w.message)]
    assert [w.filename for w in own] == [cases.__file__]  # one, which tells where the call is


def test_forward_mode_is_computed_by_torch():
    from torch.autograd import forward_ad

    x = torch.randn(3, 4)
    with forward_ad.dual_level():
        with pytest.warns(UserWarning, match="forward-mode"):
            y = door.layer_norm(forward_ad.make_dual(x, x), (4,))
        want = F.layer_norm(forward_ad.make_dual(x, x), (4,))
        torch.testing.assert_close(forward_ad.unpack_dual(y), forward_ad.unpack_dual(want))


class Marked(torch.Tensor):
    """A subclass that torch's operations keep."""


def test_subclasses_keep_their_type():
    x = torch.randn(3, 4).as_subclass(Marked)
    with pytest.warns(UserWarning, match="layer norm of the tensor type Marked is"):
        assert type(door.layer_norm(x, (4,))) is Marked


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.ones(3, 4, dtype=torch.int64), "tensors of torch.int64"),
        (torch.ones(3, 4, dtype=torch.complex64), "tensors of torch.complex64"),
        (torch.eye(4).to_sparse(), "tensors of layout torch.sparse_coo"),
    ],
    ids=["integer", "complex", "sparse"],
)
def test_what_torch_cannot_compute_either_is_its_error(x, reason):
    with pytest.warns(UserWarning, match=reason), pytest.raises(RuntimeError) as ours:
        door.layer_norm(x, (4,))
    with pytest.raises(RuntimeError) as theirs:
        F.layer_norm(x, (4,))
    assert str(ours.value) == str(theirs.value)


@each_norm
def test_a_sign_that_torch_has_yet_to_turn_is_turned(norm):
    x, weight, bias, _ = norm.tensors(requires_grad=True)
    turned = torch.complex(x, -x).conj().imag.detach()
    assert turned.is_neg()
    torch.testing.assert_close(norm.ours(turned, weight, bias), norm.ours(x, weight, bias))
    y = norm.ours(x, weight, bias)
    (got,) = torch.autograd.grad(y, x, turned, retain_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(y, x, turned.resolve_neg())[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norm.ours(turned, weight, bias)


def test_autocast_leaves_the_dtype_alone():
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(3, 4, dtype=dtype)
            assert door.layer_norm(x, (4,), torch.ones(4)).dtype == dtype
