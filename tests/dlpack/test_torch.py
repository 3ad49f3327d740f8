"""What is particular to PyTorch's tensors: memory formats, gradients, tensors without memory."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import bnfast

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_format_is_kept(dtype):
    x = torch.randn(3, 4, 5, 6).to(getattr(torch, dtype)).to(memory_format=torch.channels_last)
    y, ctx = bnfast.batch_norm(x)
    dropped, mask = bnfast.dropout(x, 0.2, seed=1)
    results = [
        y,
        dropped,
        bnfast.batch_norm_backward(x, ctx).dx,
        bnfast.dropout_backward(x, mask),
        bnfast.batch_norm_backward(x.contiguous(), ctx).dx,  # as x, which it is the gradient of
    ]
    assert {result.stride() for result in results} == {x.stride()}
    assert torch.equal(y, bnfast.batch_norm(x.contiguous())[0])
    assert torch.equal(dropped, bnfast.dropout(x.contiguous(), 0.2, seed=1)[0])


def test_views_are_read_in_place():
    base = torch.randn(8, 12, 10)
    for view in (base[::2, 1:9:2, ::3], base.transpose(0, 2), base[:, :, :1].expand(8, 12, 10)):
        assert torch.equal(
            bnfast.batch_norm(view)[0], torch.from_numpy(bnfast.batch_norm(view.numpy())[0])
        )


def test_gradients_are_not_lost_unawares():
    x = torch.randn(4, 3, requires_grad=True)
    expected = r"^batch_norm: x requires grad, expected bnfast.torch .* or x.detach\(\)"
    with pytest.raises(ValueError, match=expected):
        bnfast.batch_norm(x)
    with torch.no_grad():
        assert not bnfast.batch_norm(x)[0].requires_grad
    bnfast.batch_norm(x.detach())
    gamma = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"^batch_norm: gamma requires grad"):
        bnfast.batch_norm(x.detach(), gamma)


def test_gradients_that_need_what_out_held_are_refused():
    for call in (
        lambda x: bnfast.dropout(x, 0.5, seed=1, out=x),
        lambda x: bnfast.batch_norm(x, out=x),
        lambda x: bnfast.batch_norm_backward(x, bnfast.batch_norm(torch.randn(8, 3))[1], out=x),
    ):
        weight, x = torch.ones(3, requires_grad=True), torch.randn(8, 3)
        loss = (weight * x).sum()  # its gradient is x
        call(x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_versions_of_pytorch_without_the_exchange_api():
    class Older(torch.Tensor):
        __module__ = "torch"
        __dlpack_c_exchange_api__ = None

    x, gamma = (torch.randn(shape).as_subclass(Older) for shape in ((8, 3), (3,)))
    gamma.requires_grad_()
    with pytest.raises(ValueError, match="gamma requires grad"):
        bnfast.batch_norm(x, gamma)
    with torch.no_grad():
        y, _ = bnfast.batch_norm(x, gamma)
    assert np.array_equal(y, bnfast.batch_norm(x.numpy(), gamma.detach().numpy())[0])


def test_running_statistics_are_written_as_pytorch_does():
    x, mean, var = torch.randn(8, 3), torch.zeros(3), torch.ones(3)
    bnfast._core.update_running(bnfast.batch_norm(x)[1], mean=mean, var=var, momentum=0.1)
    expected = torch.zeros(3), torch.ones(3)
    torch.nn.functional.batch_norm(x, *expected, training=True, momentum=0.1)
    torch.testing.assert_close((mean, var), expected)
    assert mean._version == var._version == 1  # PyTorch knows that they are others now


def test_running_statistics_stay_where_nothing_can_be_learnt():
    mean, var = torch.ones(3), torch.ones(3)
    empty, some = bnfast.batch_norm(torch.empty(0, 3))[1], bnfast.batch_norm(torch.randn(8, 3))[1]
    bnfast._core.update_running(empty, mean=mean, var=var, momentum=0.1)
    with pytest.raises(ValueError, match="var has another shape, expected"):
        bnfast._core.update_running(some, mean=mean, var=torch.ones(4), momentum=0.1)
    with pytest.raises(TypeError, match="var has 16 bits"):
        bnfast._core.update_running(some, mean=mean, var=var.half(), momentum=0.1)
    assert torch.equal(mean, torch.ones(3)) and torch.equal(var, torch.ones(3))


def test_arrays_may_be_taken_out_of_a_context_meanwhile():
    """Another thread can, wherever PyTorch is asked something: backward must not lose them."""
    x = torch.randn(64, 64)
    _, ctx = bnfast.batch_norm(x)
    want = bnfast.batch_norm_backward(x, ctx).dx

    class Taking(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            ctx.set_arrays(None)
            return super().__torch_function__(func, types, args, kwargs or {})

    ctx.set_arrays(x.clone().as_subclass(Taking))
    assert torch.equal(bnfast.batch_norm_backward(x, ctx).dx, want)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.empty(4, 3, device="meta"), "x cannot be read by DLPack: "),
        (lambda: torch.randn(4, 3).to_sparse(), "x cannot be read by DLPack: "),
        (lambda: torch.randn(4, 3, dtype=torch.complex64), "x has dtype torch.complex64, expected"),
        (
            lambda: torch.randn(4, 3, dtype=torch.complex64).conj().imag,
            "x is a view that negates on reading, expected its resolve_neg",
        ),
    ],
)
def test_tensors_without_plain_memory_are_refused(make, message):
    with pytest.raises(TypeError, match=f"^batch_norm: {message}"):
        bnfast.batch_norm(make())


def test_results_outlive_everything_else_and_die_without_the_gil():
    """A tensor frees our memory wherever its last reference goes, as in a thread of autograd."""
    x = torch.randn(64, 8, 1024)
    want = torch.from_numpy(bnfast.batch_norm(x.numpy())[0])
    y, ctx = bnfast.batch_norm(x)
    del ctx
    gc.collect()
    assert torch.equal(y, want)

    def train() -> None:
        for _ in range(20):
            weight = torch.ones(8, 1, requires_grad=True)
            # The graph keeps y until its backward, which runs without the GIL.
            (bnfast.batch_norm(x)[0] * weight).sum().backward()

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(y, want)
    assert np.array_equal(y.numpy(), want.numpy())
