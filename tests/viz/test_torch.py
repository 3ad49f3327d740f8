"""Batch norms of PyTorch models under the recorder: torch's own and bnfast.torch's."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import bnfast.viz

torch = pytest.importorskip("torch")
import bnfast.torch  # noqa: E402


def make_model(library):
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), library.BatchNorm2d(4))
    return torch.nn.Sequential(library.BatchNorm2d(3), inner, torch.nn.InstanceNorm2d(4))


@pytest.mark.parametrize("library", [torch.nn, bnfast.torch], ids=["torch", "bnfast.torch"])
def test_a_record_is_what_numpy_says_of_the_call(library):
    model, inputs = make_model(library), []
    model[1][1].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        model[1][1].weight.copy_(torch.arange(4.0))
    with bnfast.viz.Recorder(every=2).watch(model) as recorder:
        for seed in range(3):
            torch.manual_seed(seed)
            y = model[1](model[0](torch.randn(4, 3, 6, 6) * (seed + 1)))
        model.eval()(torch.randn(4, 3, 6, 6))
    assert recorder.layers == ("0", "1.1")
    assert [record.step for record in recorder["1.1"]] == [0, 2]
    record, x = recorder["1.1"][-1], inputs[2].detach().numpy()
    assert record.input == bnfast.viz.Distribution.of(x, 40)
    assert record.output == bnfast.viz.Distribution.of(y.detach().numpy(), 40)
    channels = {name: numbers.picked for name, numbers in record.channels.items()}
    np.testing.assert_allclose(channels["batch_mean"], x.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(channels["batch_var"], x.var((0, 2, 3)), rtol=1e-5)
    assert channels["running_mean"] == model[1][1].running_mean.tolist()
    assert channels["running_var"] == model[1][1].running_var.tolist()
    assert channels["gamma"] == [0, 1, 2, 3] and channels["beta"] == [0, 0, 0, 0]


@pytest.mark.parametrize("library", [torch.nn, bnfast.torch], ids=["torch", "bnfast.torch"])
def test_the_input_may_be_given_by_its_name(library):
    norm, x = library.BatchNorm1d(2), torch.randn(8, 2)
    with bnfast.viz.Recorder().watch(norm) as recorder:
        norm(input=x)
    assert recorder["BatchNorm1d"][0].input == bnfast.viz.Distribution.of(x.numpy(), 40)


def test_modules_in_a_mapping_give_their_name_to_what_is_in_them():
    norm = torch.nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    with bnfast.viz.Recorder().watch({"net": make_model(torch.nn), "last": norm}) as recorder:
        norm(torch.randn(4, 2, dtype=torch.float64))
    assert recorder.layers == ("net.0", "net.1.1", "last")
    assert list(recorder["last"][0].channels) == ["batch_mean", "batch_var"]


def test_bfloat16():
    norm, x = torch.nn.BatchNorm1d(2).bfloat16(), torch.randn(8, 2).bfloat16()
    with bnfast.viz.Recorder().watch(norm) as recorder:
        norm(x)
    expected = bnfast.viz.Distribution.of(x.float().numpy(), 40)
    assert recorder["BatchNorm1d"][0].input == expected


def test_hooks_are_removed_and_copies_are_not_watched():
    model = make_model(torch.nn)
    with bnfast.viz.Recorder(every=1).watch(model) as recorder:
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            copied(torch.randn(4, 3, 6, 6))
    model(torch.randn(4, 3, 6, 6))
    assert recorder["0"] == () and not model[0]._forward_hooks


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(ValueError, match=r"^Recorder\.watch: Linear has no batch norm"):
        bnfast.viz.Recorder().watch(torch.nn.Linear(2, 2))
