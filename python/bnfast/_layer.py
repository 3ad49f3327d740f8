"""What every layer has: a mode, a source of seeds, and the last forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._attributes import Setting
from bnfast._checks import truth
from bnfast._dropout import random_source
from bnfast._sharing import LastForward

if TYPE_CHECKING:
    from typing_extensions import Self


class _Source(Setting["int | np.random.Generator | None"]):
    """`rng`, and with it the Generator that a number stands for; None keeps none.

    Without one every seed comes from the operating system, so that copies of the layer, pickled or
    forked ones included, do not draw the same masks.
    """

    def __set__(self, instance: Any, value: Any) -> None:
        super().__set__(instance, value)
        instance._generator = None if value is None else np.random.default_rng(instance.rng)


class Layer:
    """Base of the layers; users may derive classes with attributes of their own from them."""

    __slots__ = ("__weakref__", "_forward", "_generator", "_rng", "_training")

    _generator: np.random.Generator | None
    _training: bool
    training = Setting(truth)
    rng = _Source(lambda operation, _, value: random_source(operation, value))

    def __init__(self, rng: int | np.random.Generator | None) -> None:
        self.training = True
        self.rng = rng
        self._forward = LastForward()

    def train(self, mode: bool = True) -> Self:
        """Go to training mode, or with False to evaluation mode; return the layer."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Go to evaluation mode: running statistics, nothing dropped; return the layer."""
        return self.train(False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(2)  # the protocols before 2 do not save slots
        # The state is a tuple (attributes, slots) unless a derived class has its own __getstate__.
        if isinstance(reduced[2], tuple):
            reduced[2][1]["_forward"] = LastForward()  # copy.copy would share the layer's own
        return reduced
