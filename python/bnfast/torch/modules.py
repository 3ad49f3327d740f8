"""Modules that take the place of torch's: the same arguments and state, and what is fused."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bnfast._checks import one_of
from bnfast._choices import ACTIVATIONS
from bnfast._dropout import check_rate
from bnfast.torch import _dropout, functional
from bnfast.torch._kernels import UNTRACKED, Running


class _Fused(nn.Module):
    """What every normalization here has beside torch's own arguments."""

    # Of modules that convert made, too: no constructor has run for them.
    activation: str | None = None
    activation_slope: float = 0.01
    dropout: float = 0.0

    def __init__(
        self,
        *args: Any,
        activation: str | None = None,
        activation_slope: float = 0.01,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        name = type(self).__name__
        # An nn.ReLU() would become a submodule, which nothing calls.
        self.activation = one_of(name, "activation", activation, tuple(ACTIVATIONS))
        self.activation_slope = activation_slope
        self.dropout = check_rate(name, "dropout", dropout)

    def fused(self, residual: Tensor | None, **of_call: Any) -> dict[str, Any]:
        """Return the arguments that torch's functions do not have; those of a call come first."""
        return {
            "residual": residual,
            "activation": self.activation,
            "activation_slope": self.activation_slope,
            "dropout": self.dropout if self.training else 0.0,
            **of_call,
        }

    def extra_repr(self) -> str:
        parts = [super().extra_repr()]
        if self.activation is not None:
            parts.append(f"activation={self.activation!r}")
        if self.activation == "leaky_relu":
            parts.append(f"activation_slope={self.activation_slope}")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        return ", ".join(parts)


class _BatchNorm(_Fused, nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor, residual: Tensor | None = None, **of_call: Any) -> Tensor:
        self._check_input_dim(input)
        running = self.count_batch()
        return functional.batch_norm(
            input,
            running.mean,
            running.var,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            running.momentum,
            self.eps,
            **self.fused(residual, **of_call),
        )

    def count_batch(self) -> Running:
        """Return the running statistics of a call, and count its batch if that changes them."""
        momentum = 0.0 if self.momentum is None else self.momentum
        tracks = self.training and self.track_running_stats
        if tracks and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the average of all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        if tracks or not self.training:
            return Running(self.running_mean, self.running_var, momentum)
        return UNTRACKED


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch normalization of x of shape (batch, channels) or (batch, channels, length).

    Takes the arguments of ``torch.nn.BatchNorm1d`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`batch_norm`, by name, and `residual` in a call.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.BatchNorm1d(4, activation="relu")
    >>> x = torch.randn(6, 4, 5)
    >>> norm(x, residual=x).shape == x.shape
    True
    """


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch normalization of x of shape (batch, channels, height, width).

    Takes the arguments of ``torch.nn.BatchNorm2d`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`batch_norm`, by name, and `residual` in a call.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.BatchNorm2d(4, activation="relu")
    >>> x = torch.randn(6, 4, 5, 5)
    >>> norm(x, residual=x).shape == x.shape
    True
    """


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch normalization of x of shape (batch, channels, depth, height, width).

    Takes the arguments of ``torch.nn.BatchNorm3d`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`batch_norm`, by name, and `residual` in a call.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.BatchNorm3d(4, activation="relu")
    >>> x = torch.randn(6, 4, 5, 5, 5)
    >>> norm(x, residual=x).shape == x.shape
    True
    """


class _InstanceNorm(_Fused, nn.modules.instancenorm._InstanceNorm):
    def forward(self, input: Tensor, residual: Tensor | None = None, **of_call: Any) -> Tensor:
        self._check_input_dim(input)
        if input.dim() == self._get_no_batch_dim():
            residual = None if residual is None else residual.unsqueeze(0)
            return self.forward(input.unsqueeze(0), residual, **of_call).squeeze(0)
        if input.shape[1] != self.num_features:
            got, expected = tuple(input.shape), f"{self.num_features} channels"
            raise ValueError(f"InstanceNorm: x has shape {got}, expected {expected}")
        return functional.instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            **self.fused(residual, **of_call),
        )


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """Instance normalization of x of shape (batch, channels, length).

    Takes the arguments of ``torch.nn.InstanceNorm1d`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`instance_norm`, by name, and `residual` in a call.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.InstanceNorm1d(4, activation="relu")
    >>> x = torch.randn(6, 4, 5)
    >>> norm(x, residual=x).shape == x.shape
    True
    """


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """Instance normalization of x of shape (batch, channels, height, width).

    Takes the arguments of ``torch.nn.InstanceNorm2d`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`instance_norm`, by name, and `residual` in a call.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.InstanceNorm2d(4, activation="relu")
    >>> x = torch.randn(6, 4, 5, 5)
    >>> norm(x, residual=x).shape == x.shape
    True
    """


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """Instance normalization of x of shape (batch, channels, depth, height, width).

    Takes the arguments of ``torch.nn.InstanceNorm3d`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`instance_norm`, by name, and `residual` in a call.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.InstanceNorm3d(4, activation="relu")
    >>> x = torch.randn(6, 4, 5, 5, 5)
    >>> norm(x, residual=x).shape == x.shape
    True
    """


class GroupNorm(_Fused, nn.GroupNorm):
    """Group normalization.

    Takes the arguments of ``torch.nn.GroupNorm`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`group_norm`, by name, and `residual` in a call.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.GroupNorm(2, 4, activation="silu")
    >>> norm(torch.randn(6, 4, 5)).shape
    torch.Size([6, 4, 5])
    """

    def forward(self, input: Tensor, residual: Tensor | None = None, **of_call: Any) -> Tensor:
        return functional.group_norm(
            input,
            self.num_groups,
            self.weight,
            self.bias,
            self.eps,
            **self.fused(residual, **of_call),
        )


class LayerNorm(_Fused, nn.LayerNorm):
    """Layer normalization, with dropout and a residual before it.

    Takes the arguments of ``torch.nn.LayerNorm`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`layer_norm`, by name. A call takes `residual`, and
    `return_h` for what was normalised as well.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.LayerNorm(5, dropout=0.1)
    >>> x, stream = torch.randn(6, 4, 5), torch.randn(6, 4, 5)
    >>> y, stream = norm(x, residual=stream, return_h=True)
    >>> y.shape
    torch.Size([6, 4, 5])
    """

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        return_h: bool = False,
        **of_call: Any,
    ) -> Any:
        return functional.layer_norm(
            input,
            self.normalized_shape,
            self.weight,
            self.bias,
            self.eps,
            **self.fused(residual, **of_call),
            return_h=return_h,
        )


class RMSNorm(_Fused, nn.RMSNorm):
    """Root mean square normalization, with dropout and a residual before it.

    Takes the arguments of ``torch.nn.RMSNorm`` and has its state; beyond these `activation`,
    `activation_slope` and `dropout` of :func:`rms_norm`, by name. A call takes `residual`, and
    `return_h` for what was normalised as well.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> norm = bnfast.torch.RMSNorm(5, dropout=0.1)
    >>> x, stream = torch.randn(6, 4, 5), torch.randn(6, 4, 5)
    >>> y, stream = norm(x, residual=stream, return_h=True)
    >>> y.shape
    torch.Size([6, 4, 5])
    """

    def forward(
        self, x: Tensor, residual: Tensor | None = None, *, return_h: bool = False, **of_call: Any
    ) -> Any:
        return functional.rms_norm(
            x,
            self.normalized_shape,
            self.weight,
            self.eps,
            **self.fused(residual, **of_call),
            return_h=return_h,
        )


class Dropout(nn.Dropout):
    """Dropout by :func:`dropout`, in the place of ``torch.nn.Dropout``."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(nn.Dropout1d):
    """Dropout of whole channels by :func:`dropout1d`, in the place of ``torch.nn.Dropout1d``."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(nn.Dropout2d):
    """Dropout of whole channels by :func:`dropout2d`, in the place of ``torch.nn.Dropout2d``."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(nn.Dropout3d):
    """Dropout of whole channels by :func:`dropout3d`, in the place of ``torch.nn.Dropout3d``."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout.dropout3d(input, self.p, self.training, self.inplace)
