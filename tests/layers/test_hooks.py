"""Forward hooks: as PyTorch's, in both modes, and of one layer alone."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from functools import partial

import numpy as np
import pytest

import bnfast
from layers.cases import LAYERS, data, make

ALL = {**{name: partial(make, name) for name in LAYERS}, "Dropout": bnfast.Dropout}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_a_hook_sees_the_arguments_and_the_output_of_each_call(name, training):
    layer, x, seen = ALL[name](), data(), []
    layer.train(training)
    handle = layer.register_forward_hook(lambda *call: seen.append(call))
    y = layer(x)
    ((hooked, args, output),) = seen
    assert hooked is layer and args[0] is x and output is y
    assert all(arg is None for arg in args[1:])
    handle.remove()
    handle.remove()
    layer(x)
    assert len(seen) == 1


def test_all_arguments_of_batch_norm_are_seen_in_their_order():
    bn, x, seen = make(), data(), []
    residual, where = data(2), np.arange(6).reshape(6, 1, 1) % 2 == 0
    bn.register_forward_hook(lambda layer, args, output: seen.append(args))
    bn(x, where=where, residual=residual)
    ((first, second, third),) = seen
    assert first is x and second is residual and third is where


def test_hooks_run_in_their_order_and_may_replace_the_output():
    bn = make()
    bn.register_forward_hook(lambda layer, args, output: output + 1)
    bn.register_forward_hook(lambda layer, args, output: None)
    plain = copy.deepcopy(bn)(data())
    with bn.register_forward_hook(lambda layer, args, output: output * 2):
        np.testing.assert_array_equal(bn(data()), (plain + 1) * 2)
    np.testing.assert_array_equal(bn(data()), plain + 1)


@pytest.mark.parametrize("name", ALL)
def test_copies_and_pickles_have_no_hooks(name):
    layer, calls = ALL[name](), []
    layer.register_forward_hook(lambda *call: calls.append(call))  # no lambda can be pickled
    for copied in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        copied(data())
        copied.register_forward_hook(lambda *call: None)
    assert not calls
    layer(data())
    assert len(calls) == 1


def test_a_hook_may_remove_itself_while_it_runs():
    bn, calls = make(), []

    def once(*call):
        calls.append(call)
        handle.remove()

    handle = bn.register_forward_hook(once)
    bn.register_forward_hook(lambda *call: calls.append(call))
    bn(data())
    bn(data())
    assert len(calls) == 3


def test_a_handle_does_not_keep_its_layer():
    bn = make()
    gone = weakref.ref(bn)
    handle = bn.register_forward_hook(lambda *call: None)
    del bn
    gc.collect()
    assert gone() is None
    handle.remove()


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"^BatchNorm\.register_forward_hook: hook is of type int,"):
        make().register_forward_hook(1)
