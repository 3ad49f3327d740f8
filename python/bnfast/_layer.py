"""What every layer has: a mode, a source of seeds, the last forward, and hooks behind it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._attributes import Setting
from bnfast._checks import truth
from bnfast._dropout import random_source
from bnfast._sharing import LastForward, lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    Hook = Callable[[Any, tuple[Any, ...], Any], Any]


class _Source(Setting["int | np.random.Generator | None"]):
    """`rng`, and with it the Generator that a number stands for; None keeps none.

    Without one every seed comes from the operating system, so that copies of the layer, pickled or
    forked ones included, do not draw the same masks.
    """

    def __set__(self, instance: Any, value: Any) -> None:
        super().__set__(instance, value)
        instance._generator = None if value is None else np.random.default_rng(instance.rng)


class HookHandle:
    """What `register_forward_hook` returns; as a context manager it removes its hook at the end."""

    __slots__ = ("_layer", "hook")

    def __init__(self, layer: Layer, hook: Hook) -> None:
        self._layer = weakref.ref(layer)
        self.hook = hook

    def remove(self) -> None:
        """Take the hook away; nothing happens where it is gone already."""
        if (layer := self._layer()) is not None:
            with lock:
                layer._hooks = tuple(handle for handle in layer._hooks if handle is not self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


class Layer:
    """Base of the layers; users may derive classes with attributes of their own from them."""

    __slots__ = ("__weakref__", "_forward", "_generator", "_hooks", "_rng", "_training")

    _generator: np.random.Generator | None
    _hooks: tuple[HookHandle, ...]  # replaced whole, so that a call in another thread sees all
    _training: bool
    training = Setting(truth)
    rng = _Source(lambda operation, _, value: random_source(operation, value))

    def __init__(self, rng: int | np.random.Generator | None) -> None:
        self.training = True
        self.rng = rng
        self._forward = LastForward()
        self._hooks = ()

    def train(self, mode: bool = True) -> Self:
        """Go to training mode, or with False to evaluation mode; return the layer."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Go to evaluation mode: running statistics, nothing dropped; return the layer."""
        return self.train(False)

    def register_forward_hook(self, hook: Hook) -> HookHandle:
        """Have `hook(layer, args, output)` called after each call, as PyTorch's modules do.

        Parameters
        ----------
        hook : callable
            `args` are the arguments of the call, in their order and with the defaults of those not
            given. What the hook returns takes the place of the output, unless it is None.

        Returns
        -------
        HookHandle
            Its `remove()` takes the hook away. Copies and pickles of the layer have no hooks.

        Raises
        ------
        TypeError
            If `hook` cannot be called.
        """
        if not callable(hook):
            got = f"hook is of type {type(hook).__name__}, expected a callable"
            raise TypeError(f"{type(self).__name__}.register_forward_hook: {got}")
        handle = HookHandle(self, hook)
        with lock:
            self._hooks = (*self._hooks, handle)
        return handle

    def _run_hooks(self, args: tuple[Any, ...], output: Any) -> Any:
        """Return the output as the hooks leave it, in the order in which they were registered."""
        for handle in self._hooks:
            replaced = handle.hook(self, args, output)
            output = output if replaced is None else replaced
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(2)  # the protocols before 2 do not save slots
        # The state is a tuple (attributes, slots) unless a derived class has its own __getstate__.
        if isinstance(reduced[2], tuple):
            # copy.copy would share the layer's own forward, and hooks are of this very layer.
            reduced[2][1].update(_forward=LastForward(), _hooks=())
        return reduced
