"""A small sigmoid network in plain NumPy, with or without bnfast.BatchNorm and bnfast.Dropout.

Activations are float32 arrays of shape (samples, features). A layer is called to go forward; its
`backward(dy)` takes the gradient of the loss by its output and returns the one by its input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np

import bnfast

Parameters: TypeAlias = Iterator[tuple[np.ndarray, np.ndarray]]  # each with its gradient


class Linear:
    """z = W a, or z = W a + b. One row of `weight` is one output unit."""

    def __init__(self, weight: np.ndarray, *, bias: bool) -> None:
        self.weight = weight
        self.bias = np.zeros(len(weight), weight.dtype) if bias else None

    def __call__(self, a: np.ndarray) -> np.ndarray:
        self.a = a
        z = a @ self.weight.T
        return z if self.bias is None else z + self.bias

    def backward(self, dz: np.ndarray) -> np.ndarray:
        """Keep the gradients of weight and bias; return the gradient of a."""
        self.dweight = dz.T @ self.a
        self.dbias = None if self.bias is None else dz.sum(axis=0)
        return dz @ self.weight

    def parameters(self) -> Parameters:
        """Yield weight and bias, where there is one."""
        yield self.weight, self.dweight
        if self.bias is not None and self.dbias is not None:
            yield self.bias, self.dbias


class Sigmoid:
    """a = 1 / (1 + exp(-z)). Keeps z, the pre-activations, because the pictures show them."""

    def __call__(self, z: np.ndarray) -> np.ndarray:
        self.z = z
        # The tanh form of the sigmoid cannot overflow, however large |z| is.
        self.a = 0.5 * (1.0 + np.tanh(0.5 * z))
        return self.a

    def backward(self, da: np.ndarray) -> np.ndarray:
        """Return the gradient of z."""
        # a (1 - a) is at most 1/4 and almost 0 for large |z|: saturated units stop learning.
        return da * self.a * (1.0 - self.a)


Layer: TypeAlias = Linear | Sigmoid | bnfast.BatchNorm | bnfast.Dropout


class Trainable(Protocol):
    """A network as `train_epoch` and `evaluate` see it."""

    def forward(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        """Return the logits."""

    def backward(self, dy: np.ndarray) -> None:
        """Fill in the gradient of every parameter from the gradient of the loss by the logits."""

    def parameters(self) -> Parameters:
        """Yield each parameter with its gradient."""

    def sgd_step(self, learning_rate: float) -> None:
        """Move every parameter, in place, against its gradient."""
        for parameter, gradient in self.parameters():
            parameter -= learning_rate * gradient


class Network(Trainable):
    """Layers in a row, trained by plain stochastic gradient descent."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)

    def forward(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        """Return the logits. In training batch norm uses the mini-batch, and dropout drops."""
        for layer in self.layers:
            if isinstance(layer, (bnfast.BatchNorm, bnfast.Dropout)):
                layer.train(training)
            x = layer(x)
        return x

    def backward(self, dy: np.ndarray) -> None:
        """Fill in the gradient of every parameter from the gradient of the loss by the logits."""
        for layer in reversed(self.layers):
            if isinstance(layer, bnfast.BatchNorm):
                dy = layer.backward(dy).dx  # the layer keeps the gradients of gamma and beta
            else:
                dy = layer.backward(dy)

    def parameters(self) -> Parameters:
        """Yield each parameter with its gradient."""
        for layer in self.layers:
            if isinstance(layer, Linear):
                yield from layer.parameters()
            elif isinstance(layer, bnfast.BatchNorm):
                for parameter, gradient in (
                    (layer.gamma, layer.dgamma),
                    (layer.beta, layer.dbeta),
                ):
                    if parameter is not None and gradient is not None:
                        yield parameter, gradient

    def preactivations(self) -> list[np.ndarray]:
        """Return what entered each sigmoid in the last forward pass, first hidden layer first."""
        return [layer.z for layer in self.layers if isinstance(layer, Sigmoid)]


def glorot(rng: np.random.Generator, fan_out: int, fan_in: int) -> np.ndarray:
    """Draw a weight matrix by the usual rule for sigmoid layers (Glorot & Bengio 2010)."""
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, (fan_out, fan_in)).astype(np.float32)


def build_network(
    sizes: Sequence[int], *, batch_norm: bool, rng: np.random.Generator, dropout: float = 0.0
) -> Network:
    """Build input -> hidden layers -> logits, `sizes` counting the features at each step.

    Without batch norm a hidden layer is sigmoid(W a + b), with it sigmoid(BN(W a)): beta takes the
    place of b. Dropout acts on the output of every hidden layer. The same `rng` state gives all
    networks the same weights.
    """
    layers: list[Layer] = []
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers.append(Linear(glorot(rng, fan_out, fan_in), bias=not batch_norm))
        if batch_norm:
            layers.append(bnfast.BatchNorm(fan_out))
        # BatchNorm(..., activation="sigmoid", dropout=...) would do all in one pass; apart, z can
        # be looked at.
        layers.append(Sigmoid())
        if dropout:
            layers.append(bnfast.Dropout(dropout, rng=rng))
    # No batch norm follows the last layer, so its bias does something and stays.
    layers.append(Linear(glorot(rng, sizes[-1], sizes[-2]), bias=True))
    return Network(layers)


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean loss over the batch and its gradient with respect to the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(np.mean(np.log(total[:, 0]) - shifted[rows, labels]))
    gradient = exponentials / total
    gradient[rows, labels] -= 1.0
    return loss, gradient / len(labels)


def evaluate(network: Trainable, x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return loss and accuracy in test mode: running statistics, nothing dropped."""
    logits = network.forward(x, training=False)
    loss, _ = softmax_cross_entropy(logits, labels)
    return loss, float(np.mean(logits.argmax(axis=1) == labels))


def train_epoch(
    network: Trainable,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    learning_rate: float,
    rng: np.random.Generator,
) -> None:
    """Take each sample once, in random order, but for those too few to make a last mini-batch."""
    order = rng.permutation(len(x))
    for start in range(0, len(x) - batch_size + 1, batch_size):
        batch = order[start : start + batch_size]
        logits = network.forward(x[batch], training=True)
        _, gradient = softmax_cross_entropy(logits, labels[batch])
        network.backward(gradient)
        network.sgd_step(learning_rate)
