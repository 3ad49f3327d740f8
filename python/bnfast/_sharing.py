"""What lets threads and forked processes share objects with state: a lock, and last forwards."""

from __future__ import annotations

import os
import threading
from typing import Any

# Guards the state of every layer and every RunningStats, for the microseconds of a change or a
# copy: no kernel runs while it is held. A fork waits for it, so that the child finds whole objects
# and a lock that is free.
lock = threading.RLock()
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


class LastForward:
    """What a layer keeps of its last forward to differentiate it: of this thread's own.

    A thread that never ran one gets the latest of any thread. Copies and pickles are empty: they
    are of a layer's state, not of the activations that its last forward left.
    """

    __slots__ = ("_latest", "_own")

    def __init__(self) -> None:
        # Each thread has a list of one entry. If it is also the latest of all threads, then a
        # thread that forgets its own empties both.
        self._own = threading.local()
        self._latest: list[Any] = [None]

    def forget(self) -> None:
        """Forget this thread's own, so that what it holds on to is free."""
        try:
            self._own.cell[0] = None
        except AttributeError:
            self._own.cell = [None]

    def keep(self, kept: Any) -> None:
        """Keep something as this thread's own, once the thread forgot the former."""
        self._latest = cell = self._own.cell
        cell[0] = kept

    def find(self) -> Any:
        """Return what was kept, or None without a forward; one that failed counts as none."""
        return getattr(self._own, "cell", self._latest)[0]

    def require(self, operation: str, name: str) -> Any:
        """Return what was kept; RuntimeError if there is nothing. `name` stands for the layer."""
        kept = self.find()
        if kept is None:
            expected = f"expected y = {name}(x) before {name}.backward(dy)"
            raise RuntimeError(f"{operation}: no forward was run, {expected}")
        return kept

    def __reduce__(self) -> tuple[Any, ...]:
        return LastForward, ()
