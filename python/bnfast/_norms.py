"""What the normalizations of a sample share: gradients, and the checks of a forward call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from bnfast import _core
from bnfast._choices import ACTIVATIONS, refuse_choice
from bnfast._core import NormContext
from bnfast._dropout import check_offset, check_rate, draw_seed

if TYPE_CHECKING:
    from bnfast._dropout import Seed

Array = NDArray[Any]
NO_DROPOUT, FIRST_STREAM = 0.0, 0


class NormGrads(NamedTuple):
    """Gradients of a normalization. An entry is None where its argument was not given."""

    dx: Array
    dgamma: Array | None
    dbeta: Array | None
    dresidual: Array | None


def activation_number(operation: str, activation: str | None) -> int:
    try:
        return ACTIVATIONS[activation]
    except (KeyError, TypeError):
        refuse_choice(operation, activation, "var")


def check_mask(operation: str, dropout: float, seed: Seed, offset: int) -> tuple[float, int, int]:
    """Check what names a dropout mask, and draw its seed where there is one to draw."""
    if dropout is NO_DROPOUT and offset is FIRST_STREAM and seed is None:
        return dropout, 0, offset  # a norm of few elements takes 2 us in all
    dropout = check_rate(operation, "dropout", dropout)
    drawn = draw_seed(operation, seed) if dropout > 0 or seed is not None else 0
    return dropout, drawn, check_offset(operation, offset)


def norm_backward(
    dy: Array, ctx: NormContext, *, dh: Array | None = None, out: Array | None = None
) -> NormGrads:
    """Gradients of a norm: of layer, RMS, group or instance normalization.

    Parameters
    ----------
    dy : ndarray like x
        Gradient of the loss at y.
    ctx : NormContext
        What the forward call returned.
    dh : ndarray like x, optional
        The gradient that reaches ``ctx.h`` by another way, as the residual stream of a pre-norm
        block does; added in the same pass. Only after layer and RMS norm.
    out : ndarray like x, optional
        Where to write dx: disjoint from every input, or exactly the memory of `dy`.

    Returns
    -------
    NormGrads
        ``dx``, ``dgamma``, ``dbeta``, ``dresidual``; gradients flow through mean and var. dgamma
        and dbeta are summed in float64, in an order that depends on the shape alone. An entry is
        None where the forward call had no such argument. Where the residual stands before the norm
        and nothing is dropped, dresidual is dx itself, the same array.

    Raises
    ------
    ValueError
        If `dh` is given after group or instance norm, and for bad shapes or overlap, before
        anything is written.

    Examples
    --------
    >>> import numpy as np, bnfast
    >>> x = np.array([[[1.0, 2.0, 6.0]]], dtype=np.float32)
    >>> y, ctx = bnfast.instance_norm(x, beta=np.zeros(1))
    >>> grads = bnfast.norm_backward(np.ones_like(x), ctx)
    >>> grads.dbeta
    array([3.], dtype=float32)
    >>> bool(np.abs(grads.dx).max() < 1e-6)  # a constant added to x does not change y
    True
    """
    return _core.norm_backward(dy, ctx=ctx, dh=dh, out=out)
