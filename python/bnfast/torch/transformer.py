"""The layers of torch's Transformer, whose dropout, sum and norm are one pass over memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bnfast.torch.fusing import fused


def _by_position(layer: Any, x: Tensor) -> Tensor:
    """Swap the axes of samples and positions, where the samples are first.

    Attention works on, and returns, memory in which the positions are first. In this order the
    linear maps of a layer, and those of the next one, read memory from start to end.
    """
    return x.transpose(0, 1) if layer.self_attn.batch_first and x.dim() == 3 else x


def _attend(
    layer: Any, attention: nn.Module, x: Tensor, memory: Tensor | None, **masks: Any
) -> Tensor:
    query = _by_position(layer, x)
    memory = query if memory is None else memory
    attended: Tensor = attention(query, memory, memory, need_weights=False, **masks)[0]
    return _by_position(layer, attended)


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    wide = layer.dropout(layer.activation(layer.linear1(x)))
    narrow: Tensor = layer.linear2(wide)
    return narrow


class TransformerEncoderLayer(nn.TransformerEncoderLayer):
    """``torch.nn.TransformerEncoderLayer`` in training, its dropout, sum and norm in one pass.

    Arguments, parameters and masks are torch's. In evaluation torch's own code runs, with its fast
    path. The result may lie in memory with the positions first, whatever its shape.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> layer = bnfast.torch.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> layer(torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if not self.training:
            return super().forward(src, src_mask, src_key_padding_mask, is_causal)
        masks = {
            "attn_mask": src_mask,
            "key_padding_mask": src_key_padding_mask,
            "is_causal": is_causal,
        }
        x = _by_position(self, src)
        if self.norm_first:
            y = _attend(self, self.self_attn, self.norm1(x), None, **masks)
            y, x = fused(self.norm2, y, x, dropout=self.dropout1, return_h=True)
            x = x + self.dropout2(_feed_forward(self, y))
        else:
            y = _attend(self, self.self_attn, x, None, **masks)
            x = fused(self.norm1, y, x, dropout=self.dropout1)
            x = fused(self.norm2, _feed_forward(self, x), x, dropout=self.dropout2)
        return _by_position(self, x)


class TransformerDecoderLayer(nn.TransformerDecoderLayer):
    """``torch.nn.TransformerDecoderLayer``, its dropout, sum and norm in one pass.

    Arguments, parameters and masks are torch's. The result may lie in memory with the positions
    first, whatever its shape.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> layer = bnfast.torch.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    >>> layer(torch.ones(3, 5, 8), torch.ones(3, 7, 8)).shape
    torch.Size([3, 5, 8])
    """

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        masks = {
            "attn_mask": tgt_mask,
            "key_padding_mask": tgt_key_padding_mask,
            "is_causal": tgt_is_causal,
        }
        masks_of_memory = {
            "attn_mask": memory_mask,
            "key_padding_mask": memory_key_padding_mask,
            "is_causal": memory_is_causal,
        }
        x = _by_position(self, tgt)
        if self.norm_first:
            y = _attend(self, self.self_attn, self.norm1(x), None, **masks)
            y, x = fused(self.norm2, y, x, dropout=self.dropout1, return_h=True)
            y = _attend(self, self.multihead_attn, y, memory, **masks_of_memory)
            y, x = fused(self.norm3, y, x, dropout=self.dropout2, return_h=True)
            x = x + self.dropout3(_feed_forward(self, y))
        else:
            y = _attend(self, self.self_attn, x, None, **masks)
            x = fused(self.norm1, y, x, dropout=self.dropout1)
            y = _attend(self, self.multihead_attn, x, memory, **masks_of_memory)
            x = fused(self.norm2, y, x, dropout=self.dropout2)
            x = fused(self.norm3, _feed_forward(self, x), x, dropout=self.dropout3)
        return _by_position(self, x)
