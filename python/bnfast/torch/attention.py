"""Attention whose weights are dropped by bnfast: functional, and as nn.MultiheadAttention."""

from __future__ import annotations

import math
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from bnfast.torch._dropout import dropout

if TYPE_CHECKING:
    from torch import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention with dropout of its weights, softmax(query key^T scale + mask), by bnfast.

    Parameters and errors are those of ``torch.nn.functional.scaled_dot_product_attention`` [1]_,
    to which calls without dropout go, as it has kernels that never store the weights, and calls
    within ``torch.compile``.

    Parameters
    ----------
    query : Tensor of shape (..., L, E)
    key : Tensor of shape (..., S, E)
    value : Tensor of shape (..., S, Ev)
    attn_mask : Tensor of bool or of query's dtype, broadcasts to (..., L, S), optional
        True where a query may attend to a key, or a number that is added to the scores.
    dropout_p : float
        The probability that a weight is dropped. As in torch, there is no flag for training.
    is_causal : bool
        Whether query i attends to the keys 0 to i only; not together with `attn_mask`.
    scale : float, optional
        1 / sqrt(E) when None.
    enable_gqa : bool
        Whether a head of key and value serves several heads of query.

    Returns
    -------
    Tensor of shape (..., L, Ev)

    Raises
    ------
    ValueError
        If there are both a mask and `is_causal`.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NIPS 2017, section 3.2.1.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> q = k = v = torch.eye(3)[None]
    >>> bnfast.torch.scaled_dot_product_attention(q, k, v, dropout_p=0.5).shape
    torch.Size([1, 3, 3])
    """
    if dropout_p == 0.0 or torch.compiler.is_compiling():
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if is_causal:
        if attn_mask is not None:
            raise ValueError(
                "scaled_dot_product_attention: got attn_mask and is_causal, expected one of them"
            )
        sizes = query.size(-2), key.size(-2)
        attn_mask = torch.ones(sizes, dtype=torch.bool, device=query.device).tril()
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    if scale is None:
        scale = 1.0 / math.sqrt(query.size(-1))
    scores = (query * scale) @ key.transpose(-2, -1)
    if attn_mask is None:
        return dropout(scores.softmax(-1), dropout_p) @ value
    if attn_mask.dtype == torch.bool:
        # The gradient of a sum is nobody's work; that of masked_fill would be a pass of its own.
        attn_mask = scores.new_zeros(attn_mask.shape).masked_fill_(~attn_mask, -math.inf)
    nothing = attn_mask.amax(-1, keepdim=True) == -math.inf
    if not nothing.any():
        return dropout(scores.add_(attn_mask).softmax(-1), dropout_p) @ value
    # A query that may attend to no key gets zeros, as from torch, and not NaN.
    weights = scores.add_(attn_mask.masked_fill(nothing, 0.0)).softmax(-1)
    return dropout(weights.masked_fill(nothing, 0.0), dropout_p) @ value


def _with_names(function: Any, **names: object) -> Any:
    """Return a copy of a function for which some global names mean something else."""
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__ = function.__doc__
    return copy


# torch's own code, in which the two functions that drop something are bnfast's.
_multi_head_attention_forward = _with_names(
    functional.multi_head_attention_forward,
    dropout=dropout,
    scaled_dot_product_attention=scaled_dot_product_attention,
)
_names = vars(functional) | {"multi_head_attention_forward": _multi_head_attention_forward}
_forward = _with_names(nn.MultiheadAttention.forward, F=SimpleNamespace(**_names))


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` whose attention weights are dropped by bnfast.

    Arguments, parameters, masks and the fast path in evaluation are torch's. So is the dropout
    under ``torch.compile``, which makes it part of other loops.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> attention = bnfast.torch.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
    >>> x = torch.ones(3, 5, 8)
    >>> attention(x, x, x)[0].shape
    torch.Size([3, 5, 8])
    """

    def forward(self, *args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return super().forward(*args, **options)
        return _forward(self, *args, **options)
