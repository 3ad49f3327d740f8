"""The variance within a batch against that of all samples; a part of evaluation.py."""

from __future__ import annotations

import argparse

import numpy as np
from lab import PALETTE, Checks, Data, new_figure, save, table
from networks import Network
from tqdm import tqdm

import bnfast

VARIANCE_BATCHES = (2, 3, 5, 10, 20, 60, 200)  # samples


def true_moments(network: Network, x: np.ndarray, parts: int = 8) -> list[bnfast.Moments]:
    """Return the moments of each norm's input over all of `x`, merged from those of its parts."""
    found = []
    for layer in network.layers:
        if isinstance(layer, bnfast.BatchNorm):
            empty = bnfast.Moments.empty(layer.num_features)
            found.append(sum((bnfast.moments(z) for z in np.array_split(x, parts)), start=empty))
            x, _ = bnfast.batch_norm(x, layer.gamma, layer.beta, eps=layer.eps, stats=found[-1])
        else:
            x = layer(x)
    return found


def batch_variances(
    network: Network, x: np.ndarray, size: int, draws: int, rng: np.random.Generator, **kind: bool
) -> list[np.ndarray]:
    """Return the biased variance of every drawn batch, (draws, units), for each norm's input.

    The layers below normalise by the batch, too, as they do in training.
    """
    found: list[list[np.ndarray]] = [[] for _ in network.of_type(bnfast.BatchNorm)]
    for _ in range(draws):
        a = x[rng.choice(len(x), size, **kind)]
        index = 0
        for layer in network.layers[:-1]:
            if isinstance(layer, bnfast.BatchNorm):
                a, ctx = bnfast.batch_norm(a, layer.gamma, layer.beta, eps=layer.eps)
                found[index].append(ctx.moments.var())
                index += 1
            else:
                a = layer(a)
    return [np.array(variances) for variances in found]


def report_variances(
    options: argparse.Namespace, trained: list[tuple[Network, Data]], checks: Checks
) -> None:
    """Compare m / (m - 1) E(var_B) with the variance of all samples, over batch sizes m."""
    network, data = trained[0]
    truth = [moments.var() for moments in true_moments(network, data.x_train)]
    rng, samples = np.random.default_rng(0), len(data.x_train)
    rows, biased, corrected = [], [], []
    for size in tqdm(VARIANCE_BATCHES, desc="variances", unit="batch size"):
        cells = [f"{size}", f"{(size - 1) / size:.4f}"]
        for replace, true_ratio in ((True, 1.0), (False, samples / (samples - 1))):
            x = data.x_train
            drawn = batch_variances(network, x, size, options.draws, rng, replace=replace)
            # One number a draw and layer: the mean over the units of var_B / the true variance.
            ratios = np.array([(d / t).mean(axis=1) for d, t in zip(drawn, truth, strict=True)])
            means = ratios.mean(axis=1)
            errors = ratios.std(axis=1, ddof=1) / np.sqrt(options.draws)
            scale = size / (size - 1)
            off = abs(scale * means[0] - true_ratio) / (scale * errors[0])
            checks(off < 6, f"E(var_B) of {size} is {off:.0f} standard errors off (layer 1)")
            cells += [f"{means[0]:.4f}", f"{scale * means[0]:.4f} ± {scale * errors[0]:.4f}"]
        # Without replacement, as in training, to the end.
        cells += [f"{scale * mean:.3f}" for mean in means[1:]]
        rows.append(cells)
        biased.append(means)
        corrected.append(scale * means)
    headers = ["m", "(m-1)/m", "E(var_B), replaced", "times m/(m-1)", "E(var_B), not replaced"]
    headers += ["times m/(m-1)", "layer 2, times m/(m-1)", "layer 3, times m/(m-1)"]
    title = f"Variance within batches of m, in units of that of all {samples} samples"
    table(headers, rows, title=title)
    check_exactly(network.layers[0](data.x_train), checks)
    figure, axes = new_figure(1, 2, height=4.0)
    for layer in range(3):
        shown = {"color": PALETTE[layer], "label": f"layer {layer + 1}"}
        axes[0, 0].plot(VARIANCE_BATCHES, [means[layer] for means in biased], "o-", **shown)
        axes[0, 1].plot(VARIANCE_BATCHES, [means[layer] for means in corrected], "o-", **shown)
    theory = [(size - 1) / size for size in VARIANCE_BATCHES]
    axes[0, 0].plot(VARIANCE_BATCHES, theory, "k--", label="(m - 1) / m")
    axes[0, 1].axhline(1.0, color="k", linestyle="--")
    axes[0, 0].set(ylabel="E(var_B) / variance of all", title="Biased, as batch norm uses it")
    axes[0, 1].set(ylabel="m / (m - 1) E(var_B) / variance of all", title="Times m / (m - 1)")
    for axis in axes[0]:
        axis.set(xscale="log", xlabel="Batch size m (samples)")
    axes[0, 0].legend()
    save(
        figure,
        options.out,
        "evaluation_variance",
        title="The variance within a batch",
        caption=f"Means over {options.draws} random batches and 100 units, one trained network. "
        "Only layer 1 sees inputs that do not depend on the batch.",
    )


def check_exactly(z: np.ndarray, checks: Checks) -> None:
    """Check what holds exactly for the batches of a finite set, and print the errors."""
    z = z.astype(np.float64)[:200]
    whole = bnfast.moments(z)
    # All pairs without replacement, each pair a channel: no Monte Carlo.
    pairs = np.array(np.triu_indices(len(z), 1))
    within = bnfast.moments(z[pairs].reshape(2, -1)).var().reshape(-1, z.shape[1])
    pairs_off = np.abs(2 * within.mean(axis=0) / whole.var(1) - 1).max()
    # An epoch of equal batches: variance of all = mean of the variances + variance of the means.
    parts = [bnfast.moments(part) for part in np.split(z, 20)]
    total = np.mean([m.var() for m in parts], axis=0) + np.var([m.mean for m in parts], axis=0)
    total_off = np.abs(total / whole.var() - 1).max()
    merged = sum(parts, start=bnfast.Moments.empty(z.shape[1]))
    merged_off = np.abs(merged.var() / whole.var() - 1).max()
    for name, off in (
        ("all pairs: 2 E(var_B) = N / (N - 1) var", pairs_off),
        ("an epoch: E(var_B) + var of the means = var", total_off),
        ("an epoch: merged moments = var", merged_off),
    ):
        print(f"{name}: largest relative error {off:.0e}")
        checks(off < 1e-10, f"{name} does not hold: {off:.0e}")
