"""The gradient of one step, added up over micro-batches: each normalised alone, or all together."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
from networks import Network, parameters_of, softmax_cross_entropy

import bnfast

Gradients = list[tuple[np.ndarray, np.ndarray]]  # each parameter with its gradient


def accumulate(
    network: Network, x: np.ndarray, labels: np.ndarray, size: int, *, training: bool = True
) -> Gradients:
    """Return the gradients over all of `x`, added up over micro-batches one after another.

    Not in training mode, the running statistics normalise: constants to backward, frozen.
    """
    total: Gradients = []
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        logits = network.forward(x[part], training=training)
        network.backward(share_of_gradient(logits, labels[part], len(x)))
        parts = [(parameter, gradient.copy()) for parameter, gradient in network.parameters()]
        for (_, sum_), (_, gradient) in zip(total, parts, strict=False):
            sum_ += gradient
        total = total or parts
    return total


def accumulate_merged(network: Network, x: np.ndarray, labels: np.ndarray, size: int) -> Gradients:
    """Return the same, with batch norm over the moments of all micro-batches, merged.

    It is what synchronised batch norm does over several machines. All micro-batches go through the
    network side by side: a norm waits for the moments of every one of them.
    """
    cuts = range(size, len(x), size)
    parts, tape = np.split(x, cuts), []  # the tape: what backward needs of each layer and part
    for layer in network.layers:
        if isinstance(layer, bnfast.BatchNorm):
            empty = bnfast.Moments.empty(layer.num_features)
            stats = sum((bnfast.moments(part) for part in parts), start=empty)
            layer.running.update(stats)
            normalise = partial(bnfast.batch_norm, eps=layer.eps, stats=stats)
            parts, kept = zip(*[normalise(a, layer.gamma, layer.beta) for a in parts], strict=True)
        else:
            kept = [copy.copy(layer) for _ in parts]  # they share weights, not activations
            parts = [replica(part) for replica, part in zip(kept, parts, strict=True)]
        tape.append((layer, kept))
    answers = zip(parts, np.split(labels, cuts), strict=True)
    dys = [share_of_gradient(logits, targets, len(x)) for logits, targets in answers]
    found: list[Gradients] = []  # last layer first
    for layer, kept in reversed(tape):
        pairs = list(zip(dys, kept, strict=True))
        if isinstance(layer, bnfast.BatchNorm):
            empty = bnfast.GradientSums.empty(layer.num_features)
            sums = sum((bnfast.batch_norm_backward_sums(*pair) for pair in pairs), start=empty)
            grads = [bnfast.batch_norm_backward(*pair, sums=sums) for pair in pairs]
            dys = [grad.dx for grad in grads]
            own = [[(layer.gamma, grad.dgamma), (layer.beta, grad.dbeta)] for grad in grads]
        else:
            dys = [replica.backward(dy) for dy, replica in pairs]
            own = [list(parameters_of(replica)) for replica in kept]
        by_parameter = zip(*own, strict=True)
        found.append([(same[0][0], np.sum([g for _, g in same], axis=0)) for same in by_parameter])
    return [pair for layer in reversed(found) for pair in layer]


def share_of_gradient(logits: np.ndarray, labels: np.ndarray, samples: int) -> np.ndarray:
    """Return what a micro-batch adds to the gradient of the mean loss over so many samples."""
    _, dlogits = softmax_cross_entropy(logits, labels)
    return dlogits * (len(logits) / samples)
