"""Dropout of tensors, whose gradient is dropout with the same mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import bnfast
from bnfast._dropout import check_rate
from bnfast.torch import _kernels
from bnfast.torch._operators import drop_by_operator
from bnfast.torch._route import Route, draw_seed, gradient_route, route


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout as ``torch.nn.functional.dropout``, with the masks of :func:`bnfast.dropout`.

    Each element is dropped with probability `p`, and the others are divided by 1 - `p` [1]_.

    Parameters
    ----------
    input : Tensor
        Any shape and any strides.
    p : float
        The probability that an element is dropped, in [0, 1].
    training : bool
        Whether to drop anything; `input` itself is returned otherwise.
    inplace : bool
        Whether to write over `input`.

    Returns
    -------
    Tensor like `input`
        A dropped element is 0 whatever `input` held there, NaN and Inf too.

    Raises
    ------
    ValueError, TypeError
        For a bad rate, kind or dtype.

    Notes
    -----
    A call draws one number from torch's default generator, the seed of its mask. Nothing but the
    seed is kept for the gradient. Tensors without a kernel go the way that :func:`batch_norm`
    tells.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: A
       Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> x = torch.ones(8)
    >>> _ = torch.manual_seed(0)
    >>> y = bnfast.torch.dropout(x, 0.5)
    >>> _ = torch.manual_seed(0)
    >>> bool((bnfast.torch.dropout(x, 0.5) == y).all())
    True
    """
    return _checked("dropout", input, p, training, inplace)


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels, as ``torch.nn.functional.dropout1d``.

    Parameters
    ----------
    input : Tensor
        Of shape (batch, channels, length) or (channels, length).
    p, training, inplace
        As in :func:`dropout`.

    Returns
    -------
    Tensor like `input`

    Raises
    ------
    ValueError, TypeError
        For a bad rate, shape, kind or dtype.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> y = bnfast.torch.dropout1d(torch.ones(10, 10, 2), 0.5)
    >>> bool((y.flatten(2).std(2) == 0).all())  # all of a channel or nothing
    True
    """
    return _checked("dropout1d", input, p, training, inplace, (2, 3), unbatched=2)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels, as ``torch.nn.functional.dropout2d``.

    Parameters
    ----------
    input : Tensor
        Of shape (batch, channels, height, width) or (batch, channels, length).
    p, training, inplace
        As in :func:`dropout`.

    Returns
    -------
    Tensor like `input`

    Raises
    ------
    ValueError, TypeError
        For a bad rate, shape, kind or dtype.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> y = bnfast.torch.dropout2d(torch.ones(10, 10, 2, 2), 0.5)
    >>> bool((y.flatten(2).std(2) == 0).all())  # all of a channel or nothing
    True
    """
    return _checked("dropout2d", input, p, training, inplace, (3, 4))


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout of whole channels, as ``torch.nn.functional.dropout3d``.

    Parameters
    ----------
    input : Tensor
        Of shape (batch, channels, depth, height, width) or (channels, depth, height, width).
    p, training, inplace
        As in :func:`dropout`.

    Returns
    -------
    Tensor like `input`

    Raises
    ------
    ValueError, TypeError
        For a bad rate, shape, kind or dtype.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> y = bnfast.torch.dropout3d(torch.ones(10, 10, 2, 2, 2), 0.5)
    >>> bool((y.flatten(2).std(2) == 0).all())  # all of a channel or nothing
    True
    """
    return _checked("dropout3d", input, p, training, inplace, (4, 5), unbatched=4)


def _checked(
    name: str,
    x: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    dims: tuple[int, ...] = (),
    unbatched: int | None = None,
) -> Tensor:
    p = check_rate(name, "p", p)
    if dims and x.dim() not in dims:
        expected = " or ".join(map(str, dims))
        raise ValueError(f"{name}: x has {x.dim()} dimensions, expected {expected}")
    if not training or p == 0 or x.numel() == 0:
        return x
    if x.dim() != unbatched:
        return drop(x, p, bool(dims), inplace)
    return drop(x.unsqueeze(0), p, True, inplace).squeeze(0)


def drop(x: Tensor, rate: float, channels: bool = False, inplace: bool = False) -> Tensor:
    """Drop elements of x, or whole channels: what lies beyond the first two axes."""
    way = route("dropout", x)
    if way is Route.TORCH:
        if channels:
            return (torch.feature_dropout_ if inplace else torch.feature_dropout)(x, rate, True)
        return F.dropout(x, rate, True, inplace)
    if way is Route.OPERATOR:
        y = drop_by_operator(x, rate, channels)
        return x.copy_(y) if inplace else y
    seed = draw_seed()
    if torch.is_grad_enabled() and x.requires_grad:
        dropped: Tensor = _apply(x, rate, seed, channels, inplace)
        return dropped
    return _kernels.drop(x, rate, seed, channels, inplace)


def drop_again(x: Tensor, rate: float, seed: int, channels: bool = False) -> Tensor:
    """Apply the mask of a seed, as gradients do; this can be differentiated any number of times."""
    if gradient_route(x) is not Route.KERNEL:
        mask = bnfast.dropout_mask(
            tuple(x.shape), rate, seed=seed, broadcast_axes=_kernels.shared_axes(x, channels)
        )
        scale = 1 / (1 - rate) if rate < 1 else 0.0
        return torch.where(torch.from_numpy(mask), x * scale, 0)
    if torch.is_grad_enabled() and x.requires_grad:
        dropped: Tensor = _apply(x, rate, seed, channels, False)
        return dropped
    return _kernels.drop(x, rate, seed, channels)


class _Dropout(torch.autograd.Function):
    """Dropout in torch's graph; it saves no tensor."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rate: float, seed: int, channels: bool, inplace: bool
    ) -> Tensor:
        ctx.mask = rate, seed, channels
        if inplace:
            ctx.mark_dirty(x)
        return _kernels.drop(x, rate, seed, channels, inplace)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return drop_again(dy, *ctx.mask), None, None, None, None


_apply: Callable[..., Any] = _Dropout.apply
