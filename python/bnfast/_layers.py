"""Layers: what holds the state of training (parameters, running statistics, the last forward)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._checks import one_of, per_channel, real_number, whole_number
from bnfast._dropout import check_rate, random_source
from bnfast._functional import (
    batch_norm,
    batch_norm_backward,
    batch_norm_frozen,
    batch_norm_inference,
)
from bnfast._presets import preset_arguments
from bnfast._running import Mode, RunningStats, check_keys, state_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Self

    from bnfast._functional import BatchNormGrads

_ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "elu")


class BatchNorm:
    """Batch normalization with its parameters and running statistics.

    Parameters
    ----------
    num_features : int
        Number of channels C, at least 1.
    axis : int, default 1
        The channel axis of x: 1 for (N, C, ...), -1 for channels last.
    eps : float, default 1e-5
        Added to the variance under the square root; finite and not negative.
    momentum : float, default 0.1
        Weight of the new batch in the running statistics of mode "ema", in [0, 1].
    affine : bool, default True
        Whether there are a scale `gamma` and a shift `beta` to learn.
    track_running_stats : bool, default True
        Whether there are running statistics. Without them, evaluation uses the batch's own.
    running_mode : {"ema", "cumulative", "population"}, default "ema"
        How they are gathered, see `RunningStats`.
    correction : {1, 0}, default 1
        1 keeps the unbiased running variance, 0 the biased one.
    activation : str, optional
        "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu" or "elu", applied at the end.
    dropout : float, default 0.0
        The probability that an element of y is dropped in training; the rest is scaled to make up.
    eps_placement : {"var", "std"}, default "var"
        sqrt(var + eps) or sqrt(var) + eps.
    dtype : {float32, float64}, default float32
        Of gamma, beta and the running statistics. x may be of any supported dtype.
    rng : None, int or numpy.random.Generator, optional
        Where the seeds of dropout come from, one a training call; an int lies in [0, 2**64).

    Attributes
    ----------
    gamma, beta : ndarray of `dtype`, shape (C,), or None
        1 and 0 at first. Always the same arrays: an optimiser changes them in place.
    dgamma, dbeta : ndarray, shape (C,), or None
        Their gradients, set by `backward`; None before, and without `affine`.
    running : RunningStats or None
        The running statistics.
    training : bool
        True at first; set by `train` and `eval`.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Notes
    -----
    The layer holds on to x from a forward to the next one, as `backward` needs it; in evaluation,
    too. The method is that of Ioffe & Szegedy, "Batch Normalization" (2015), algorithms 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> bn = bnfast.BatchNorm(3)
    >>> x = np.random.default_rng(0).normal(5, 2, size=(16, 3, 8, 8)).astype(np.float32)
    >>> y = bn(x)
    >>> bool(np.all(np.abs(y.mean(axis=(0, 2, 3))) < 1e-5)), bn.running.num_batches_tracked
    (True, 1)
    >>> bn.backward(np.ones_like(y)).dbeta
    array([1024., 1024., 1024.], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        *,
        axis: int = 1,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        running_mode: Mode = "ema",
        correction: int = 1,
        activation: str | None = None,
        dropout: float = 0.0,
        eps_placement: str = "var",
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        name = "BatchNorm"
        self.num_features = whole_number(name, "num_features", num_features, low=1)
        self.axis = whole_number(name, "axis", axis, low=-64)  # NumPy's limit of dimensions
        self.eps = real_number(name, "eps", eps, low=0)
        self.activation = one_of(name, "activation", activation, _ACTIVATIONS)
        self.dropout = check_rate(name, "dropout", dropout)
        self.eps_placement = one_of(name, "eps_placement", eps_placement, ("var", "std"))
        self.dtype = state_dtype(name, dtype)
        self.rng = random_source(name, rng)
        self._generator = np.random.default_rng(self.rng)
        running = RunningStats(
            num_features, momentum=momentum, mode=running_mode, correction=correction, dtype=dtype
        )
        self.running: RunningStats | None = running if track_running_stats else None
        self.gamma: NDArray[Any] | None = np.ones(num_features, self.dtype) if affine else None
        self.beta: NDArray[Any] | None = np.zeros(num_features, self.dtype) if affine else None
        self.dgamma: NDArray[Any] | None = None
        self.dbeta: NDArray[Any] | None = None
        self.training = True
        self._differentiate: Callable[[NDArray[Any]], BatchNormGrads] | None = None

    @classmethod
    def from_preset(cls, name: str, num_features: int, **overrides: Any) -> Self:
        """Return a layer set up as another system sets its own up.

        Parameters
        ----------
        name : {"torch", "keras", "onnx", "darknet", "mxnet"}
            The system. `momentum`, given or not, is what it calls so:

            - "torch" (`nn.BatchNorm1d` ... `3d`): eps 1e-5, momentum 0.1 is the weight of the new
              value, unbiased running variance. `momentum=None` averages all batches alike.
            - "keras" (Keras 3): eps 1e-3, momentum 0.99 is the weight of the old value, biased
              running variance, channels last.
            - "onnx" (BatchNormalization, opset 15): eps 1e-5, momentum 0.9 (old), biased.
            - "darknet" (CPU): sqrt(var) + 1e-6, momentum 0.99 (old), unbiased.
            - "mxnet" (the operator BatchNorm, CPU): eps 1e-3, momentum 0.9 (old), biased.
        num_features : int
            Number of channels.
        **overrides
            Arguments of `BatchNorm` that replace the preset's.

        Returns
        -------
        BatchNorm
            Its `running.momentum` is the weight of the new value, whatever the system's meaning.

        Raises
        ------
        TypeError or ValueError
            If there is no preset `name`; if an argument is unknown or `BatchNorm` refuses it.

        Notes
        -----
        What is not reproduced: Darknet normalises the batch by the unbiased variance too, differs
        in the backward pass (1e-5 under the root for mean and variance, 1e-5 after it for x) and
        starts from a running variance of 0; with cuDNN it uses eps 1e-5 under the root. MXNet fixes
        gamma to 1 unless told otherwise (`fix_gamma`), and updates the running statistics in the
        backward pass. Keras 2 keeps the unbiased running variance when its fused kernel runs; take
        `correction=1` for it. PyTorch refuses a batch of one value a channel.

        Examples
        --------
        >>> import bnfast
        >>> bn = bnfast.BatchNorm.from_preset("keras", 8, momentum=0.75)
        >>> bn.axis, bn.eps, bn.running.momentum, bn.running.correction
        (-1, 0.001, 0.25, 0)
        """
        return cls(num_features, **preset_arguments(name, overrides))

    def __repr__(self) -> str:
        return (
            f"BatchNorm({self.num_features}, axis={self.axis}, eps={self.eps:g}, "
            f"affine={self.gamma is not None}, activation={self.activation!r}, "
            f"eps_placement={self.eps_placement!r}, dtype={self.dtype}, running={self.running!r})"
        )

    def train(self, mode: bool = True) -> Self:
        """Go to training mode, or with False to evaluation mode; return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Go to evaluation mode, where the running statistics normalise; return the layer."""
        return self.train(False)

    def __call__(
        self,
        x: NDArray[Any],
        residual: NDArray[Any] | None = None,
        where: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Return act(gamma * (x - mean) / sqrt(var + eps) + beta + residual).

        Parameters
        ----------
        x : ndarray of float16, bfloat16, float32 or float64
            The input, with `num_features` channels on `axis`.
        residual : ndarray of x's shape and dtype, optional
            Added before the activation.
        where : ndarray of bool, optional
            Broadcastable to x's shape with the channel axis removed or of length 1. Where it is
            False, x takes no part in the statistics, and y and the gradients are 0.

        Returns
        -------
        ndarray of x's shape and dtype
            In training mean and var are the batch's, and the running statistics take them in. In
            evaluation they are the running ones (the batch's, if there are none).

        Raises
        ------
        TypeError or ValueError
            For another kind, dtype or shape. The layer then only forgets the forward before.
        """
        # Forgotten first, so that its x can be freed before y takes memory.
        self._differentiate = None
        self._check_channels(x)
        if self.training or self.running is None:
            return self._normalise_by_batch(x, residual, where)
        return self._normalise_by_running(self.running, x, residual, where)

    def backward(self, dy: NDArray[Any]) -> BatchNormGrads:
        """Return the gradients of the last forward; set `dgamma` and `dbeta`.

        Parameters
        ----------
        dy : ndarray of y's shape and dtype
            The gradient of the loss with respect to y.

        Returns
        -------
        BatchNormGrads
            dx, dgamma, dbeta, dresidual. In evaluation the running statistics are constants.

        Raises
        ------
        RuntimeError
            If there was no forward.
        TypeError or ValueError
            If dy is of another kind, dtype or shape than y.
        """
        if self._differentiate is None:
            message = "no forward was run, expected y = bn(x) before bn.backward(dy)"
            raise RuntimeError(f"BatchNorm.backward: {message}")
        grads = self._differentiate(dy)
        self.dgamma, self.dbeta = grads.dgamma, grads.dbeta
        return grads

    def _arguments(self) -> dict[str, Any]:
        names = ("axis", "eps", "activation", "eps_placement")
        return {name: getattr(self, name) for name in names}

    def _check_channels(self, x: NDArray[Any]) -> None:
        # the core cannot: without gamma and beta it takes any number of channels
        if not isinstance(x, np.ndarray):
            got = type(x).__name__
            raise TypeError(f"BatchNorm: x is of type {got}, expected numpy.ndarray")
        if not -x.ndim <= self.axis < x.ndim:
            limits = f"[{-x.ndim}, {x.ndim}) for x with shape {x.shape}"
            raise ValueError(f"BatchNorm: axis is {self.axis}, expected one in {limits}")
        if x.shape[self.axis] != self.num_features:
            expected = f"{self.num_features} channels on axis {self.axis}"
            raise ValueError(f"BatchNorm: x has shape {x.shape}, expected {expected}")

    def _normalise_by_batch(
        self, x: NDArray[Any], residual: NDArray[Any] | None, where: NDArray[np.bool_] | None
    ) -> NDArray[Any]:
        arguments = {"residual": residual, "where": where, **self._arguments()}
        if self.training and self.dropout:
            arguments.update(dropout=self.dropout, seed=self._generator)
        y, ctx = batch_norm(x, self.gamma, self.beta, **arguments)
        if self.running is not None:  # this is training, then
            self.running.update(ctx.moments)
        self._differentiate = lambda dy: batch_norm_backward(dy, ctx)
        return y

    def _normalise_by_running(
        self,
        running: RunningStats,
        x: NDArray[Any],
        residual: NDArray[Any] | None,
        where: NDArray[np.bool_] | None,
    ) -> NDArray[Any]:
        part = _selector(x, where, self.axis)
        x = part(x)
        arguments = {"residual": part(residual), **self._arguments()}
        # Few evaluations are differentiated, so the context is made when one is. Until then the
        # optimiser or a later update may write into the arrays: backward needs these values.
        mean, var = running.mean.copy(), running.var.copy()
        gamma = None if self.gamma is None else self.gamma.copy()
        beta = None if self.beta is None else self.beta.copy()
        y: NDArray[Any] = part(batch_norm_inference(x, mean, var, gamma, beta, **arguments))

        def differentiate(dy: NDArray[Any]) -> BatchNormGrads:
            ctx = batch_norm_frozen(x, mean, var, gamma, beta, **arguments)[1]
            return batch_norm_backward(part(dy), ctx)

        self._differentiate = differentiate
        return y

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the state under PyTorch's names.

        Returns
        -------
        dict of str to ndarray
            "weight" and "bias" (gamma, beta), and what `RunningStats.state_dict` returns:
            "num_batches_tracked", and the rest with "running_" before it.
        """
        state: dict[str, NDArray[Any]] = {}
        if self.gamma is not None and self.beta is not None:
            state.update(weight=self.gamma.copy(), bias=self.beta.copy())
        if self.running is not None:
            running = self.running.state_dict()
            state.update({_torch_name(key): value for key, value in running.items()})
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, into the arrays that are there.

        Parameters
        ----------
        state : mapping of str to array_like
            What `state_dict` returned, or a PyTorch BatchNorm's `state_dict()`.

        Raises
        ------
        TypeError or ValueError
            If a key is missing or unknown, or an entry has a wrong shape or dtype. Nothing has been
            changed then.
        """
        name = "BatchNorm.load_state_dict"
        parameters = {"weight": self.gamma, "bias": self.beta} if self.gamma is not None else {}
        required, optional = self.running._keys() if self.running is not None else ((), ())
        names = {_torch_name(key): key for key in (*required, *optional)}
        check_keys(
            name, state, (*parameters, *map(_torch_name, required)), tuple(names)[len(required) :]
        )
        loaded = {key: per_channel(name, key, state[key], self.num_features) for key in parameters}
        if self.running is not None:
            self.running.load_state_dict({names[key]: state[key] for key in names if key in state})
        for key, array in parameters.items():
            assert array is not None
            array[:] = loaded[key]

    def __getstate__(self) -> dict[str, Any]:
        # a copy or a pickle of the layer is its state, not the activations of its last forward
        return {**self.__dict__, "_differentiate": None}


def _torch_name(key: str) -> str:
    return key if key == "num_batches_tracked" else f"running_{key}"


def _selector(x: NDArray[Any], where: Any, axis: int) -> Callable[[Any], Any]:
    """Return a function that puts 0 where `where` is False, in arrays of x's shape.

    With constant mean and var every element stands alone, so 0 in place of what is left out keeps
    NaN and Inf away from y and the gradients.
    """
    if where is None:
        return lambda values: values
    if not isinstance(where, np.ndarray) or where.dtype != np.bool_:
        got = getattr(where, "dtype", type(where).__name__)
        raise TypeError(f"BatchNorm: where is of {got}, expected an array of bool")
    one, without = list(x.shape), list(x.shape)
    one[axis] = 1
    del without[axis]
    try:
        full = where.ndim == x.ndim
        mask = np.broadcast_to(where, one if full else without)
        mask = np.broadcast_to(mask if full else np.expand_dims(mask, axis), x.shape)
    except ValueError as error:
        got, expected = where.shape, f"one that broadcasts to {tuple(without)} or {tuple(one)}"
        raise ValueError(f"BatchNorm: where has shape {got}, expected {expected}") from error

    def part(values: Any) -> Any:
        if not isinstance(values, np.ndarray) or values.shape != x.shape:
            return values  # None, or an error that the core reports
        kept = np.zeros_like(values)
        np.copyto(kept, values, where=mask)
        return kept

    return part
