"""On a GPU every function gives the textbook's results, with the tests' own arrays alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import pytest
import reference
from cases import DTYPES, Case, away_from_kinks, check_forward, check_gradients, numbers
from gpu_arrays import BFLOAT16, Block, DeviceArray, to_device
from gpu_calls import OnDevice
from gpu_memory import memory, why_unavailable
from hypothesis import assume, given, settings
from norms import cases as norm_cases
from norms.cases import BEFORE, NAMES, case_of

import bnfast

if (reason := why_unavailable()) is not None:
    pytest.skip(reason, allow_module_level=True)

ON_GPU = memory().is_gpu
EXAMPLES = int(os.environ.get("BNFAST_GPU_EXAMPLES", 200 if ON_GPU else 30))
device = OnDevice()


@pytest.fixture(autouse=True, scope="module")
def calls_on_device() -> Iterator[None]:
    """What compares results with the textbook calls the device in place of the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "bnfast", device)
        patch.setattr(norm_cases, "bnfast", device)
        yield


# --- against the textbook, for any shape, dtype, view and option ----------------------------------


@settings(max_examples=EXAMPLES)
@given(cases.cases())
def test_batch_norm(case: Case):
    check_forward(case)
    _, ref = reference.batch_norm(case.x, case.gamma, case.beta, **case.options)
    assume(away_from_kinks(case, ref))
    _, ctx = device.batch_norm(case.x, case.gamma, case.beta, **case.options)
    check_gradients(case, device.batch_norm_backward(case.dy, ctx), ref)


@settings(max_examples=EXAMPLES)
@given(norm_cases.norm_cases())
def test_norms(case: norm_cases.NormCase):
    ctx, ref = norm_cases.check_forward(case)
    assume(norm_cases.away_from_kinks(case, ref))
    norm_cases.check_gradients(case, case.backward(ctx), ref)


@settings(max_examples=EXAMPLES // 2)
@given(cases.cases())
def test_every_function_gives_the_same_bits_again(case: Case):
    cases.assert_equal_bits(cases.bits_of_every_result(case), cases.bits_of_every_result(case))


@settings(max_examples=EXAMPLES // 2)
@given(cases.cases())
def test_given_statistics(case: Case):
    """Inference and frozen statistics, about which little can go wrong, are as on the CPU."""
    channels = case.x.shape[case.axis]
    mean, var = np.linspace(0.5, 2, 2 * channels).reshape(2, -1)
    options = {k: v for k, v in case.options.items() if k not in ("dropout", "seed")}
    arguments = case.x, mean, var, case.gamma, case.beta
    want = bnfast.batch_norm_inference(*arguments, **options)
    got = device.batch_norm_inference(*arguments, **options)
    frozen, _ = device.batch_norm_frozen(*arguments, **options)
    cases.assert_near(got, want, np.abs(want.astype(np.float64)) + 8)
    cases.assert_same_bits([frozen], [got])


# --- larger, where kernels are cut in other ways --------------------------------------------------

SHAPES = {
    **{"images": (32, 64, 28, 28), "small images": (64, 512, 7, 7), "odd": (13, 37, 57, 57)},
    **{"long channels": (4, 2, 400_009), "rows": (4096, 256), "few rows": (33, 4099)},
    **{"many rows": (300_007, 5), "short channels": (2, 10_007, 3), "one channel": (5, 1, 99_991)},
}
if not ON_GPU:  # kernels run some thousand times slower on the CPU
    SHAPES = {"images": (4, 6, 7, 7), "odd": (3, 5, 9, 13), "rows": (70, 36), "long": (2, 2, 4999)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_larger_batch_norms(axis, dtype, shape):
    shape = shape if axis == 1 else (shape[0], *shape[2:], shape[1])
    x, dy, residual = (numbers(shape, dtype, seed) for seed in range(3))
    gamma, beta = numbers((2, shape[axis]), seed=3)
    options = {"axis": axis, "residual": residual, "activation": "silu"}
    case = Case(x, dy, gamma, beta, options)
    check_forward(case)
    _, ref = reference.batch_norm(x, gamma, beta, **options)
    _, ctx = device.batch_norm(x, gamma, beta, **options)
    check_gradients(case, device.batch_norm_backward(dy, ctx), ref)


@pytest.mark.parametrize("shape", [(257, 256), (64, 8192), (5, 65_536), (3, 100_003), (8191, 96)])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16], ids=str)
@pytest.mark.parametrize("name", BEFORE)
def test_longer_rows(name, dtype, shape):
    shape = shape if ON_GPU else (3, min(shape[1], 1024))
    case = case_of(name, shape, dtype, residual=numbers(shape, dtype, 7), dropout=0.1, seed=3)
    ctx, ref = norm_cases.check_forward(case)
    norm_cases.check_gradients(case, case.backward(ctx), ref)


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["inverted", "classic", "alpha"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dropout_has_the_bits_of_the_cpu(dtype, mode):
    for shape, axes in (((1, 37), ()), ((5, 129, 7), ()), ((6, 9, 5), (2,)), ((33, 4, 8), (0, 1))):
        for view in ("C", "F", "strided"):
            x = cases.as_view(numbers(shape, dtype), view)
            for offset in (0, 5):
                options = {"seed": 2**63 + 11, "offset": offset, "mode": mode}
                arguments = x, 0.3
                want, ctx = bnfast.dropout(*arguments, broadcast_axes=axes, **options)
                got, _ = device.dropout(*arguments, broadcast_axes=axes, **options)
                cases.assert_same_bits([got], [want])
                want, got = bnfast.dropout_backward(x, ctx), device.dropout_backward(x, ctx)
                cases.assert_same_bits([got], [want])


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_mask_behind_a_norm_is_that_of_the_cpu(dtype, axis):
    x = numbers((9, 21, 11), dtype)
    y, _ = device.batch_norm(x, axis=axis, activation="sigmoid", dropout=0.5, seed=4, offset=2)
    np.testing.assert_array_equal(y != 0, bnfast.dropout_mask(x.shape, 0.5, seed=4, offset=2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_where_memory_begins(axis, dtype):
    """Bits depend on whether vectors of 16 bytes can be read, and on nothing else of an address."""
    x, dy = numbers((8, 16, 48), dtype), numbers((8, 16, 48), dtype, 1)

    def results(shift: int) -> list[np.ndarray]:
        y, ctx = bnfast.batch_norm(to_device(x, shift), axis=axis, out=to_device(x, shift))
        return [y.numpy(), bnfast.batch_norm_backward(to_device(dy, shift), ctx).dx.numpy()]

    aligned, odd = results(0), results(1)
    cases.assert_same_bits(results(8), aligned)
    cases.assert_same_bits(results(9), odd)
    for a, b in zip(odd, aligned, strict=True):
        cases.assert_near(a, b, np.abs(b.astype(np.float64)) + 1, units=8)


# --- few elements, very many, and several threads -------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (2, 0, 5), (0, 0), (1, 1), (1, 7, 1)])
def test_none_or_one(shape):
    for dtype in DTYPES:
        x = np.zeros(shape, dtype)
        y, ctx = device.batch_norm(x, residual=x, activation="relu")
        grads = device.batch_norm_backward(x, ctx)
        assert y.shape == grads.dx.shape == grads.dresidual.shape == shape
        assert not y.any() and not grads.dx.any()
        assert device.dropout(x, 0.5, seed=1)[0].shape == shape
    for name in NAMES if len(shape) == 3 and shape[1] != 0 else BEFORE:
        case = case_of(name, shape, num_groups=1) if name == "group_norm" else case_of(name, shape)
        y, ctx = case.forward()
        assert y.shape == case.backward(ctx).dx.shape == shape


def test_two_threads():
    """Each has its own arrays; the device is shared."""
    inputs = [numbers((16, 24, 40), np.float32, seed) for seed in range(2)]

    def results(x: np.ndarray) -> tuple[bytes, bytes]:
        y, ctx = device.batch_norm(x, activation="relu")
        return y.tobytes(), device.batch_norm_backward(x, ctx).dx.tobytes()

    want = [results(x) for x in inputs]
    with ThreadPoolExecutor(2) as pool:
        for got in pool.map(results, inputs * (20 if ON_GPU else 2)):
            assert got in want


@pytest.mark.skipif(not ON_GPU, reason="takes a GPU's memory and speed")
@pytest.mark.parametrize("layout", ["rows", "planes"])
def test_more_than_two_to_the_31_elements(layout):
    """x repeats one piece, so that its statistics are known and any part of y can be checked."""
    channels, repeats = 1024, 515
    piece = numbers((4096, channels), np.float16)
    elements = repeats * piece.size
    assert elements > 2**31
    if memory().free_bytes() < 5 * 2 * elements:
        pytest.skip("the GPU has less memory free than it takes")

    def array(shape: tuple[int, ...]) -> DeviceArray:
        block = Block(2 * elements)
        strides = [2 * math.prod(shape[k + 1 :]) for k in range(len(shape))]
        return DeviceArray(block, block.address, shape, strides, piece.dtype)

    # As planes two channels, each of which has a half of the pieces, and a half of the one between.
    shape = (repeats * 4096, channels) if layout == "rows" else (1, 2, elements // 2)
    x, y = array(shape), array(shape)
    for k in range(repeats):
        memory().write(x.address + k * piece.nbytes, piece.ctypes.data, piece.nbytes)
    memory().fill(y.address, 0xFF, 2 * elements)

    wide = piece.astype(np.float64)
    mean, var = wide.mean(0), wide.var(0)
    if layout == "planes":
        halves = wide.reshape(2, -1)
        weights = np.array([[repeats // 2 + 1, repeats // 2], [repeats // 2, repeats // 2 + 1]])
        mean = weights @ halves.sum(1) / (elements // 2)
        var = weights @ (halves**2).sum(1) / (elements // 2) - mean**2
    bnfast.batch_norm(x, out=y, activation="sigmoid", dropout=0.5, seed=9)

    length = 3 * channels
    for first in (0, 2**31 - channels, 2**31, elements - length):
        at = np.arange(first, first + length)
        of_channel = at % channels if layout == "rows" else at // (elements // 2)
        values = piece.reshape(-1)[at % piece.size].astype(np.float64)
        z = (values - mean[of_channel]) / np.sqrt(var[of_channel] + 1e-5)
        want = np.where(reference.kept(at.astype(np.uint64), 0.5, 9, 0), 2 / (1 + np.exp(-z)), 0)
        part = DeviceArray(None, y.address + 2 * first, (length,), (2,), piece.dtype).numpy()
        np.testing.assert_allclose(part.astype(np.float64), want, rtol=2**-10, atol=1e-6)
