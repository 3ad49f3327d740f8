"""Normalization and dropout with the arguments of torch.nn.functional, and what is fused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bnfast._choices import ACTIVATIONS, refuse_choice
from bnfast._dropout import check_rate
from bnfast.torch._kernels import Norm, Running
from bnfast.torch._norm import normalise


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
) -> Tensor:
    """Batch normalization as ``torch.nn.functional.batch_norm``, with what follows it in one pass.

    ``y = drop(act(weight * (x - mean) / sqrt(var + eps) + bias + residual))``, the statistics being
    those of each channel of x or, unless `training`, the running ones [1]_.

    Parameters
    ----------
    input : Tensor of shape (batch, channels, ...)
        The x of the formula, of float32, float64, float16 or bfloat16. Contiguous and channels-last
        tensors are read in place, and y and the gradient of x keep their format.
    running_mean, running_var : Tensor of shape (channels,) or None
        Updated in place in training, var by the unbiased variance of the batch; read otherwise.
    weight, bias : Tensor of shape (channels,), optional
        Learnt scale and shift; 1 and 0 when None.
    training : bool
        Whether to normalise by the statistics of the batch.
    momentum : float
        The weight of the batch in the running statistics.
    eps : float
        Added to the variance, finite and not negative.
    residual : Tensor like `input`, optional
        Added before the activation. If its dtype is another one, both are promoted.
    activation : {None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu"}
        "gelu" is the form with erf.
    activation_slope : float
        Slope of "leaky_relu" for negative arguments.
    dropout : float
        Rate in [0, 1] of dropout behind the activation, in training. The seed of its mask is drawn
        from torch's default generator, which ``torch.manual_seed`` sets.

    Returns
    -------
    Tensor like `input`

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes, kinds or dtypes, and in training for one value a channel.

    Notes
    -----
    Gradients flow through the batch's mean and variance; they can be differentiated again, which
    torch's own operations then do. Tensors for which there is no kernel (on other devices, of other
    dtypes, of subclasses, inside transformations of ``torch.func``) are computed by torch's own
    operations, and a warning says so once for each reason.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", ICML 2015, algorithm 1.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    >>> mean, var = torch.zeros(2), torch.ones(2)
    >>> bnfast.torch.batch_norm(x, mean, var, training=True, momentum=0.5, activation="relu")
    tensor([[0.0000, 0.0000],
            [1.0000, 1.0000]])
    >>> mean, var
    (tensor([ 1., 10.]), tensor([  1.5000, 100.5000]))
    """
    name = "batch_norm"
    if training:
        if input.dim() > 1:
            _check_count(name, input, input.shape[1])
    else:
        dropout = 0.0
        if running_mean is None or running_var is None:
            raise ValueError(f"{name}: running_mean or running_var is None, expected tensors")
    kind = "batch" if training else "frozen"
    norm = _norm(name, kind, 0, eps, activation, activation_slope, dropout)
    running = Running(running_mean, running_var, momentum)
    return normalise(norm, input, weight, bias, residual, running)[0]


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
) -> Tensor:
    """Instance normalization as ``torch.nn.functional.instance_norm``, fused as batch norm is.

    ``y = drop(act(weight * (x - mean) / sqrt(var + eps) + bias + residual))`` with the statistics
    of each channel of each sample [1]_ or, unless `use_input_stats`, the running ones.

    Parameters
    ----------
    input : Tensor of shape (batch, channels, ...)
        The x of the formula.
    running_mean, running_var : Tensor of shape (channels,) or None
        Updated in place by the averages over the samples where `use_input_stats`, read otherwise.
    use_input_stats : bool
        Whether to normalise by the statistics of x.
    weight, bias, momentum, eps, residual, activation, activation_slope, dropout
        As in :func:`batch_norm`.

    Returns
    -------
    Tensor like `input`

    Raises
    ------
    ValueError, TypeError
        As :func:`batch_norm`.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance Normalization: The Missing Ingredient
       for Fast Stylization", arXiv:1607.08022, 2016, equation 4.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> x = torch.tensor([[[1.0, 3.0]], [[10.0, 30.0]]])  # two samples, one channel
    >>> bnfast.torch.instance_norm(x).round(decimals=4)
    tensor([[[-1.,  1.]],
    <BLANKLINE>
            [[-1.,  1.]]])
    """
    name = "instance_norm"
    if use_input_stats:
        _check_count(name, input, math.prod(input.shape[:2]))
    else:
        dropout = 0.0
        if running_mean is None or running_var is None:
            raise ValueError(f"{name}: running_mean or running_var is None, expected tensors")
    kind = "instance" if use_input_stats else "frozen"
    norm = _norm(name, kind, 0, eps, activation, activation_slope, dropout)
    running = Running(running_mean, running_var, momentum)
    return normalise(norm, input, weight, bias, residual, running)[0]


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
) -> Tensor:
    """Group normalization as ``torch.nn.functional.group_norm``, fused as batch norm is.

    ``y = drop(act(weight * (x - mean) / sqrt(var + eps) + bias + residual))`` with the statistics
    of groups of neighbouring channels of each sample [1]_.

    Parameters
    ----------
    input : Tensor of shape (batch, channels, ...)
        The x of the formula.
    num_groups : int
        The number of channels is a multiple of it.
    weight, bias, eps, residual, activation, activation_slope, dropout
        As in :func:`batch_norm`; dropout takes place wherever its rate is not 0.

    Returns
    -------
    Tensor like `input`

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes, kinds or dtypes, and where all statistics together have one value.

    References
    ----------
    .. [1] Y. Wu and K. He, "Group Normalization", ECCV 2018, equation 7.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> x = torch.tensor([[1.0, 3.0, 10.0, 30.0]])  # a sample of four channels
    >>> bnfast.torch.group_norm(x, 2).round(decimals=4)
    tensor([[-1.,  1., -1.,  1.]])
    """
    name = "group_norm"
    if input.dim() >= 2 and num_groups > 0:
        _check_count(name, input, num_groups)  # as torch, where all samples have one value a group
    norm = _norm(name, "group", num_groups, eps, activation, activation_slope, dropout)
    return normalise(norm, input, weight, bias, residual)[0]


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
    return_h: bool = False,
) -> Any:
    """Layer normalization as ``torch.nn.functional.layer_norm``, with what stands before it.

    ``h = residual + drop(x)`` and ``y = act(weight * (h - mean) / sqrt(var + eps) + bias)`` with
    the statistics of h over its last axes [1]_.

    Parameters
    ----------
    input : Tensor
        The x of the formula.
    normalized_shape : sequence of int
        The lengths of the axes that the statistics are taken over: the last ones of x.
    weight, bias : Tensor of shape `normalized_shape`, optional
        Learnt scale and shift; 1 and 0 when None.
    eps, activation, activation_slope
        As in :func:`batch_norm`.
    residual : Tensor like `input`, optional
        Added before the norm, as the residual stream of a Transformer's block.
    dropout : float
        Rate in [0, 1] of dropout of x before `residual` is added, wherever it is not 0; the seed is
        drawn as in :func:`batch_norm`.
    return_h : bool
        Whether to return h as well, which is the residual of a pre-norm Transformer's next block.

    Returns
    -------
    Tensor like `input`, or a tuple (y, h) of two such
        Where there is neither `residual` nor `dropout`, h is x itself.

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes, kinds or dtypes.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", arXiv:1607.06450, 2016,
       equation 4.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> x = torch.tensor([[1.0, 3.0], [10.0, 30.0]])
    >>> y, h = bnfast.torch.layer_norm(x, (2,), residual=torch.ones(2, 2), return_h=True)
    >>> y.round(decimals=4)
    tensor([[-1.,  1.],
            [-1.,  1.]])
    >>> h
    tensor([[ 2.,  4.],
            [11., 31.]])
    """
    name = "layer_norm"
    axes = _check_shape(name, input, normalized_shape)
    norm = _norm(name, "layer", axes, eps, activation, activation_slope, dropout)
    y_and_h = normalise(norm, input, weight, bias, residual)
    return y_and_h if return_h else y_and_h[0]


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    activation_slope: float = 0.01,
    dropout: float = 0.0,
    return_h: bool = False,
) -> Any:
    """Root mean square normalization as ``torch.nn.functional.rms_norm``, fused as layer norm is.

    ``h = residual + drop(x)`` and ``y = act(weight * h / sqrt(mean(h**2) + eps))`` with the mean
    over the last axes [1]_.

    Parameters
    ----------
    input, normalized_shape, weight, residual, activation, activation_slope, dropout, return_h
        As in :func:`layer_norm`.
    eps : float, optional
        Added to the mean square. None stands for the distance from 1 to the next larger number of
        the type that is computed in: float64 for float64, float32 for all others.

    Returns
    -------
    Tensor like `input`, or a tuple (y, h) of two such

    Raises
    ------
    ValueError, TypeError
        For bad values, shapes, kinds or dtypes.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019,
       equation 4.

    Examples
    --------
    >>> import torch, bnfast.torch
    >>> bnfast.torch.rms_norm(torch.tensor([[3.0, 3.0], [-2.0, 2.0]]), (2,)).round(decimals=4)
    tensor([[ 1.,  1.],
            [-1.,  1.]])
    """
    name = "rms_norm"
    axes = _check_shape(name, input, normalized_shape)
    if eps is None:  # that of the type computed in
        eps = torch.finfo(torch.float64 if input.dtype is torch.float64 else torch.float32).eps
    norm = _norm(name, "rms", axes, eps, activation, activation_slope, dropout)
    y_and_h = normalise(norm, input, weight, None, residual)
    return y_and_h if return_h else y_and_h[0]


def _norm(
    name: str,
    kind: str,
    extent: int,
    eps: float,
    activation: str | None,
    slope: float,
    dropout: float,
) -> Norm:
    """Check what torch's own operations would not."""
    if activation is not None and activation not in ACTIVATIONS:
        refuse_choice(name, activation, "var")
    if dropout:
        dropout = check_rate(name, "dropout", dropout)
    return Norm(kind, extent, eps, activation, slope, dropout)


def _check_count(name: str, x: Tensor, statistics: int) -> None:
    if x.numel() == statistics != 0:
        shape = tuple(x.shape)
        raise ValueError(f"{name}: x has shape {shape}, expected more than 1 value per channel")


def _check_shape(name: str, x: Tensor, normalized_shape: Sequence[int]) -> int:
    """Return how many axes there are in normalized_shape."""
    count = len(normalized_shape)
    if count == 0 or x.dim() < count or x.shape[-count:] != tuple(normalized_shape):
        raise ValueError(
            f"{name}: normalized_shape is {tuple(normalized_shape)}, "
            f"expected the last lengths of x with shape {tuple(x.shape)}"
        )
    return count
