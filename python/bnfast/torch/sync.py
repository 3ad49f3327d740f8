"""SyncBatchNorm: batch norm with the statistics of all processes, on the CPU too."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm as TorchBatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

import bnfast as _bnfast
from bnfast import GradientSums, Moments
from bnfast.torch._kernels import _core
from bnfast.torch._kernels import _wide as wide
from bnfast.torch._route import draw_seed
from bnfast.torch.modules import _BatchNorm

bnfast: Any = _bnfast  # typed for NumPy's arrays, and takes tensors as well
_Statistics = TypeVar("_Statistics", Moments, GradientSums)


def of_all_ranks(own: _Statistics, group: dist.ProcessGroup | None) -> _Statistics:
    """Return the statistics of all processes of a group together.

    Each process gets those of every rank and merges them in the order of the ranks. So all have the
    same bits, whichever message came first.
    """
    kind = type(own)
    mine = torch.frombuffer(bytearray(own.to_bytes()), dtype=torch.uint8)
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, mine, group)
    parts = [kind.from_bytes(part.numpy().tobytes()) for part in gathered]
    return sum(parts, start=kind.empty(len(own)))


class _Synchronised(torch.autograd.Function):
    """Batch norm by the moments of all processes, whose backward needs the sums of all."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: dict[str, Any],
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        y: Tensor
        weight, bias = wide(weight), wide(bias)
        y, context = bnfast.batch_norm(x, weight, bias, residual=residual, **options)
        context.set_arrays(None)  # torch saves them, and looks whether somebody writes into them
        ctx.save_for_backward(x, residual)
        ctx.context, ctx.group = context, group
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        given = dict(zip(("x", "residual"), ctx.saved_tensors, strict=True), ctx=ctx.context)
        sums = of_all_ranks(_core.batch_norm_backward_sums(dy, **given), ctx.group)
        grads = _core.batch_norm_backward(dy, sums=sums, **given)
        return *grads, None, None


class SyncBatchNorm(_BatchNorm):
    """Batch norm with the mean and variance of all processes' batches together, on the CPU.

    Arguments and state are those of ``torch.nn.SyncBatchNorm``, which needs a GPU [1]_, and beside
    them what every normalization here has. In training, the batches of the processes may be of
    different sizes, or empty. In evaluation, and outside of ``torch.distributed``, this is
    :class:`BatchNorm2d` for any number of axes.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype, bias
        As in ``torch.nn.SyncBatchNorm``. Statistics are shared within `process_group`; None means
        all processes.
    activation, activation_slope, dropout
        As in :class:`BatchNorm2d`.

    Notes
    -----
    A call to it sends, from each process to each, 32 bytes a channel forward and 24 backward. They
    are merged in the order of the ranks, in float64: results depend on no timing. The gradients of
    weight and bias are those of the own batch, of which ``DistributedDataParallel`` takes the mean.

    Gradients cannot be differentiated again where there are several processes.

    It is no subclass of ``torch.nn.SyncBatchNorm``, as ``DistributedDataParallel`` refuses those on
    the CPU.

    References
    ----------
    .. [1] C. Peng et al., "MegDet: A Large Mini-Batch Object Detector", CVPR 2018.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    >>> bnfast.torch.SyncBatchNorm.convert_sync_batchnorm(net)[1]
    SyncBatchNorm(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    process_group: dist.ProcessGroup | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: dist.ProcessGroup | None = None,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **options
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm: input has {input.dim()} axes, expected at least 2")

    def forward(self, input: Tensor, residual: Tensor | None = None, **of_call: Any) -> Tensor:
        group = self.process_group
        alone = not (dist.is_available() and dist.is_initialized())
        if alone or not self.training or dist.get_world_size(group) < 2:
            return super().forward(input, residual, **of_call)
        self._check_input_dim(input)
        if not input.is_cpu:
            raise ValueError(
                f"SyncBatchNorm: input is on {input.device}, expected cpu; there, use torch's own"
            )
        total = of_all_ranks(bnfast.moments(input.detach()), group)
        count = int(total.count[0])
        if count == 1:
            raise ValueError(
                "SyncBatchNorm: all processes together have 1 value per channel, expected more"
            )
        if count:
            self._track(total)
        options = self.fused(residual, **of_call) | {"stats": total, "eps": self.eps}
        residual = options.pop("residual")
        if options["dropout"]:
            options["seed"] = draw_seed()
        y: Tensor = _Synchronised.apply(input, self.weight, self.bias, residual, options, group)
        return y

    def _track(self, total: Moments) -> None:
        """Move the running statistics towards those of all processes."""
        mean, var, momentum = self.count_batch()
        with torch.no_grad():
            for running, new in ((mean, total.mean), (var, total.var(correction=1))):
                if running is not None:
                    running.lerp_(torch.tensor(new, dtype=running.dtype), momentum)

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Make every batch norm of a model one that is synchronised, in place; return the model.

        Parameters
        ----------
        module : nn.Module
            Batch norms of torch and of bnfast, at any depth, become this class. Lazy ones, whose
            number of channels is not known yet, stay.
        process_group : torch.distributed.ProcessGroup, optional
            Whose processes share statistics; all when None.

        Returns
        -------
        nn.Module
            `module` itself.
        """
        for each in module.modules():
            if isinstance(each, TorchBatchNorm) and not isinstance(each, LazyModuleMixin):
                each.__class__ = cls
                each.process_group = process_group
        return module
