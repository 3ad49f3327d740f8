"""The samples with which PyTorch tests its own functions and modules give the same here."""

from __future__ import annotations

import pytest

from bnfast_torch.cases import assert_close, door, torch

methods = pytest.importorskip(
    "torch.testing._internal.common_methods_invocations", exc_type=ImportError
)
modules = pytest.importorskip("torch.testing._internal.common_modules", exc_type=ImportError)

NORMS = ("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm")
OPERATORS = {
    op.name.removeprefix("nn.functional."): op
    for op in methods.op_db
    if op.name.removeprefix("nn.functional.") in NORMS and not op.variant_test_name
}
NAMES = [name for name in door.__all__ if isinstance(getattr(door, name), type)]
INFOS = {
    info.name.removeprefix("nn."): info
    for info in modules.module_db
    if info.name.removeprefix("nn.") in NAMES
}


def copied(value, dtype):
    """A leaf like `value` in a floating-point dtype."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    return value.detach().to(dtype, copy=True).requires_grad_(value.requires_grad)


def is_refused(x, options):
    """What torch computes, with an unspecified result, and bnfast refuses."""
    return options.get("eps", 0) < 0 or (x.dim() < 2 and x.numel() == 0)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_functions(name, dtype):
    compared = 0
    for sample in OPERATORS[name].sample_inputs("cpu", dtype, requires_grad=True):
        if is_refused(sample.input, sample.kwargs):
            with pytest.raises(ValueError):
                getattr(door, name)(sample.input, *sample.args, **sample.kwargs)
            continue
        results = []
        for function, kind in (
            (getattr(door, name), dtype),
            (getattr(torch.nn.functional, name), torch.float64),
        ):
            args = [copied(v, kind) for v in (sample.input, *sample.args)]
            options = {k: copied(v, kind) for k, v in sample.kwargs.items()}
            y = function(*args, **options)
            tensors = [v for v in (*args, *options.values()) if isinstance(v, torch.Tensor)]
            leaves = [t for t in tensors if t.requires_grad]
            dy = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(dtype)
            grads = torch.autograd.grad(y, leaves, dy.to(kind)) if y.requires_grad else ()
            results.append([y, *grads, *(t for t in tensors if not t.requires_grad)])
        for got, want in zip(*results, strict=True):
            if want.numel():
                assert_close(got, want, dtype)
        compared += 1
    assert compared > 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True])
def test_modules(name, training):
    if name not in INFOS:
        pytest.skip("torch has no samples of it")
    info, compared = INFOS[name], 0
    for sample in info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    ):
        made, given = sample.constructor_input, sample.forward_input
        if sample.forward_input is None or (name.startswith("Dropout") and training):
            continue
        results = []
        for kind in (getattr(door, name), getattr(torch.nn, name)):
            torch.manual_seed(0)
            module = kind(*made.args, **made.kwargs).double().train(training)
            args = [copied(v, torch.float64) for v in given.args]
            y = module(*args, **given.kwargs)
            y = y[0] if isinstance(y, tuple) else y  # attention also has its weights
            y.sum().backward()
            results.append([y, args[0].grad, *module.state_dict().values()])
        torch.testing.assert_close(*results, equal_nan=True)
        compared += 1
    assert compared or name.startswith("Dropout") or not training
