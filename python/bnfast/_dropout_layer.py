"""The dropout layer: what holds the source of seeds and the context of the last forward."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bnfast._attributes import Setting
from bnfast._checks import one_of
from bnfast._dropout import (
    MODES,
    check_axes,
    check_rate,
    dropout,
    dropout_backward,
    dropout_inference,
    dropout_inference_backward,
)
from bnfast._layer import Layer

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray


class Dropout(Layer):
    """Dropout that draws a new mask in each training call, and does nothing random in evaluation.

    Parameters
    ----------
    rate : float, default 0.5
        The probability that an element is dropped, in [0, 1].
    mode : {"inverted", "classic", "alpha"}, default "inverted"
        See :func:`dropout`. "classic" multiplies by 1 - `rate` in evaluation, the others then copy.
    broadcast_axes : iterable of int, default ()
        Axes along which all elements share one decision.
    rng : None, int or numpy.random.Generator, optional
        Where seeds come from: the operating system, a Generator made from a number in [0, 2**64),
        or a Generator, which may be shared. Every training call draws one seed. Copies of the layer
        continue the stream of a number or a Generator, and otherwise draw masks of their own.

    Attributes
    ----------
    rate, mode, broadcast_axes, rng
        As given; they may be set between calls.
    training : bool
        True at first; set by `train` and `eval`.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> drop = bnfast.Dropout(0.5, rng=0)
    >>> x = np.ones(6, np.float32)
    >>> drop(x)
    array([0., 2., 2., 2., 0., 0.], dtype=float32)
    >>> drop.backward(x)
    array([0., 2., 2., 2., 0., 0.], dtype=float32)
    >>> drop.eval()(x)
    array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """

    __slots__ = ("_broadcast_axes", "_mode", "_rate")
    _rate: float
    _mode: str
    _broadcast_axes: tuple[int, ...]
    rate = Setting(check_rate)
    mode: Setting[str] = Setting(partial(one_of, choices=MODES))
    broadcast_axes = Setting(lambda operation, _, value: check_axes(operation, value))

    def __init__(
        self,
        rate: float = 0.5,
        *,
        mode: str = "inverted",
        broadcast_axes: Iterable[int] = (),
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(rng)
        self.rate = rate
        self.mode = mode
        self.broadcast_axes = broadcast_axes

    def __repr__(self) -> str:
        axes = f", broadcast_axes={self.broadcast_axes}" if self.broadcast_axes else ""
        return f"Dropout({self.rate:g}, mode={self.mode!r}{axes})"

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return x with elements dropped, or in evaluation what `dropout_inference` returns.

        Parameters
        ----------
        x : ndarray of float32, float64, float16 or bfloat16

        Returns
        -------
        ndarray like `x`
        """
        self._forward.forget()
        y = self._drop(x) if self._training else self._scale(x)
        return self._run_hooks((x,), y) if self._hooks else y

    def _drop(self, x: NDArray[Any]) -> NDArray[Any]:
        y, ctx = dropout(
            x,
            self._rate,
            seed=self._generator,
            mode=self._mode,
            broadcast_axes=self._broadcast_axes,
        )
        self._forward.keep(lambda dy: dropout_backward(dy, ctx))
        return y

    def _scale(self, x: NDArray[Any]) -> NDArray[Any]:
        rate, mode = self._rate, self._mode
        y = dropout_inference(x, rate, mode=mode)
        shape = x.shape
        self._forward.keep(lambda dy: dropout_inference_backward(dy, shape, rate, mode))
        return y

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient of the last forward.

        Parameters
        ----------
        dy : ndarray of y's shape
            Gradient of the loss at y.

        Returns
        -------
        ndarray like `dy`

        Raises
        ------
        RuntimeError
            If there was no forward.
        ValueError
            If dy is of another shape than y.
        """
        differentiate = self._forward.require("Dropout.backward", "drop")
        dx: NDArray[Any] = differentiate(dy)
        return dx
