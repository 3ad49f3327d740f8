"""What the layers share whose statistics are a sample's own: a forward, a backward, the stream."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from bnfast._affine import AffineLayer
from bnfast._attributes import Derived, Setting
from bnfast._checks import check_channels, check_input, whole_number
from bnfast._norms import norm_backward
from bnfast._sharing import lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bnfast._core import NormContext
    from bnfast._norms import NormGrads


class SampleNorm(AffineLayer):
    """Base of the four: training and evaluation differ in dropout alone."""

    __slots__ = ()
    _function: ClassVar[Callable[..., tuple[NDArray[Any], NormContext]]]

    def _normalise(
        self, x: NDArray[Any], residual: NDArray[Any] | None, **statistics: Any
    ) -> NDArray[Any]:
        """Return y and keep the context; `statistics` say what each of them is taken over."""
        with lock:
            gamma, beta = self._parameters()
        # Without beta it is not named either: the function of RMS norm has no such argument.
        parameters = {"gamma": gamma} if beta is None else {"gamma": gamma, "beta": beta}
        options = self._options(self._training)
        y, ctx = self._function(x, residual=residual, **parameters, **statistics, **options)
        self._forward.keep(ctx)
        return y

    def backward(self, dy: NDArray[Any], dh: NDArray[Any] | None = None) -> NormGrads:
        """Return the gradients of the last forward; set `dgamma` and `dbeta`.

        Parameters
        ----------
        dy : ndarray of y's shape and dtype
            The gradient of the loss with respect to y.
        dh : ndarray of y's shape and dtype, optional
            Of `LayerNorm` and `RMSNorm` only: the gradient that reaches `h` by another way.

        Returns
        -------
        NormGrads
            dx, dgamma, dbeta, dresidual, as :func:`norm_backward` returns them. An entry is None
            where there was no such argument.

        Raises
        ------
        RuntimeError
            If there was no forward.
        TypeError or ValueError
            If dy or dh is of another kind, dtype or shape than y, or dh is given to a layer
            without `h`.
        """
        ctx = self._forward.require(f"{type(self).__name__}.backward", "norm")
        grads = norm_backward(dy, ctx, dh=dh)
        self._set_gradients(grads.dgamma, grads.dbeta)
        return grads

    def _show(self, *arguments: str) -> str:
        shown = (
            *arguments,
            f"eps={self.eps:g}",
            f"affine={self._gamma is not None}",
            f"activation={self.activation!r}",
            f"dropout={self.dropout:g}",
            f"dtype={self.dtype}",
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class LastAxesNorm(SampleNorm):
    """Base of layer and RMS norm: statistics over the last axes, and a residual stream."""

    __slots__ = ()
    normalized_shape = Derived[tuple[int, ...]](lambda layer: layer._shape)

    def __init__(self, normalized_shape: int | tuple[int, ...], **arguments: Any) -> None:
        super().__init__(_sizes(type(self).__name__, normalized_shape), **arguments)

    @property
    def h(self) -> NDArray[Any] | None:
        """What the last forward normalised: residual + drop(x), or x itself; None without one."""
        ctx: NormContext | None = self._forward.find()
        return None if ctx is None else ctx.h

    def __call__(self, x: NDArray[Any], residual: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return y of h = residual + drop(x): what the layer's formula says, after an activation.

        Parameters
        ----------
        x : ndarray of float16, bfloat16, float32 or float64
            The input, whose last axes have the lengths `normalized_shape`.
        residual : ndarray of x's shape and dtype, optional
            Added to x after dropout and before the norm, as in the blocks of a Transformer.

        Returns
        -------
        ndarray of x's shape and dtype
            In evaluation nothing is dropped; the statistics are those of h in both modes.

        Raises
        ------
        TypeError or ValueError
            For another kind, dtype or shape. The layer then only forgets the forward before.
        """
        # Forgotten first, so that its h can be freed before the next takes memory.
        self._forward.forget()
        name, shape = type(self).__name__, self._shape
        check_input(name, x)
        if x.shape[-len(shape) :] != shape:
            expected = ", ".join(("...", *map(str, shape)))
            raise ValueError(f"{name}: x has shape {x.shape}, expected ({expected})")
        y = self._normalise(x, residual, axis=tuple(range(-len(shape), 0)))
        return self._run_hooks((x, residual), y) if self._hooks else y


class ChannelNorm(SampleNorm):
    """Base of group and instance norm, whose parameters have an entry for each channel."""

    __slots__ = ("_axis",)
    _axis: int
    axis = Setting(partial(whole_number, low=-64))  # arrays have at most 64 dimensions

    def __init__(self, channels: int, *, axis: int, **arguments: Any) -> None:
        super().__init__((channels,), **arguments)
        self.axis = axis

    def __call__(self, x: NDArray[Any], residual: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return drop(act(gamma * (x - mean) / sqrt(var + eps) + beta + residual)).

        Parameters
        ----------
        x : ndarray of float16, bfloat16, float32 or float64
            The input: samples along axis 0, and the layer's number of channels on `axis`.
        residual : ndarray of x's shape and dtype, optional
            Added before the activation.

        Returns
        -------
        ndarray of x's shape and dtype
            In evaluation nothing is dropped; the statistics are those of x in both modes.

        Raises
        ------
        TypeError or ValueError
            For another kind, dtype or shape. The layer then only forgets the forward before.
        """
        # Forgotten first, so that its x can be freed before y takes memory.
        self._forward.forget()
        check_channels(type(self).__name__, x, self._axis, self._shape[0])
        y = self._normalise(x, residual, axis=self._axis)
        return self._run_hooks((x, residual), y) if self._hooks else y


def _sizes(operation: str, shape: Any) -> tuple[int, ...]:
    """Return `normalized_shape` as a tuple of at least one length, each at least 1."""
    given = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not given:
        raise ValueError(f"{operation}: normalized_shape is {shape}, expected at least one length")
    return tuple(whole_number(operation, "normalized_shape", size, low=1) for size in given)
