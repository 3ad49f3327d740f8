"""What is compared: one timed call, and what a library must provide to be timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from workload import Array, Case


@dataclass(frozen=True)
class Contender:
    """One timed call."""

    library: str
    mode: str  # "out": writes into a given array; "fresh": allocates its result
    call: Callable[[], Any]
    result: Callable[[Any], Array]  # what `call` returned -> y or dx, laid out as case.x

    @property
    def name(self) -> str:
        return f"{self.library}-{self.mode}"


class Library(Protocol):
    """What a peer provides; its constructor takes the number of threads."""

    name: str
    version: str

    def contenders(self, case: Case) -> list[Contender]:
        """The library's best calls for the case; none if it has no such operation."""
