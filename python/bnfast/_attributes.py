"""Attributes of layers and running statistics: checked when they are set, or not to be set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from bnfast._checks import real_numbers, refuse_negative
from bnfast._sharing import lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

T = TypeVar("T")


class Fixed(Generic[T]):
    """What the constructor decides: an attribute that reads the slot `_name`, and cannot be set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._slot = name, f"_{name}"

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: Any = None) -> T: ...
    def __get__(self, instance: object | None, owner: Any = None) -> Any:
        return self if instance is None else self._read(instance)

    def __set__(self, instance: object, value: Any) -> None:
        raise self._refusal(instance, "cannot be set, make a new one")

    def __delete__(self, instance: object) -> None:
        raise self._refusal(instance, "cannot be deleted")

    def _read(self, instance: Any) -> Any:
        return getattr(instance, self._slot)

    def _refusal(self, instance: object, why: str) -> AttributeError:
        return AttributeError(f"{type(instance).__name__}: {self._name} {why}")


class Setting(Fixed[T]):
    """An attribute that passes the check of the constructor's argument whenever it is set."""

    def __init__(self, check: Callable[[str, str, Any], T]) -> None:
        self._check = check

    def __set__(self, instance: object, value: Any) -> None:
        setattr(instance, self._slot, self._check(type(instance).__name__, self._name, value))


class Derived(Fixed[T]):
    """An attribute that another one decides, and so the constructor: it cannot be set either."""

    def __init__(self, derive: Callable[[Any], T]) -> None:
        self._derive = derive

    def _read(self, instance: Any) -> T:
        return self._derive(instance)


class OfRunning(Fixed[T]):
    """An attribute of the running statistics that a layer has: not there without them.

    It is called `name` there, and may be set if there is a check for it.
    """

    def __init__(self, name: str, check: Callable[[str, str, Any], T] | None = None) -> None:
        self._there, self._check = name, check

    def _read(self, instance: Any) -> Any:
        return getattr(self._running(instance), self._there)

    def __set__(self, instance: Any, value: Any) -> None:
        if self._check is None:
            raise self._refusal(instance, "cannot be set, make a new `running`")
        running = self._running(instance)
        setattr(running, self._there, self._check(type(instance).__name__, self._name, value))

    def _running(self, instance: Any) -> Any:
        running = instance.running
        if running is None:
            raise self._refusal(instance, "belongs to running statistics, of which there are none")
        return running


class Values(Fixed[T]):
    """Values of parameters or channels: always the same array, into which an assignment copies.

    Where there is no array, or a read-only one, they cannot be set; `where` says where that is.
    """

    def __init__(self, where: str, *, negative: bool = True) -> None:
        self._where, self._negative = where, negative

    def __set__(self, instance: object, value: Any) -> None:
        array = self._read(instance)
        if array is None or not array.flags.writeable:
            raise self._refusal(instance, f"cannot be set {self._where}")
        operation = type(instance).__name__
        given = real_numbers(operation, self._name, value, array.shape)
        if not self._negative:
            refuse_negative(operation, self._name, given)
        with lock, np.errstate(all="ignore"):
            np.copyto(array, given, casting="same_kind")


class Gradient(Fixed[T]):
    """The gradient of a parameter: None, or an array of the parameter's shape (zeroed, clipped)."""

    def __init__(self, parameter: str) -> None:
        self._parameter = parameter

    def __set__(self, instance: Any, value: Any) -> None:
        if value is not None:
            parameter = getattr(instance, self._parameter)
            if parameter is None:
                raise self._refusal(instance, f"cannot be set without {self._parameter}")
            value = real_numbers(type(instance).__name__, self._name, value, parameter.shape)
        setattr(instance, self._slot, value)
