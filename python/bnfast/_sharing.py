"""What lets threads and forked processes share objects with state: a lock, and last forwards."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# Guards the state of every layer and every RunningStats, for the microseconds of a change or a
# copy: no kernel runs while it is held. A fork waits for it, so that the child finds whole objects
# and a lock that is free.
lock = threading.RLock()
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


class LastForward:
    """How to differentiate a layer's last forward: this thread's own.

    A thread that never ran one gets the latest of any thread. Copies and pickles are empty: they
    are of a layer's state, not of the activations that its last forward left.
    """

    __slots__ = ("_latest", "_own")

    def __init__(self) -> None:
        # Each thread has a list of one function. If it is also the latest of all threads, then a
        # thread that forgets its own empties both.
        self._own = threading.local()
        self._latest: list[Callable[[Any], Any] | None] = [None]

    def forget(self) -> None:
        """Forget this thread's own, so that what it holds on to is free."""
        try:
            self._own.cell[0] = None
        except AttributeError:
            self._own.cell = [None]

    def keep(self, differentiate: Callable[[Any], Any]) -> None:
        """Keep `differentiate`, which takes dy, as this thread's own, once it forgot the former."""
        self._latest = cell = self._own.cell
        cell[0] = differentiate

    def differentiate(self, operation: str, name: str, dy: Any) -> Any:
        """Return the gradients; RuntimeError without a forward, where `name` stands for the layer.

        A forward that failed counts as none.
        """
        differentiate = getattr(self._own, "cell", self._latest)[0]
        if differentiate is None:
            expected = f"expected y = {name}(x) before {name}.backward(dy)"
            raise RuntimeError(f"{operation}: no forward was run, {expected}")
        return differentiate(dy)

    def __reduce__(self) -> tuple[Any, ...]:
        return LastForward, ()
