"""Small networks in plain NumPy around bnfast's norms and dropout, and how they are trained.

Activations are arrays of shape (samples, features), or (samples, channels, height, width) in
convolutional networks. A layer is called to go forward; its `backward(dy)` takes the gradient of
the loss by its output and returns the one by its input. The lectures import this file as
`networks`, the examples in the folder above as `lectures.networks`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import numpy as np

import bnfast

Parameters: TypeAlias = Iterator[tuple[np.ndarray, np.ndarray]]  # each with its gradient
MakeNorm: TypeAlias = Callable[[int], Any]  # a norm for so many units or channels
Optimiser: TypeAlias = Callable[[Parameters], None]  # moves every parameter, in place


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


class Conv2d:
    """A convolution of 3 x 3, padded with zeros: images keep their size.

    `weight` has shape (channels out, channels in * 9). Each position becomes a row of the 3 x 3
    pixels around it, so that the convolution is a `Linear` on these rows.
    """

    def __init__(self, weight: np.ndarray, *, bias: bool) -> None:
        self.linear = Linear(weight, bias=bias)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        samples, channels, height, width = self.shape = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * 9)
        z = self.linear(rows).reshape(samples, height, width, -1)
        return np.ascontiguousarray(z.transpose(0, 3, 1, 2))

    def backward(self, dz: np.ndarray) -> np.ndarray:
        """Keep the gradients of the weight; return the gradient of x."""
        samples, channels, height, width = self.shape
        drows = self.linear.backward(dz.transpose(0, 2, 3, 1).reshape(-1, dz.shape[1]))
        drows = drows.reshape(samples, height, width, channels, 3, 3)
        padded = np.zeros((samples, channels, height + 2, width + 2), dz.dtype)
        for row in range(3):
            for column in range(3):  # each pixel was in up to nine windows
                there = padded[:, :, row : row + height, column : column + width]
                there += drows[..., row, column].transpose(0, 3, 1, 2)
        return padded[:, :, 1:-1, 1:-1]

    def parameters(self) -> Parameters:
        """Yield weight and bias, where there is one."""
        yield from self.linear.parameters()


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


class Relu:
    """a = max(z, 0). Keeps z."""

    def __call__(self, z: np.ndarray) -> np.ndarray:
        self.z = z
        return np.maximum(z, 0)

    def backward(self, da: np.ndarray) -> np.ndarray:
        """Return the gradient of z."""
        return da * (self.z > 0)


class MaxPool:
    """The largest of each 2 x 2 pixels; height and width are even."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        samples, channels, height, width = self.shape = x.shape
        cells = x.reshape(samples, channels, height // 2, 2, width // 2, 2).swapaxes(3, 4)
        cells = cells.reshape(*cells.shape[:4], 4)
        self.largest = cells.argmax(axis=-1)[..., None]
        return np.take_along_axis(cells, self.largest, axis=-1)[..., 0]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of x: each dy goes where the largest pixel was."""
        cells = np.zeros((*dy.shape, 4), dy.dtype)
        np.put_along_axis(cells, self.largest, dy[..., None], axis=-1)
        return cells.reshape(*dy.shape, 2, 2).swapaxes(3, 4).reshape(self.shape)


class GlobalAverage:
    """The mean of each channel over its positions: (samples, channels)."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.shape = x.shape
        return x.mean(axis=(2, 3))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of x."""
        shared = dy[:, :, None, None] / dy.dtype.type(self.shape[2] * self.shape[3])
        return np.ascontiguousarray(np.broadcast_to(shared, self.shape))


class Trainable(Protocol):
    """A network as `train_epoch` and `evaluate` see it."""

    layers: list[Any]

    def forward(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        """Return the logits."""

    def backward(self, dy: np.ndarray) -> None:
        """Fill in the gradient of every parameter from the gradient of the loss by the logits."""

    def parameters(self) -> Parameters:
        """Yield each parameter with its gradient, always in the same order."""

    def update(self, optimiser: Optimiser) -> None:
        """Move every parameter, in place."""
        optimiser(self.parameters())


class Network(Trainable):
    """Layers in a row: those above, and any layer of bnfast."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)

    def forward(self, x: np.ndarray, *, training: bool) -> np.ndarray:
        """Return the logits. In training batch norm uses the mini-batch, and dropout drops."""
        for layer in self.layers:
            if hasattr(layer, "train"):
                layer.train(training)
            x = layer(x)
        return x

    def backward(self, dy: np.ndarray) -> None:
        """Fill in the gradient of every parameter from the gradient of the loss by the logits."""
        for layer in reversed(self.layers):
            gradient = layer.backward(dy)
            # A norm returns dx beside the gradients of gamma and beta, which it also keeps.
            dy = gradient if isinstance(gradient, np.ndarray) else gradient.dx

    def parameters(self) -> Parameters:
        """Yield each parameter with its gradient."""
        for layer in self.layers:
            yield from parameters_of(layer)

    def of_type(self, kind: type) -> list[Any]:
        """Return the layers of one type, first to last."""
        return [layer for layer in self.layers if isinstance(layer, kind)]

    def preactivations(self) -> list[np.ndarray]:
        """Return what entered each sigmoid or ReLU in the last forward pass, first to last."""
        return [layer.z for layer in self.layers if isinstance(layer, (Sigmoid, Relu))]


def parameters_of(layer: Any) -> Parameters:
    """Yield the parameters of a layer, ours or bnfast's, with their gradients."""
    if hasattr(layer, "parameters"):
        yield from layer.parameters()
    for parameter, gradient in (("gamma", "dgamma"), ("beta", "dbeta")):
        if getattr(layer, parameter, None) is not None and getattr(layer, gradient) is not None:
            yield getattr(layer, parameter), getattr(layer, gradient)


def glorot(rng: np.random.Generator, fan_out: int, fan_in: int) -> np.ndarray:
    """Draw a weight matrix by the usual rule for sigmoid layers (Glorot & Bengio 2010)."""
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, (fan_out, fan_in)).astype(np.float32)


def he(rng: np.random.Generator, fan_out: int, fan_in: int) -> np.ndarray:
    """Draw a weight matrix by the usual rule for ReLU layers (He et al. 2015)."""
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), (fan_out, fan_in)).astype(np.float32)


def build_network(
    sizes: Sequence[int],
    *,
    rng: np.random.Generator,
    norm: MakeNorm | None = None,
    activation: type[Sigmoid] | type[Relu] = Sigmoid,
    dropout: float = 0.0,
    dtype: type = np.float32,
) -> Network:
    """Build input -> hidden layers -> logits, `sizes` counting the features at each step.

    Without a norm a hidden layer is activation(W a + b), with it activation(norm(W a)): beta takes
    the place of b. Dropout acts on the output of every hidden layer. The same `rng` state gives all
    networks the same weights.
    """
    draw = glorot if activation is Sigmoid else he
    layers: list[Any] = []
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers.append(Linear(draw(rng, fan_out, fan_in).astype(dtype), bias=norm is None))
        if norm is not None:
            layers.append(norm(fan_out))
        # bnfast.BatchNorm(..., activation="sigmoid", dropout=...) would do all in one pass; apart,
        # z can be looked at.
        layers.append(activation())
        if dropout:
            layers.append(bnfast.Dropout(dropout, rng=rng))
    # No norm follows the last layer, so its bias does something and stays.
    layers.append(Linear(glorot(rng, sizes[-1], sizes[-2]).astype(dtype), bias=True))
    return Network(layers)


def build_conv_network(
    channels: Sequence[int],
    classes: int,
    *,
    rng: np.random.Generator,
    norm: MakeNorm | None = None,
    norm_first: bool = True,
    dtype: type = np.float32,
) -> Network:
    """Build convolutions with ReLU, the images halved after every second one, and a linear head.

    `channels` counts those of the images and of each convolution. `norm_first` is convolution ->
    norm -> ReLU; otherwise the norm stands behind ReLU, and the convolution needs its bias.
    """
    layers: list[Any] = []
    for index, (fan_in, fan_out) in enumerate(pairwise(channels)):
        weight: np.ndarray = he(rng, fan_out, 9 * fan_in).astype(dtype)
        layers.append(Conv2d(weight, bias=norm is None or not norm_first))
        pair = [Relu()] if norm is None else [norm(fan_out), Relu()]
        layers += pair if norm_first else pair[::-1]
        if index % 2 == 1:
            layers.append(MaxPool())
    head = Linear(glorot(rng, classes, channels[-1]).astype(dtype), bias=True)
    return Network([*layers, GlobalAverage(), head])


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


def batches(samples: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the indices of each mini-batch of an epoch, but for those too few to make a last one.

    Each sample comes once, in random order.
    """
    order = rng.permutation(samples)
    for start in range(0, samples - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def train_step(
    network: Trainable, optimiser: Optimiser, x: np.ndarray, labels: np.ndarray
) -> float:
    """Forward, backward and update on one mini-batch; return its loss."""
    loss, gradient = softmax_cross_entropy(network.forward(x, training=True), labels)
    network.backward(gradient)
    network.update(optimiser)
    return loss


def train_epoch(
    network: Trainable,
    optimiser: Optimiser,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    rng: np.random.Generator,
) -> float:
    """Take a step for each mini-batch of an epoch; return the mean of their losses."""
    return float(
        np.mean(
            [
                train_step(network, optimiser, x[batch], labels[batch])
                for batch in batches(len(x), batch_size, rng)
            ]
        )
    )


def gradient_errors(
    network: Trainable,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    step: float = 1e-5,  # the error of a difference is about step**2, and rounding / step
    checked: int = 10,  # entries of each parameter
) -> dict[str, list[float]]:
    """Return, for each kind of layer, errors of its gradients against differences of the loss.

    An entry's error is that of central differences, as a share of the largest gradient in the same
    parameter. The parameters are moved to where gamma is not 1, and beta and biases are not 0.
    """
    rng = np.random.default_rng(0)

    def loss_and_gradient() -> tuple[float, np.ndarray]:
        return softmax_cross_entropy(network.forward(x, training=True), labels)

    network.backward(loss_and_gradient()[1])
    for parameter, _ in network.parameters():
        parameter += rng.normal(0.0, 0.1, parameter.shape)
    network.backward(loss_and_gradient()[1])
    errors: dict[str, list[float]] = {}
    for layer in network.layers:
        for parameter, gradient in parameters_of(layer):
            for index in rng.choice(parameter.size, min(checked, parameter.size), replace=False):
                place = np.unravel_index(index, parameter.shape)
                before, losses = parameter[place], []
                for value in (before + step, before - step):
                    parameter[place] = value
                    losses.append(loss_and_gradient()[0])
                parameter[place] = before
                difference = (losses[0] - losses[1]) / (2 * step) - gradient[place]
                error = abs(difference) / np.abs(gradient).max()
                errors.setdefault(type(layer).__name__, []).append(float(error))
    return errors


def reestimated(network: Network, x: np.ndarray, batch_size: int | None = None) -> Network:
    """Return a copy whose batch norms have the statistics of `x` under the present weights.

    They are those of all samples seen, merged ("population"). With batches smaller than `x` a layer
    sees what the batch norms below it make of each batch (Ioffe & Szegedy 2015, algorithm 2).
    """
    copied = copy.deepcopy(network)
    for norm in copied.of_type(bnfast.BatchNorm):
        norm.running = bnfast.RunningStats(norm.num_features, mode="population", correction=0)
    size = batch_size or len(x)
    for start in range(0, len(x), size):
        copied.forward(x[start : start + size], training=True)
    return copied
