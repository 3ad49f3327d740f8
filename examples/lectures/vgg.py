"""A small VGG in PyTorch, with noise behind its batch norms if asked, and its gradient."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import nn

import bnfast.torch

CHANNELS = (1, 16, 16, 32, 32, 64, 64)  # of the images, and of each convolution
WITHOUT_NORM, WITH_NORM, NOISY = "without BN", "with BN", "noisy BN"
NOISE_SHIFT, NOISE_SCALE, NOISE_SPREAD = 0.5, 0.25, 0.1
Gradient: TypeAlias = list[torch.Tensor]


class Noise(nn.Module):
    """y = s x + m, where s and m have another distribution at every step of training.

    Each channel draws the centre of m from [-0.5, 0.5] and the centre of s from [1, 1.25], and each
    sample draws its own m and s from 0.1 around them: noise of random mean and variance, as in
    Santurkar et al. (2018, section 2.1). Where they disturb each activation we disturb a channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.shift, self.scale = torch.zeros(()), torch.ones(())

    def draw(self, samples: int, generator: torch.Generator) -> None:
        """Draw the noise of the next batch. It stays the same until the next call."""

        def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
            return low + (high - low) * torch.rand(*shape, 1, 1, generator=generator)

        each = (samples, self.channels)
        centre = uniform(-NOISE_SHIFT, NOISE_SHIFT, self.channels)
        self.shift = centre + uniform(-NOISE_SPREAD, NOISE_SPREAD, *each)
        centre = uniform(1.0, 1.0 + NOISE_SCALE, self.channels)
        self.scale = centre + uniform(-NOISE_SPREAD, NOISE_SPREAD, *each)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Disturb x in training mode."""
        return self.scale * x + self.shift if self.training else x


def build(kind: str, seed: int) -> nn.Sequential:
    """Build six convolutions and a linear head; all kinds start from the same weights."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(pairwise(CHANNELS)):
        convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=kind == WITHOUT_NORM)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        layers.append(convolution)
        if kind != WITHOUT_NORM:
            layers.append(bnfast.torch.BatchNorm2d(fan_out))
        if kind == NOISY:
            layers.append(Noise(fan_out))
        layers.append(nn.ReLU())
        if index in (1, 3):
            layers.append(nn.MaxPool2d(2))
    head = nn.Linear(CHANNELS[-1], 10)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def draw_noise(network: nn.Sequential, samples: int, generator: torch.Generator) -> None:
    """Draw new noise in every layer that has some."""
    for layer in network:
        if isinstance(layer, Noise):
            layer.draw(samples, generator)


def loss_and_gradient(
    network: nn.Sequential, x: torch.Tensor, labels: torch.Tensor
) -> tuple[float, Gradient]:
    """Return the loss on a batch, in training mode, and its gradient by every parameter."""
    loss = nn.functional.cross_entropy(network(x), labels)
    return float(loss.detach()), list(torch.autograd.grad(loss, list(network.parameters())))


def move(network: nn.Sequential, gradient: Gradient, distance: float) -> None:
    """theta -= distance * gradient, in place."""
    with torch.no_grad():
        for parameter, direction in zip(network.parameters(), gradient, strict=True):
            parameter -= distance * direction


def norm(gradient: Gradient) -> float:
    """Return the l2 norm over all parameters."""
    return float(torch.sqrt(sum((part.double() ** 2).sum() for part in gradient)))


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two states of a network are equal, bit for bit."""
    return all(torch.equal(value, other[name]) for name, value in one.items())


def accuracy(
    network: nn.Sequential,
    x: torch.Tensor,
    labels: torch.Tensor,
    *,
    training: bool,
    noise: bool = True,
) -> float:
    """Return the share of right answers, as in training or in test mode, which has no noise.

    Asks a copy: batch norm would count what it sees in training mode as training.
    """
    twin = copy.deepcopy(network).train(training)
    for layer in twin:
        if isinstance(layer, Noise):
            layer.train(training and noise)
    with torch.no_grad():
        right = twin(x).argmax(dim=1) == labels
    return float(right.double().mean())
