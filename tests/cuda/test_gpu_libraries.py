"""Arrays of PyTorch, CuPy and JAX on a GPU: their streams, CUDA graphs, threads, and autograd."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, DTYPES, assert_near, numbers
from gpu_memory import CPU, memory, why_unavailable

import bnfast

if (reason := why_unavailable()) is not None:
    pytest.skip(reason, allow_module_level=True)

ON_GPU = memory().is_gpu
if not ON_GPU and memory().device_type != CPU:
    pytest.skip("no library has arrays of a GPU that is the CPU", allow_module_level=True)
DEVICE = "cuda" if ON_GPU else "cpu"


@pytest.fixture(scope="module")
def torch() -> Any:
    torch = pytest.importorskip("torch")
    if ON_GPU and not torch.cuda.is_available():
        pytest.skip("PyTorch was built without CUDA")
    return torch


def tensor(torch: Any, a: np.ndarray) -> Any:
    if a.dtype != BFLOAT16:
        return torch.from_numpy(a).to(DEVICE)
    return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16).to(DEVICE)


def numpy(t: Any) -> np.ndarray:
    t = t.detach().cpu()
    return t.numpy() if t.element_size() > 2 else t.float().numpy()


def stream_of(torch: Any) -> Any:
    """A context in which work is enqueued on a stream of its own; without a GPU, on none."""
    return torch.cuda.stream(torch.cuda.Stream()) if ON_GPU else contextlib.nullcontext()


def synchronise(torch: Any) -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def captured(torch: Any, function: Callable[[], Any]) -> Callable[[], Any]:
    """Return what runs the function's work again: its CUDA graph, or without a GPU itself."""
    function()  # kernels are loaded when they are first launched, which no graph may hold
    synchronise(torch)
    if not ON_GPU:
        return function
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def step(x: Any, dy: Any, y: Any, dx: Any) -> tuple[Any, ...]:
    """Forward and backward into given memory; the context lives as long as the call."""
    _, ctx = bnfast.batch_norm(x, activation="silu", dropout=0.25, seed=7, out=y)
    return bnfast.batch_norm_backward(dy, ctx, out=dx)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_are_tensors_on_the_device(torch, dtype):
    shape = (8, 6, 5, 7)
    x, dy = numbers(shape, dtype), numbers(shape, dtype, 1)
    gamma = numbers((6,), seed=2)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        t, dt = (tensor(torch, a).contiguous(memory_format=memory_format) for a in (x, dy))
        for parameter in (gamma, tensor(torch, gamma)):  # NumPy's may be mixed in
            y, ctx = bnfast.batch_norm(t, parameter, activation="tanh")
            grads = bnfast.batch_norm_backward(dt, ctx)
            for result in (y, grads.dx, grads.dgamma, ctx.mean):
                assert isinstance(result, torch.Tensor) and result.device == t.device
            assert y.is_contiguous(memory_format=memory_format) and y.dtype == t.dtype
            want, ctx = bnfast.batch_norm(x, gamma, activation="tanh")
            want_dx, want_dgamma, _, _ = bnfast.batch_norm_backward(dy, ctx)
            assert_near(numpy(y), want, 2, units=2**17 if dtype.itemsize == 2 else 32)
            near = (
                {"rtol": 1e-2, "atol": 1e-2}
                if dtype.itemsize == 2
                else {"rtol": 1e-4, "atol": 1e-4}
            )
            np.testing.assert_allclose(numpy(grads.dx), want_dx.astype(np.float64), **near)
            np.testing.assert_allclose(numpy(grads.dgamma), want_dgamma, **near)


def test_moments_come_to_the_host(torch):
    x = numbers((9, 5, 33))
    got, want = bnfast.moments(tensor(torch, x)), bnfast.moments(x)
    np.testing.assert_array_equal(got.count, want.count)
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-14)
    np.testing.assert_allclose(got.var(), want.var(), rtol=1e-12)


def test_streams_at_once(torch):
    """Work on one stream neither waits for another's nor takes its memory."""
    inputs = [tensor(torch, numbers((16, 32, 30, 30), np.float32, seed)) for seed in range(4)]
    want = [step(x, x, torch.empty_like(x), torch.empty_like(x))[0].clone() for x in inputs]
    synchronise(torch)
    for _ in range(10):
        got = []
        for x in inputs:
            with stream_of(torch):
                got.append(step(x, x, torch.empty_like(x), torch.empty_like(x))[0])
        synchronise(torch)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_stream_is_the_one_that_is_current(torch):
    """y is written behind what the stream had to do before: here to make x, slowly."""
    x = torch.zeros(64, 256, 32, 32, device=DEVICE)
    values = tensor(torch, numbers(tuple(x.shape)))
    synchronise(torch)
    with stream_of(torch):
        for _ in range(50):
            x.add_(1)
        x.copy_(values)
        y, _ = bnfast.batch_norm(x)
        after = y + 1
    synchronise(torch)
    assert torch.equal(after, bnfast.batch_norm(values)[0] + 1)


def test_two_threads_with_streams_of_their_own(torch):
    inputs = [tensor(torch, numbers((8, 32, 40), np.float32, seed)) for seed in range(2)]
    want = [step(x, x, torch.empty_like(x), torch.empty_like(x))[0].clone() for x in inputs]
    synchronise(torch)

    def work(k: int) -> bool:
        with stream_of(torch):
            results = [
                step(x, x, torch.empty_like(x), torch.empty_like(x))[0] for x in [inputs[k]] * 30
            ]
            if ON_GPU:
                torch.cuda.current_stream().synchronize()
        return all(torch.equal(got, want[k]) for got in results)

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, range(2)))


@pytest.mark.parametrize("shape", [(32, 64, 28, 28), (4, 3, 50_001), (2048, 512)])
def test_a_graph_repeats_forward_and_backward(torch, shape):
    shape = shape if ON_GPU else (4, 3, 20)
    x, dy = tensor(torch, numbers(shape)), tensor(torch, numbers(shape, seed=1))
    y, dx = torch.empty_like(x), torch.empty_like(x)
    replay = captured(torch, lambda: step(x, dy, y, dx))
    for seed in range(2, 5):
        x.copy_(tensor(torch, numbers(shape, seed=seed)))
        y.fill_(torch.nan), dx.fill_(torch.nan)
        replay()
        want_y, want_dx = torch.empty_like(x), torch.empty_like(x)
        step(x, dy, want_y, want_dx)
        assert torch.equal(y, want_y) and torch.equal(dx, want_dx)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_a_graph_repeats_norms_with_their_prologue(torch, name):
    shape = (64, 1024) if ON_GPU else (4, 32)
    x, residual, dy = (tensor(torch, numbers(shape, np.float32, seed)) for seed in range(3))
    gamma = numbers(shape[1:], seed=3)  # of the host: a graph keeps the numbers
    kept: list[Any] = []

    def work() -> None:
        y, ctx = getattr(bnfast, name)(x, gamma, residual=residual, dropout=0.1, seed=5)
        kept[:] = y, bnfast.norm_backward(dy, ctx).dx

    replay = captured(torch, work)
    results = list(kept)  # which the graph writes
    x.copy_(tensor(torch, numbers(shape, seed=4)))
    gamma_then = gamma.copy()
    if ON_GPU:
        gamma[:] = 0
    replay()
    got = [t.clone() for t in (results if ON_GPU else kept)]
    gamma[:] = gamma_then
    work()
    assert all(torch.equal(a, b) for a, b in zip(got, kept, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own
def test_a_converted_model_learns_as_torch_does(torch):
    import bnfast.torch

    torch.manual_seed(0)
    nn = torch.nn
    layers = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(8 * 36, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    model = model.to(DEVICE)
    ours = bnfast.torch.convert(model)
    x, labels = torch.randn(16, 3, 8, 8, device=DEVICE), torch.arange(16, device=DEVICE) % 4
    losses = []
    for network in (model, ours):
        optimiser = torch.optim.SGD(network.parameters(), 0.1)
        for _ in range(5):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(x), labels)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    np.testing.assert_allclose(losses[5:], losses[:5], rtol=2e-3)
    assert losses[4] < losses[0]


def test_another_device_is_refused(torch):
    if not ON_GPU:
        pytest.skip("needs arrays on two devices")
    x = torch.ones(4, 3, device=DEVICE)
    with pytest.raises(ValueError, match="cpu"):
        bnfast.batch_norm(x, residual=x.cpu())


# --- CuPy and JAX ---------------------------------------------------------------------------------


@pytest.mark.skipif(not ON_GPU, reason="CuPy has arrays on GPUs only")
def test_cupy():
    cupy = pytest.importorskip("cupy")
    x = numbers((12, 7, 31))
    want, _ = bnfast.batch_norm(x, activation="relu")
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        with stream:
            y, ctx = bnfast.batch_norm(cupy.asarray(x), activation="relu")
            dx = bnfast.batch_norm_backward(cupy.ones_like(y), ctx).dx
            assert isinstance(y, cupy.ndarray) and isinstance(dx, cupy.ndarray)
            np.testing.assert_allclose(cupy.asnumpy(y), want, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not ON_GPU, reason="tests/dlpack has JAX's arrays on the CPU")
def test_jax():
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no GPU")
    x = numbers((12, 7, 31))
    y, _ = bnfast.batch_norm(jax.numpy.asarray(x), activation="relu")
    assert isinstance(y, jax.Array) and y.devices() == jax.numpy.asarray(x).devices()
    want, _ = bnfast.batch_norm(x, activation="relu")
    np.testing.assert_allclose(np.asarray(y), want, rtol=1e-5, atol=1e-5)
