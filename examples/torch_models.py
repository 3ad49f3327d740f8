"""The networks of torch_steps.py, in plain PyTorch, and what convert is told of their blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnfast.torch import fused


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + x): the block of ResNet-18 (He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        return self.relu(y)


class FusedBlock(BasicBlock):
    """The same block, which tells what may be one pass over memory: batch norm, sum and ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        y = fused(self.bn1, self.conv1(x), activation=self.relu)
        residual = self.downsample(x)
        return fused(self.bn2, self.conv2(y), residual=residual, activation=self.relu)


def resnet18(channels: int, classes: int) -> nn.Module:
    """Return ResNet-18 for images of three colours; it has 64 channels in its first layer."""
    conv = nn.Conv2d(3, channels, 7, 2, padding=3, bias=False)
    stem = [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    blocks: list[nn.Module] = []
    for stride in (1, 2, 2, 2):
        width = channels * stride
        blocks += [BasicBlock(channels, width, stride), BasicBlock(width, width, 1)]
        channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*stem, *blocks, *head)


class LanguageModel(nn.Module):
    """A Transformer that predicts the next byte of a text from those before it."""

    def __init__(self, width: int, heads: int, layers: int, tokens: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(tokens))

    def forward(self, text: Tensor) -> Tensor:
        x = self.dropout(self.embedding(text) + self.positions)
        return self.head(self.encoder(x, mask=self.mask, is_causal=True))


# What convert is told with fuse=: the class of a block, and the subclass that runs in its place.
FUSE: dict[type[nn.Module], type[nn.Module]] = {BasicBlock: FusedBlock}
