"""The named choices of batch normalization, as the core numbers them."""

from __future__ import annotations

from typing import Any, NoReturn

ACTIVATIONS: dict[str | None, int] = {
    None: 0,
    "relu": 1,
    "leaky_relu": 2,
    "sigmoid": 3,
    "tanh": 4,
    "silu": 5,
    "gelu": 6,
    "elu": 7,
}
EPS_PLACEMENTS = {"var": 0, "std": 1}


def refuse_choice(operation: str, activation: Any, eps_placement: Any) -> NoReturn:
    """Say which of the two is not one of the named choices."""
    choices: tuple[tuple[str, Any, dict[Any, int]], ...] = (
        ("activation", activation, ACTIVATIONS),
        ("eps_placement", eps_placement, EPS_PLACEMENTS),
    )
    for name, value, known in choices:
        if not isinstance(value, (str, type(None))) or value not in known:
            got = f"{operation}: {name} is {value!r}"
            raise ValueError(f"{got}, expected one of {', '.join(map(repr, known))}") from None
    raise AssertionError("both are known")
