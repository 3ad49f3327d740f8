"""The picture of torch_steps.py: losses over steps, and the time of a step."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lectures.lab import STYLE, WITH, WITHOUT

COLOURS = {"torch": WITHOUT, "bnfast": WITH}
Seen = dict[str, dict[str, tuple[list[float], float]]]


def plot_steps(seen: Seen, path: Path) -> None:
    """Draw, for each task and kind, the losses over steps and the seconds of a step."""
    tasks = [task for task in seen if "last" not in task]  # the other layout's losses look the same
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(tasks) + 1, figsize=(10.5, 3.3))
        for task, loss_axes in zip(tasks, axes, strict=False):
            for kind, (losses, _) in seen[task].items():
                loss_axes.plot(
                    np.arange(1, len(losses) + 1),
                    losses,
                    "--" if kind == "bnfast" else "-",
                    color=COLOURS[kind],
                    label=kind,
                )
            loss_axes.set(title=task, xlabel="Step", ylabel="Cross-entropy loss (nats)")
            loss_axes.legend()
        places = np.arange(len(seen))
        for shift, kind in ((0.2, "torch"), (-0.2, "bnfast")):
            seconds = [1e3 * runs[kind][1] for runs in seen.values()]
            bars = axes[-1].barh(places[::-1] + shift, seconds, 0.38, color=COLOURS[kind])
            axes[-1].bar_label(bars, fmt="%.0f", padding=2)
        axes[-1].set_yticks(places[::-1], [task.replace(", ", ",\n") for task in seen])
        axes[-1].set(title="Time of a step", xlabel="ms")
        axes[-1].grid(axis="y", visible=False)
        axes[-1].margins(x=0.12)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)
