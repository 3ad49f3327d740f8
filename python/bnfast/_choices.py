"""The named choices of batch normalization, and what is wrong with arguments that are refused."""

from __future__ import annotations

from typing import Any, NoReturn

from bnfast._checks import is_real, whole_number
from bnfast._core import BatchNormContext

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


def check_numbers(operation: str, axis: Any, **reals: Any) -> None:
    """Say which argument is of the wrong kind, where the compiled call refused the types."""
    lowest = -(2**31)  # as a C int holds it
    if not lowest <= whole_number(operation, "axis", axis, low=lowest) < -lowest:
        raise ValueError(f"{operation}: axis is {axis}, expected an axis of x")
    for name, value in reals.items():
        if not is_real(value):
            raise TypeError(f"{operation}: {name} has type {type(value).__name__}, expected float")
        try:
            float(value)
        except OverflowError:
            raise ValueError(
                f"{operation}: {name} is beyond float64, expected a finite number"
            ) from None


def check_context(operation: str, ctx: Any) -> None:
    if not isinstance(ctx, BatchNormContext):
        got = type(ctx).__name__
        raise TypeError(f"{operation}: ctx has type {got}, expected BatchNormContext")
