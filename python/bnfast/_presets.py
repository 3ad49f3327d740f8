"""How other systems set batch normalization up: a table of their defaults, in BatchNorm's terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bnfast._checks import real_number


@dataclass(frozen=True)
class Preset:
    """One system's defaults. `momentum` is written as that system writes it."""

    eps: float
    momentum: float
    momentum_weighs_old: bool  # running = momentum * running + (1 - momentum) * batch
    # Of the running variance. To normalise, every system but Darknet takes the biased variance.
    correction: int
    axis: int = 1
    eps_placement: str = "var"


PRESETS = {
    "torch": Preset(eps=1e-5, momentum=0.1, momentum_weighs_old=False, correction=1),
    "keras": Preset(eps=1e-3, momentum=0.99, momentum_weighs_old=True, correction=0, axis=-1),
    "onnx": Preset(eps=1e-5, momentum=0.9, momentum_weighs_old=True, correction=0),
    "darknet": Preset(
        eps=1e-6, momentum=0.99, momentum_weighs_old=True, correction=1, eps_placement="std"
    ),
    "mxnet": Preset(eps=1e-3, momentum=0.9, momentum_weighs_old=True, correction=0),
}


def preset_arguments(name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of BatchNorm that preset `name` with `overrides` stands for.

    Parameters
    ----------
    name : str
        A key of `PRESETS`.
    overrides : dict
        Arguments of BatchNorm that replace the preset's. "momentum" has the system's own meaning;
        for "torch" it may be None, which is the cumulative average.

    Returns
    -------
    dict
        eps, momentum (the weight of the new value), correction, axis, eps_placement, and what else
        `overrides` holds.

    Raises
    ------
    ValueError
        If there is no preset `name`, or momentum lies outside [0, 1].
    TypeError
        If momentum is not a number.

    Examples
    --------
    >>> from bnfast._presets import preset_arguments
    >>> preset_arguments("onnx", {"momentum": 0.75, "axis": -1})["momentum"]
    0.25
    """
    operation = "BatchNorm.from_preset"
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        raise ValueError(f"{operation}: name is {name!r}, expected one of {tuple(PRESETS)}")
    arguments: dict[str, Any] = {
        "eps": preset.eps,
        "momentum": preset.momentum,
        "correction": preset.correction,
        "axis": preset.axis,
        "eps_placement": preset.eps_placement,
        **overrides,
    }
    if arguments["momentum"] is None and name == "torch":
        del arguments["momentum"]
        return {"running_mode": "cumulative", **arguments}
    weight = real_number(operation, "momentum", arguments["momentum"], low=0, high=1)
    arguments["momentum"] = 1.0 - weight if preset.momentum_weighs_old else weight
    return arguments
