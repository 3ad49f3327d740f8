"""Layers, contexts and statistics that are made of arrays on a GPU."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import bnfast
from bnfast._libraries import to_library, to_numpy
from cuda_arrays.device import Array
from cuda_arrays.exchange import Shared


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


LAYERS = {
    "BatchNorm": lambda: bnfast.BatchNorm(6, activation="relu"),
    "LayerNorm": lambda: bnfast.LayerNorm(7),
    "RMSNorm": lambda: bnfast.RMSNorm(7),
    "GroupNorm": lambda: bnfast.GroupNorm(3, 6),
    "InstanceNorm": lambda: bnfast.InstanceNorm(6, affine=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_arrays_on_gpus_and_keep_parameters_of_numpy(name):
    x, dy = values((5, 6, 7)), values((5, 6, 7), 1)
    layer, layer_ = LAYERS[name](), LAYERS[name]()
    y, y_ = layer(x), layer_(Array(x))
    np.testing.assert_array_equal(y_.array, y)
    np.testing.assert_array_equal(layer_.backward(Array(dy)).dx.array, layer.backward(dy).dx)
    assert type(layer_.dgamma) is np.ndarray
    np.testing.assert_array_equal(layer_.dgamma, layer.dgamma)
    layer.eval()
    layer_.eval()
    np.testing.assert_array_equal(layer_(Array(x)).array, layer(x))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_of_contexts_are_numpys(clone):
    x, dy, gamma = values((5, 6, 7)), values((5, 6, 7), 1), values(6)
    expected = bnfast.batch_norm_backward(dy, bnfast.batch_norm(x, gamma)[1])
    ctx = clone(bnfast.batch_norm(Array(x), Array(gamma))[1])
    for result, gradient in zip(bnfast.batch_norm_backward(dy, ctx), expected, strict=True):
        assert (result is None) == (gradient is None)
        if gradient is not None:
            np.testing.assert_array_equal(result, gradient)


def test_arrays_on_gpus_become_numpys_and_back():
    x = values((5, 6, 7))
    for view in (x, x[::2, ::-1, 3:1:-1], x[1:1], np.broadcast_to(x[:1], x.shape)):
        back = to_numpy("test", "x", Array(view))
        assert type(back) is np.ndarray
        np.testing.assert_array_equal(back, view)
    made = to_library(x.T, Array(x))
    assert type(made) is Array
    np.testing.assert_array_equal(made.array, x.T)


def test_weights_are_folded_beside_the_ones_that_are_given():
    weight, mean, var = values((4, 6))[:, ::2], values(4, 1), values(4, 2) ** 2
    expected = bnfast.fold_batch_norm(weight, None, mean, var)
    result = bnfast.fold_batch_norm(Array(weight, 1), None, Array(mean), var)
    for got, want in zip(result, expected, strict=True):
        assert got.index == 1
        np.testing.assert_array_equal(got.array, want)


@pytest.mark.parametrize("kind", [Array, Shared])
def test_a_context_is_made_again_from_its_numbers_on_the_gpu(kind):
    x, dy, gamma = values((5, 6, 7)), values((5, 6, 7), 1), values(6)
    ctx = bnfast.batch_norm(kind(x), gamma)[1]
    numbers = ctx.numbers
    assert type(numbers) is kind
    assert numbers.array.tolist() == bnfast.batch_norm(x, gamma)[1].numbers.tolist()
    again = bnfast.BatchNormContext.__new__(bnfast.BatchNormContext)
    again.__setstate__(ctx.__getstate__() | {"values": numbers})
    again.set_arrays(kind(x))
    expected, result = (bnfast.batch_norm_backward(kind(dy), c) for c in (ctx, again))
    assert type(result.dgamma) is kind
    for name in ("dx", "dgamma"):
        np.testing.assert_array_equal(getattr(result, name).array, getattr(expected, name).array)
    new = bnfast.BatchNormContext.__new__(bnfast.BatchNormContext)
    with pytest.raises(ValueError, match="another number of values"):
        new.__setstate__(ctx.__getstate__() | {"values": kind(values(3))})
