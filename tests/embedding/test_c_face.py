"""Every function of bnfast/bnfast.h, called by ctypes, gives the bits of the Python functions."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cases import assert_same_bits, numbers

import bnfast
from embedding import c_face
from embedding.c_face import call, function, gradient_sums, moments, state_for, tensor

pytestmark = [pytest.mark.core, c_face.needs_library]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
SHAPE, CHANNELS = (5, 6, 7), 6
RELU, LEAKY_RELU, SILU = 1, 2, 5
INVERTED, CLASSIC = 0, 1


def parameters(x: np.ndarray, shape: tuple[int, ...] = (CHANNELS,)) -> tuple[np.ndarray, ...]:
    kind = np.float64 if x.dtype == np.float64 else np.float32
    return numbers(shape, kind, 1), numbers(shape, kind, 2)


def gradients(x: np.ndarray, count: int, residual: bool = False) -> tuple[c_face.Struct, list]:
    """The struct of results, and the arrays dx, dgamma, dbeta, dresidual that they are in."""
    results = [np.empty_like(x), np.empty(count), np.empty(count)]
    results.append(np.empty_like(x) if residual else None)
    dx, dgamma, dbeta, dresidual = results
    fields = {"dx": tensor(dx), "dresidual": tensor(dresidual), "dgamma": dgamma, "dbeta": dbeta}
    return c_face.NormGradients(**fields), results


def as_python(x: np.ndarray, results: list, shape: tuple[int, ...] = (CHANNELS,)) -> list:
    """With dgamma and dbeta rounded as the Python functions round them."""
    kind = np.float64 if x.dtype == np.float64 else np.float32
    dx, dgamma, dbeta, dresidual = results
    return [dx, dgamma.astype(kind).reshape(shape), dbeta.astype(kind).reshape(shape), dresidual]


def strided(array: np.ndarray) -> np.ndarray:
    """The same numbers with their last axis first in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, -1, 0)), 0, -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", [np.copy, strided])
def test_batch_norm_with_all_that_it_takes(dtype, view):
    x, residual, dy = (view(numbers(SHAPE, dtype, seed)) for seed in range(3))
    gamma, beta = parameters(x)
    where = np.random.default_rng(3).random((5, 1, 7)) < 0.8
    y, dense = np.empty_like(x), view is np.copy
    inputs = c_face.NormInputs(
        x=tensor(x, strides=not dense),
        gamma=tensor(gamma),
        beta=tensor(beta),
        residual=tensor(residual),
        where=tensor(where),
    )
    options = c_face.norm_options(eps=1e-3, activation=SILU, dropout=0.3, seed=7, offset=2)
    state = state_for("batch_norm", x, 1)
    call("batch_norm", inputs, options, tensor(y), *state)
    fields = {"x": tensor(x), "residual": tensor(residual), "where": tensor(where)}
    backward = c_face.NormBackwardInputs(**fields, dy=tensor(dy))
    results, arrays = gradients(x, CHANNELS, residual=True)
    call("batch_norm_backward", backward, *state, results)

    want, ctx = bnfast.batch_norm(
        *(x, gamma, beta),
        **{"eps": 1e-3, "residual": residual, "where": where, "activation": "silu"},
        **{"dropout": 0.3, "seed": 7, "offset": 2},
    )
    assert_same_bits([y], [want])
    assert_same_bits(as_python(x, arrays), bnfast.batch_norm_backward(dy, ctx))
    measured = moments(CHANNELS)
    call("norm_state_moments", *state, measured)
    assert_same_bits(c_face.arrays_of(measured, ctx.moments), ctx.moments._arrays())


def test_a_state_can_be_moved_and_stored(tmp_path):
    x, dy = numbers(SHAPE), numbers(SHAPE, seed=1)
    memory, size = state_for("batch_norm", x, 1)
    y = np.empty_like(x)
    call(
        "batch_norm", c_face.NormInputs(x=tensor(x)), c_face.norm_options(), tensor(y), memory, size
    )
    memory.tofile(tmp_path / "state")
    memory[:] = np.nan
    moved = np.fromfile(tmp_path / "state", np.float64)
    results, arrays = gradients(x, CHANNELS)
    backward = c_face.NormBackwardInputs(x=tensor(x), dy=tensor(dy))
    call("batch_norm_backward", backward, moved, size, results)
    _, ctx = bnfast.batch_norm(x, np.ones(6, np.float32), np.zeros(6, np.float32))
    assert_same_bits(as_python(x, arrays), bnfast.batch_norm_backward(dy, ctx))
    with pytest.raises(ValueError, match="state holds none"):
        call("batch_norm_backward", backward, memory, size, results)


def test_in_place():
    x = numbers(SHAPE)
    y, state = x.copy(), state_for("batch_norm", x, 1)
    view = tensor(y)
    options = c_face.norm_options(activation=LEAKY_RELU, activation_slope=0.25)
    call("batch_norm", c_face.NormInputs(x=view), options, view, *state)
    want, _ = bnfast.batch_norm(x, activation="leaky_relu", activation_slope=0.25)
    assert_same_bits([y], [want])


def test_statistics_and_sums_of_a_shared_batch():
    parts = numbers((2, *SHAPE))
    dys = numbers((2, *SHAPE), seed=1)
    gamma, beta = parameters(parts)
    total, other = moments(CHANNELS), moments(CHANNELS)
    call("measure", tensor(parts[0]), None, 1, total)
    call("measure", tensor(parts[1]), None, 1, other)
    call("merge_moments", total, other)
    want = bnfast.moments(parts[0]) + bnfast.moments(parts[1])
    assert_same_bits(c_face.arrays_of(total, want), want._arrays())

    states, sums, contexts = [], [], []
    for x, dy in zip(parts, dys, strict=True):
        state, y, own = state_for("batch_norm", x, 1), np.empty_like(x), gradient_sums(CHANNELS)
        inputs = c_face.NormInputs(x=tensor(x), gamma=tensor(gamma), beta=tensor(beta))
        options = c_face.norm_options()
        call("batch_norm_with_stats", inputs, options, total, tensor(y), *state)
        backward = c_face.NormBackwardInputs(x=tensor(x), dy=tensor(dy))
        call("batch_norm_backward_sums", backward, *state, own)
        want_y, ctx = bnfast.batch_norm(x, gamma, beta, stats=want)
        assert_same_bits([y], [want_y])
        states.append(state), sums.append(own), contexts.append(ctx)
    call("merge_gradient_sums", sums[0], sums[1])
    whole = bnfast.batch_norm_backward_sums(dys[0], contexts[0])
    whole += bnfast.batch_norm_backward_sums(dys[1], contexts[1])
    assert_same_bits(c_face.arrays_of(sums[0], whole), whole._arrays())

    results, arrays = gradients(parts[1], CHANNELS)
    backward = c_face.NormBackwardInputs(x=tensor(parts[1]), dy=tensor(dys[1]))
    call("batch_norm_backward_with_sums", backward, *states[1], sums[0], results)
    want_grads = bnfast.batch_norm_backward(dys[1], contexts[1], sums=whole)
    assert_same_bits(as_python(parts[1], arrays), want_grads)


def test_given_statistics():
    x, dy = numbers(SHAPE), numbers(SHAPE, seed=1)
    gamma, beta = parameters(x)
    mean, var = numbers((CHANNELS,)), np.abs(numbers((CHANNELS,), seed=5))
    inputs = c_face.NormInputs(x=tensor(x), gamma=tensor(gamma), beta=tensor(beta))
    options, state = (
        c_face.norm_options(activation=RELU, eps_placement=1),
        state_for("batch_norm", x, 1),
    )
    y, frozen = np.empty_like(x), np.empty_like(x)
    given = tensor(mean), tensor(var)
    call("batch_norm_inference", inputs, *given, options, tensor(y))
    call("batch_norm_frozen", inputs, *given, options, tensor(frozen), *state)
    results, arrays = gradients(x, CHANNELS)
    backward = c_face.NormBackwardInputs(x=tensor(x), dy=tensor(dy))
    call("batch_norm_backward", backward, *state, results)

    more = {"activation": "relu", "eps_placement": "std"}
    assert_same_bits([y], [bnfast.batch_norm_inference(x, mean, var, gamma, beta, **more)])
    want, ctx = bnfast.batch_norm_frozen(x, mean, var, gamma, beta, **more)
    assert_same_bits([frozen], [want])
    assert_same_bits(as_python(x, arrays), bnfast.batch_norm_backward(dy, ctx))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("before", [False, True])
def test_norms_of_the_last_axes(name, before):
    x, residual, dy, dh = (numbers(SHAPE, np.float32, seed) for seed in range(4))
    gamma, beta = parameters(x, SHAPE[1:])
    if name == "rms_norm":
        beta = None
    y, h, state = np.empty_like(x), np.empty_like(x), state_for("layer_norm", x, 1)
    inputs = c_face.NormInputs(
        x=tensor(x),
        gamma=tensor(gamma),
        beta=tensor(beta),
        residual=tensor(residual) if before else None,
    )
    dropout = 0.25 if before else 0.0
    options = c_face.norm_options(axis=1, eps=1e-4, dropout=dropout, seed=9)
    call(name, inputs, options, tensor(y), tensor(h) if before else None, *state)
    results, arrays = gradients(x, gamma.size, residual=before)
    backward = c_face.NormBackwardInputs(x=tensor(h if before else x), dy=tensor(dy), dh=tensor(dh))
    call("norm_backward", backward, *state, results)

    more = {"residual": residual, "dropout": dropout, "seed": 9} if before else {}
    more |= {} if beta is None else {"beta": beta}
    want, ctx = getattr(bnfast, name)(x, gamma, axis=(1, 2), eps=1e-4, **more)
    assert_same_bits([y], [want])
    if before:
        assert_same_bits([h], [ctx.h])
    grads = as_python(x, arrays, SHAPE[1:])
    if beta is None:
        grads[2] = None
    assert_same_bits(grads, bnfast.norm_backward(dy, ctx, dh=dh))


@pytest.mark.parametrize("groups", [3, CHANNELS])
def test_norms_of_groups(groups):
    x, dy = numbers(SHAPE), numbers(SHAPE, seed=1)
    gamma, beta = parameters(x)
    inputs = c_face.NormInputs(x=tensor(x), gamma=tensor(gamma), beta=tensor(beta))
    y, options = np.empty_like(x), c_face.norm_options(activation=SILU)
    if groups == CHANNELS:
        state = state_for("instance_norm", x, 1)
        call("instance_norm", inputs, options, tensor(y), *state)
        want, ctx = bnfast.instance_norm(x, gamma, beta, activation="silu")
    else:
        state = state_for("group_norm", x, ctypes.c_int64(groups), 1)
        call("group_norm", inputs, ctypes.c_int64(groups), options, tensor(y), *state)
        want, ctx = bnfast.group_norm(x, groups, gamma, beta, activation="silu")
    assert_same_bits([y], [want])
    results, arrays = gradients(x, CHANNELS)
    call("norm_backward", c_face.NormBackwardInputs(x=tensor(x), dy=tensor(dy)), *state, results)
    assert_same_bits(as_python(x, arrays), bnfast.norm_backward(dy, ctx))
    measured = moments(SHAPE[0] * groups)
    call("norm_state_moments", *state, measured)
    assert measured.kept["count"].tolist() == [x.size // (SHAPE[0] * groups)] * (SHAPE[0] * groups)
    assert_same_bits([measured.kept["mean"].astype(np.float32)], [ctx.mean.ravel()])


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_dropout(mode):
    x, axes = numbers(SHAPE), c_face.int32s([2])
    number = ["inverted", "classic"].index(mode)
    options = c_face.DropoutOptions(
        **{"rate": 0.4, "seed": 11, "offset": 3, "mode": number},
        **{"broadcast_axes": axes, "num_broadcast_axes": 1},
    )
    y, dx, inference, gradient = (np.empty_like(x) for _ in range(4))
    call("dropout", tensor(x), options, tensor(y))
    call("dropout_backward", tensor(x), options, tensor(dx))
    call("dropout_inference", tensor(x), 0.4, number, tensor(inference))
    call("dropout_inference_backward", tensor(x), 0.4, number, tensor(gradient))
    mask = np.empty(SHAPE, np.bool_)
    call("dropout_mask", np.array(SHAPE, np.int64), len(SHAPE), options, mask)

    more = {"seed": 11, "offset": 3, "broadcast_axes": (2,)}
    want, ctx = bnfast.dropout(x, 0.4, mode=mode, **more)
    assert_same_bits([y, dx], [want, bnfast.dropout_backward(x, ctx)])
    assert_same_bits([mask], [bnfast.dropout_mask(SHAPE, 0.4, **more)])
    expected = bnfast.dropout_inference(x, 0.4, mode=mode)
    assert_same_bits([inference, gradient], [expected, expected])


def test_the_library_and_the_machine():
    text = ctypes.c_char_p
    assert function("version", text)().decode() == bnfast.__version__
    header = Path(bnfast.get_include(), "bnfast", "bnfast.h").read_text()
    version = re.search(r"#define BNFAST_ABI_VERSION (\d+)", header)
    assert version and function("abi_version")() == int(version[1])
    names = [function("target_name", text)(i) for i in range(function("num_targets")())]
    assert tuple(name.decode() for name in names) == bnfast.targets()
    assert function("target_name", text)(len(names)) is None
    assert function("target_name", text)(-1) is None
    active = bnfast.active_target()
    assert function("active_target", text)().decode() == active
    try:
        call("select_target", ctypes.c_char_p(names[-1]))
        assert bnfast.active_target() == bnfast.targets()[-1]
    finally:
        call("select_target", ctypes.c_char_p(active.encode()))
    assert function("usable_cpus")() >= 1
    assert function("threading_name", text)() in (b"OpenMP", b"std::thread")
    with bnfast.num_threads(bnfast.get_num_threads()):
        call("set_num_threads", ctypes.c_int64(3))
        assert function("num_threads")() == bnfast.get_num_threads() == 3


def test_these_are_all_functions():
    header = Path(bnfast.get_include(), "bnfast", "bnfast.h").read_text()
    declared = set(re.findall(r"^BNFAST_API .*?\bbnfast_(\w+)\(", header, re.MULTILINE))
    here = Path(__file__).read_text() + Path(c_face.__file__).read_text()
    states = set(re.findall(r'state_for\(\s*"(\w+)"', here))
    called = set(re.findall(r'\b(?:call|function)\(\s*"(\w+)"', here))
    called |= {f"{name}_state_bytes" for name in states} | {"layer_norm", "rms_norm"}
    assert len(declared) > 30
    assert declared == called
