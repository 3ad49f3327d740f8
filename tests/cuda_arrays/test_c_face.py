"""Tensors on a GPU through the C face, with the numbers of the state in memory of the device."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from embedding import c_face
from embedding.c_face import Struct, call, moments, state_for, tensor

import bnfast

pytestmark = [pytest.mark.core, c_face.needs_library]
CUDA = 1


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def on_gpu(array: np.ndarray) -> Struct:
    described = tensor(array)
    described.device = CUDA
    return described


def test_batch_norm():
    x, dy, y, dx = (values((5, 6, 7), seed) for seed in range(4))
    dgamma, dbeta = np.empty(6), np.empty(6)
    memory, size = state_for("batch_norm", x, 1)
    numbers = np.full_like(memory, np.nan)
    inputs = c_face.NormInputs(x=on_gpu(x), state_numbers=numbers)
    call("batch_norm", inputs, c_face.norm_options(), on_gpu(y), memory, size)
    want, ctx = bnfast.batch_norm(x, np.ones(6, np.float32), np.zeros(6, np.float32))
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(numbers[6:12], ctx.moments.mean)
    moved = memory.copy()  # it knows where the numbers are
    memory[:] = np.nan
    backward = c_face.NormBackwardInputs(x=on_gpu(x), dy=on_gpu(dy))
    results = c_face.NormGradients(dx=on_gpu(dx), dgamma=dgamma, dbeta=dbeta)
    call("batch_norm_backward", backward, moved, size, results)
    grads = bnfast.batch_norm_backward(dy, ctx)
    np.testing.assert_array_equal(dx, grads.dx)
    np.testing.assert_array_equal(dgamma.astype(np.float32), grads.dgamma)
    here = c_face.NormBackwardInputs(x=tensor(x), dy=tensor(dy))
    with pytest.raises(ValueError, match=r"x is on cpu:0, expected cuda:0 as in the forward call"):
        call("batch_norm_backward", here, moved, size, results)
    measured = moments(6)
    call("norm_state_moments", moved, size, measured)
    np.testing.assert_array_equal(measured.kept["m2"], ctx.moments.m2)


def test_numbers_of_the_state_are_where_x_is():
    x, y = values((5, 6)), values((5, 6))
    memory, size = state_for("batch_norm", x, 1)
    with pytest.raises(ValueError, match=r"state.values is null, expected memory"):
        call("batch_norm", *_forward(on_gpu(x), on_gpu(y)), memory, size)
    with pytest.raises(ValueError, match="state_numbers is there, expected NULL as x is on"):
        call("batch_norm", *_forward(tensor(x), tensor(y), state_numbers=memory), memory, size)


def _forward(x: Struct, y: Struct, **fields: np.ndarray) -> tuple[Struct, ...]:
    return c_face.NormInputs(x=x, **fields), c_face.norm_options(), y


def test_structs_of_older_programs_are_shorter():
    x, y = values((5, 6)), values((5, 6), 1)
    memory, size = state_for("batch_norm", x, 1)
    inputs, options, out = _forward(tensor(x), tensor(y))
    for struct, field in ((inputs, "state_numbers"), (inputs.kept["x"], "stream"), (out, "stream")):
        struct.size = getattr(type(struct), field).offset
        setattr(struct, field, ctypes.c_void_p(1).value)  # not theirs
    call("batch_norm", inputs, options, out, memory, size)
    np.testing.assert_array_equal(y, bnfast.batch_norm(x)[0])
