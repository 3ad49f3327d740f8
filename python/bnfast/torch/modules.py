"""Modules that take the place of torch's: the same arguments and state, and what is fused."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bnfast.torch import functional


class _Fused(nn.Module):
    """What every normalization here has beside torch's own arguments."""

    def __init__(
        self,
        *args: Any,
        activation: str | None = None,
        activation_slope: float = 0.01,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.activation = activation
        self.activation_slope = activation_slope
        self.dropout = dropout

    def fused(self, residual: Tensor | None) -> dict[str, Any]:
        """Return the arguments of a function that torch's own does not have."""
        return {
            "residual": residual,
            "activation": self.activation,
            "activation_slope": self.activation_slope,
            "dropout": self.dropout if self.training else 0.0,
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
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        momentum = 0.0 if self.momentum is None else self.momentum
        tracks = self.training and self.track_running_stats
        if tracks and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the average of all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        given = tracks or not self.training
        return functional.batch_norm(
            x,
            self.running_mean if given else None,
            self.running_var if given else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            momentum,
            self.eps,
            **self.fused(residual),
        )


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    pass


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    pass


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    pass


class _InstanceNorm(_Fused, nn.modules.instancenorm._InstanceNorm):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        if x.dim() == self._get_no_batch_dim():
            residual = None if residual is None else residual.unsqueeze(0)
            return self(x.unsqueeze(0), residual).squeeze(0)
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"InstanceNorm: x has shape {tuple(x.shape)}, expected {self.num_features} channels"
            )
        return functional.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            **self.fused(residual),
        )


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    pass


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    pass


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    pass


class GroupNorm(_Fused, nn.GroupNorm):
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return functional.group_norm(
            x, self.num_groups, self.weight, self.bias, self.eps, **self.fused(residual)
        )


class LayerNorm(_Fused, nn.LayerNorm):
    def forward(self, x: Tensor, residual: Tensor | None = None, *, return_h: bool = False) -> Any:
        return functional.layer_norm(
            x,
            self.normalized_shape,
            self.weight,
            self.bias,
            self.eps,
            **self.fused(residual),
            return_h=return_h,
        )


class RMSNorm(_Fused, nn.RMSNorm):
    def forward(self, x: Tensor, residual: Tensor | None = None, *, return_h: bool = False) -> Any:
        return functional.rms_norm(
            x,
            self.normalized_shape,
            self.weight,
            self.eps,
            **self.fused(residual),
            return_h=return_h,
        )


class Dropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training, self.inplace)


class Dropout1d(nn.Dropout1d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout1d(x, self.p, self.training, self.inplace)


class Dropout2d(nn.Dropout2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout2d(x, self.p, self.training, self.inplace)


class Dropout3d(nn.Dropout3d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout3d(x, self.p, self.training, self.inplace)
