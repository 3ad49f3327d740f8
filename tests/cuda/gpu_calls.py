"""bnfast's functions for NumPy's arrays, computed on the device: what the tests of the CPU call.

Arguments are copied to the device, results are written over NaN there where they may be given as
`out`, and come back as NumPy's arrays.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from gpu_arrays import DeviceArray, poisoned, to_device

import bnfast

Array = np.ndarray[Any, Any]


class Transfer:
    """The arrays of one call: the same array here is the same array there."""

    def __init__(self) -> None:
        self._there: dict[int, DeviceArray] = {}
        self._here: dict[int, Array] = {}

    def put(self, value: Any) -> Any:
        """An argument as the device's."""
        if isinstance(value, Context):
            return value.there
        if not isinstance(value, np.ndarray):
            return value
        if id(value) not in self._there:
            self.pair(to_device(value), value)
        return self._there[id(value)]

    def pair(self, there: DeviceArray, here: Array) -> None:
        self._there[id(here)], self._here[id(there)] = there, here

    def get(self, value: Any) -> Any:
        """A result as NumPy's."""
        if isinstance(value, DeviceArray):
            return self._here[id(value)] if id(value) in self._here else value.numpy()
        if isinstance(value, tuple) and not isinstance(value, bnfast.DropoutContext):
            values = map(self.get, value)
            return type(value)(*values) if hasattr(value, "_fields") else tuple(values)
        if type(value).__name__.endswith("NormContext"):
            return Context(value, self)
        return value


class Context:
    """A context of the device, whose arrays are NumPy's."""

    def __init__(self, there: Any, transfer: Transfer) -> None:
        self.there, self._transfer = there, transfer

    def __getattr__(self, name: str) -> Any:
        return self._transfer.get(getattr(self.there, name))


class OnDevice:
    """Stands for the module bnfast."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(bnfast, name)
        if not inspect.isfunction(function) or name == "dropout_mask":
            return function

        def call(*arguments: Any, out: Array | None = None, **named: Any) -> Any:
            transfer = Transfer()
            arguments = tuple(map(transfer.put, arguments))
            named = {key: transfer.put(value) for key, value in named.items()}
            if out is not None:
                named["out"] = transfer.put(out)
            elif "out" in inspect.signature(function).parameters:
                named["out"] = poisoned(arguments[0].numpy())
            results = function(*arguments, **named)
            if out is not None:
                out[...] = named["out"].numpy()
            return transfer.get(results)

        return call
