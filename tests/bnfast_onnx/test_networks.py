"""Whole networks: those of the example, and what PyTorch exports of all kinds of layers."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from bnfast_onnx.models import NORM, check, feeds, operators, run  # noqa: E402 (after the skip)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_fold.py"


@pytest.mark.parametrize(
    ("network", "norms"), [("resnet18", 20), ("mobilenet", 27), ("perceptron", 4)]
)
def test_networks_of_the_example(network, norms):
    model = runpy.run_path(str(EXAMPLE))[network](32)
    expected = [name for name in operators(model) if name != NORM]
    result = check(model, " ".join(expected))
    assert len(result.folded) == norms and result.left == ()
    # ONNX Runtime's own optimisations agree as well.
    (optimised,) = run(model, feeds(model), optimise=True)
    (folded,) = run(result.model, feeds(model), optimise=True)
    np.testing.assert_allclose(folded, optimised, rtol=1e-5, atol=1e-5 * abs(optimised).max())


def residual(nn):
    """Blocks of a ResNet, with and without a convolution beside them."""

    class Block(nn.Module):
        def __init__(self, channels, outputs, stride):
            super().__init__()
            self.inside = nn.Sequential(
                nn.Conv2d(channels, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
            self.beside = nn.Sequential(
                nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride == 1:
                self.beside = nn.Identity()

        def forward(self, x):
            return (self.inside(x) + self.beside(x)).relu()

    return nn.Sequential(Block(4, 4, 1), Block(4, 6, 2), Block(6, 6, 1)), 7, 0


def mobile(nn):
    """Depthwise convolutions, and at the end batch norm behind a linear layer."""
    layers = [nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    for channels, outputs in ((8, 12), (12, 12)):
        layers += [
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Hardswish(),
            nn.Conv2d(channels, outputs, 1),
            nn.BatchNorm2d(outputs, affine=False),
            nn.ReLU6(),
        ]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9)]
    return nn.Sequential(*layers), 6, 0


def generator(nn):
    """Transposed convolutions, with groups and without."""
    layers = [nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.ConvTranspose2d(8, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), nn.Tanh()]
    return nn.Sequential(*layers), 2, 0


def pre_activation(nn):
    """Batch norm before each convolution: only what follows one can be folded."""
    layers = [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1)]
    layers += [nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1)]
    return nn.Sequential(*layers), 1, 1


@pytest.mark.filterwarnings("ignore")  # the exporter has some of its own
@pytest.mark.parametrize("network", [residual, mobile, generator, pre_activation])
def test_networks_that_pytorch_exports(network):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net, folded, left = network(torch.nn)
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 2)
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    tensor.data.normal_()
    x = torch.randn(2, 4, 8, 8)
    file = io.BytesIO()
    # In this mode PyTorch exports batch norms as they are; otherwise it folds some of them itself.
    preserve = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        net.eval(), (x,), file, dynamo=False, training=preserve, do_constant_folding=False
    )
    model = onnx.load_from_string(file.getvalue())
    assert operators(model).count(NORM) == folded + left

    given = {model.graph.input[0].name: x.numpy()}
    result = check(model, None, given=given)
    assert (len(result.folded), len(result.left)) == (folded, left)
    assert operators(result.model).count(NORM) == left
    with torch.no_grad():
        y = net(x).numpy()
    np.testing.assert_allclose(run(result.model, given)[0], y, rtol=1e-4, atol=1e-5 * abs(y).max())
