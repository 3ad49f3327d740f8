"""A small pre-norm Transformer in plain NumPy around bnfast.layer_norm or bnfast.rms_norm.

An 8 x 8 image is read as four patches of 4 x 4 pixels, the tokens. Activations are arrays of shape
(samples * tokens, width), one row for each token of each sample, so that the Linear layer of
lectures/networks.py serves as it is; only positions, attention and pooling tell the samples apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from lectures.networks import Linear, Optimiser, Parameters, Trainable, glorot
from scipy.special import erf

import bnfast

IMAGE, PATCH = 8, 4  # pixels along a side
SIDE = IMAGE // PATCH  # tokens along a side
TOKENS = SIDE * SIDE
CLASSES = 10

Draw: TypeAlias = Callable[[int, int], np.ndarray]  # a new weight matrix (fan_out, fan_in)


def by_sample(a: np.ndarray) -> np.ndarray:
    """View (samples * tokens, width) as (samples, tokens, width)."""
    return a.reshape(-1, TOKENS, a.shape[1])


class Embedding:
    """One vector for each patch: its pixels through a linear map, plus a learnt position."""

    def __init__(self, draw: Draw, width: int) -> None:
        self.linear = Linear(draw(width, PATCH * PATCH), bias=False)
        self.positions = draw(TOKENS, width)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        patches = images.reshape(-1, SIDE, PATCH, SIDE, PATCH).swapaxes(2, 3)
        embedded = self.linear(patches.reshape(-1, PATCH * PATCH))
        return (by_sample(embedded) + self.positions).reshape(embedded.shape)

    def backward(self, dy: np.ndarray) -> None:
        """Keep the gradients of the parameters; nothing asks for that of the images."""
        self.dpositions = by_sample(dy).sum(axis=0)
        self.linear.backward(dy)

    def parameters(self) -> Parameters:
        yield self.positions, self.dpositions
        yield from self.linear.parameters()


class Norm:
    """The norm in front of a sublayer, with the dropout and the sum that end the one before it.

    A Transformer's residual stream h grows by what each sublayer gives, and the next sublayer reads
    it normalised: ``h = residual + drop(x)``, ``y = norm(h)``. One call of bnfast makes both.
    """

    def __init__(self, norm: Callable[..., Any], width: int, dtype: type) -> None:
        self.norm = norm
        self.affine: list[np.ndarray] = [np.ones(width, dtype)]  # gamma
        if norm is bnfast.layer_norm:
            self.affine.append(np.zeros(width, dtype))  # beta, which RMS norm does not have

    def __call__(
        self, x: np.ndarray, residual: np.ndarray | None, *, dropout: float, seed: int, offset: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return y, for the next sublayer, and h, for the next norm."""
        y, self.ctx = self.norm(
            x, *self.affine, residual=residual, dropout=dropout, seed=seed, offset=offset
        )
        return y, self.ctx.h

    def backward(
        self, dy: np.ndarray, dh: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the gradients of x and residual; `dh` is what reached h by the next norm."""
        self.grads = bnfast.norm_backward(dy, self.ctx, dh=dh)
        return self.grads.dx, self.grads.dresidual

    def parameters(self) -> Parameters:
        gradients = self.grads.dgamma, self.grads.dbeta
        for parameter, gradient in zip(self.affine, gradients, strict=False):
            if gradient is not None:
                yield parameter, gradient


class Attention:
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, draw: Draw, width: int, heads: int) -> None:
        self.heads, self.head_width = heads, width // heads
        self.project = Linear(draw(3 * width, width), bias=True)  # to queries, keys and values
        self.mix = Linear(draw(width, width), bias=True)
        self.scale = self.head_width**-0.5

    def __call__(self, a: np.ndarray) -> np.ndarray:
        projected = self.project(a).reshape(-1, TOKENS, 3, self.heads, self.head_width)
        # q, k and v: (samples, heads, tokens, width of a head)
        self.q, self.k, self.v = np.ascontiguousarray(projected.transpose(2, 0, 3, 1, 4))
        scores = self.scale * (self.q @ self.k.swapaxes(2, 3))
        exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
        self.weights = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return self.mix((self.weights @ self.v).swapaxes(1, 2).reshape(a.shape))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Keep the gradients of the parameters; return that of a."""
        dmixed = self.mix.backward(dy).reshape(-1, TOKENS, self.heads, self.head_width)
        dmixed = dmixed.swapaxes(1, 2)
        dv = self.weights.swapaxes(2, 3) @ dmixed
        dweights = dmixed @ self.v.swapaxes(2, 3)
        # Softmax: the weights of a row sum to one, so their gradients count only by differences.
        mean = (dweights * self.weights).sum(axis=-1, keepdims=True)
        dscores = self.scale * self.weights * (dweights - mean)
        dq, dk = dscores @ self.k, dscores.swapaxes(2, 3) @ self.q
        dprojected = np.stack([dq, dk, dv]).transpose(1, 3, 0, 2, 4)
        return self.project.backward(dprojected.reshape(len(dy), -1))

    def parameters(self) -> Parameters:
        yield from self.project.parameters()
        yield from self.mix.parameters()


class Perceptron:
    """W2 gelu(W1 a + b1) + b2 for each token by itself; gelu(z) = z Phi(z)."""

    def __init__(self, draw: Draw, width: int, hidden: int) -> None:
        self.widen = Linear(draw(hidden, width), bias=True)
        self.narrow = Linear(draw(width, hidden), bias=True)

    def __call__(self, a: np.ndarray) -> np.ndarray:
        self.z = self.widen(a)
        self.phi = 0.5 * (1.0 + erf(math.sqrt(0.5) * self.z))  # the normal distribution's Phi(z)
        return self.narrow(self.z * self.phi)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Keep the gradients of the parameters; return that of a."""
        density = (2.0 * math.pi) ** -0.5 * np.exp(-0.5 * self.z * self.z)  # the slope of Phi
        return self.widen.backward(self.narrow.backward(dy) * (self.phi + self.z * density))

    def parameters(self) -> Parameters:
        yield from self.widen.parameters()
        yield from self.narrow.parameters()


class Head:
    """The mean over a sample's tokens, and from it a logit for each class."""

    def __init__(self, draw: Draw, width: int) -> None:
        self.linear = Linear(draw(CLASSES, width), bias=True)

    def __call__(self, a: np.ndarray) -> np.ndarray:
        return self.linear(by_sample(a).mean(axis=1))

    def backward(self, dlogits: np.ndarray) -> np.ndarray:
        """Keep the gradients of the parameters; return that of a, the same for all tokens."""
        return np.repeat(self.linear.backward(dlogits) / TOKENS, TOKENS, axis=0)

    def parameters(self) -> Parameters:
        return self.linear.parameters()


class Transformer(Trainable):
    """Embedding, blocks of attention and perceptron, head; a norm in front of each but the first.

    `norm` is bnfast.layer_norm or bnfast.rms_norm. `dropout` acts on the embedding and on what each
    sublayer adds to the stream.
    """

    def __init__(
        self,
        norm: Callable[..., Any],
        *,
        seed: int,
        dropout: float,
        blocks: int = 2,
        width: int = 48,
        heads: int = 4,
        hidden: int = 96,
        dtype: type = np.float32,
    ) -> None:
        rng = np.random.default_rng(seed)

        def draw(fan_out: int, fan_in: int) -> np.ndarray:
            return glorot(rng, fan_out, fan_in).astype(dtype)

        self.embedding = Embedding(draw, width)
        self.sublayers: list[Attention | Perceptron | Head] = []
        for _ in range(blocks):
            self.sublayers += [Attention(draw, width, heads), Perceptron(draw, width, hidden)]
        self.sublayers.append(Head(draw, width))
        self.norms = [Norm(norm, width, dtype) for _ in self.sublayers]
        self.layers = [self.embedding, *self.norms, *self.sublayers]
        self.seed, self.dropout = seed, dropout
        self.step = 0  # names the masks: until it changes, every forward pass drops the same

    def forward(self, images: np.ndarray, *, training: bool) -> np.ndarray:
        """Return the logits. Only in training something is dropped."""
        x, h = self.embedding(images), None
        for k, (norm, sublayer) in enumerate(zip(self.norms, self.sublayers, strict=True)):
            y, h = norm(
                x,
                residual=h,
                dropout=self.dropout if training else 0.0,
                seed=self.seed,
                offset=self.step * len(self.norms) + k,
            )
            x = sublayer(y)
        return x

    def backward(self, dlogits: np.ndarray) -> None:
        """Fill in the gradient of every parameter from the gradient of the loss by the logits."""
        dx, dh = dlogits, None
        for norm, sublayer in zip(self.norms[::-1], self.sublayers[::-1], strict=True):
            dx, dh = norm.backward(sublayer.backward(dx), dh)
        self.embedding.backward(dx)

    def parameters(self) -> Parameters:
        """Yield each parameter with its gradient."""
        for layer in self.layers:
            yield from layer.parameters()

    def update(self, optimiser: Optimiser) -> None:
        """Move every parameter, in place; the next masks are new ones."""
        super().update(optimiser)
        self.step += 1
