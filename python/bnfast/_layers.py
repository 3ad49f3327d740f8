"""The layer of batch norm: parameters, running statistics and the last forward."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._affine import AffineLayer
from bnfast._attributes import Derived, OfRunning, Setting
from bnfast._checks import check_channels, check_keys, one_of, truth, whole_number
from bnfast._choices import EPS_PLACEMENTS
from bnfast._functional import (
    batch_norm,
    batch_norm_backward,
    batch_norm_frozen,
    batch_norm_inference,
)
from bnfast._presets import preset_arguments
from bnfast._running import Mode, RunningStats, check_correction, check_mode, check_momentum
from bnfast._sharing import lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray
    from typing_extensions import Self

    from bnfast._functional import BatchNormGrads

_weight_of_batch = partial(check_momentum, mode="running_mode")


class BatchNorm(AffineLayer):
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
        Where the seeds of dropout come from, one a training call: a number in [0, 2**64) or a
        Generator, whose stream copies continue, or with None the operating system.

    Attributes
    ----------
    gamma, beta : ndarray of `dtype`, shape (C,), or None
        1 and 0 at first. Always the same arrays: an optimiser changes them in place, and an
        assignment copies into them.
    dgamma, dbeta : ndarray, shape (C,), or None
        Their gradients, set by `backward`; None before, and without `affine`.
    running : RunningStats or None
        The running statistics. They have `momentum`, `correction` and `running_mode`.
    training : bool
        True at first; set by `train` and `eval`.
    axis, eps, momentum, correction, activation, dropout, eps_placement, rng
        As given; they may be set between calls.
    num_features, dtype, running_mode
        As given.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Notes
    -----
    The layer holds on to x from a forward to the next one, as `backward` needs it; in evaluation,
    too. Threads may share it: every change of its state is whole, and `backward` is that of the
    thread's own last forward (of the latest of any thread, where it has run none).

    The method is that of Ioffe & Szegedy, "Batch Normalization" (2015), algorithms 1 and 2.

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

    __slots__ = ("_axis", "_eps_placement", "_running")
    _axis: int
    _eps_placement: str
    num_features = Derived[int](lambda layer: layer._shape[0])
    axis = Setting(partial(whole_number, low=-64))  # arrays have at most 64 dimensions
    eps_placement: Setting[str] = Setting(partial(one_of, choices=tuple(EPS_PLACEMENTS)))
    momentum = OfRunning("momentum", _weight_of_batch)
    running_mode: OfRunning[Mode] = OfRunning("mode")
    correction = OfRunning("correction", check_correction)

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
        name = type(self).__name__
        super().__init__(
            (whole_number(name, "num_features", num_features, low=1),),
            eps=eps,
            affine=affine,
            bias=True,
            activation=activation,
            dropout=dropout,
            dtype=dtype,
            rng=rng,
        )
        self.axis = axis
        self.eps_placement = eps_placement
        running = RunningStats(
            self.num_features,
            momentum=_weight_of_batch(name, "momentum", momentum),
            mode=check_mode(name, "running_mode", running_mode),
            correction=check_correction(name, "correction", correction),
            dtype=self._dtype,
        )
        self._running = running if truth(name, "track_running_stats", track_running_stats) else None

    @property
    def running(self) -> RunningStats | None:
        return self._running

    @running.setter
    def running(self, running: RunningStats | None) -> None:
        name = type(self).__name__
        if not isinstance(running, (RunningStats, type(None))):
            got = type(running).__name__
            raise TypeError(f"{name}: running is of type {got}, expected RunningStats or None")
        if running is not None and running.num_features != self.num_features:
            got = f"{running.num_features} channels, expected {self.num_features}"
            raise ValueError(f"{name}: running has {got}")
        self._running = running

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
            f"affine={self._gamma is not None}, activation={self.activation!r}, "
            f"eps_placement={self.eps_placement!r}, dtype={self.dtype}, running={self.running!r})"
        )

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
        self._forward.forget()
        check_channels("BatchNorm", x, self._axis, self._shape[0])
        training, running = self._training, self._running
        arguments = {
            "residual": residual,
            "where": where,
            "axis": self._axis,
            "eps_placement": self._eps_placement,
            **self._options(training),
        }
        if training or running is None:
            y = self._normalise_by_batch(running, x, arguments)
        else:
            y = self._normalise_by_running(running, x, arguments)
        return self._run_hooks((x, residual, where), y) if self._hooks else y

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
        differentiate = self._forward.require("BatchNorm.backward", "bn")
        grads: BatchNormGrads = differentiate(dy)
        self._set_gradients(grads.dgamma, grads.dbeta)
        return grads

    def _normalise_by_batch(
        self, running: RunningStats | None, x: NDArray[Any], arguments: dict[str, Any]
    ) -> NDArray[Any]:
        with lock:
            gamma, beta = self._parameters()
        y, ctx = batch_norm(x, gamma, beta, **arguments)
        if running is not None:  # and training: evaluation normalises by them instead
            running.update(ctx.moments)
        self._forward.keep(lambda dy: batch_norm_backward(dy, ctx))
        return y

    def _normalise_by_running(
        self, running: RunningStats, x: NDArray[Any], arguments: dict[str, Any]
    ) -> NDArray[Any]:
        # Few evaluations are differentiated, so the context is made when one is. Until then the
        # optimiser or a later update may write into the arrays: backward needs these values.
        with lock:
            mean, var = running._mean.copy(), running._var.copy()
            gamma, beta = self._parameters()
        y = batch_norm_inference(x, mean, var, gamma, beta, **arguments)

        def differentiate(dy: NDArray[Any]) -> BatchNormGrads:
            ctx = batch_norm_frozen(x, mean, var, gamma, beta, **arguments)[1]
            return batch_norm_backward(dy, ctx)

        self._forward.keep(differentiate)
        return y

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the state under PyTorch's names.

        Returns
        -------
        dict of str to ndarray
            "weight" and "bias" (gamma, beta), and what `RunningStats.state_dict` returns:
            "num_batches_tracked", and the rest with "running_" before it.
        """
        with lock:
            state = super().state_dict()
            if self._running is not None:
                state.update(self._running._state("running_"))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, into the arrays that are there.

        Parameters
        ----------
        state : mapping of str to array_like
            What `state_dict` returned, or a PyTorch BatchNorm's `state_dict()`. Without "bias"
            beta is 0 (PyTorch's `bias=False`), without "num_batches_tracked" that is 0 (old
            versions of PyTorch do not save it). Values may also be float16 or bfloat16.

        Raises
        ------
        TypeError or ValueError
            If `state` is no mapping, a key is missing or unknown, or an entry has a wrong shape or
            dtype, or is negative in "running_var". Nothing has been changed then.
        """
        operation, running = "BatchNorm.load_state_dict", self._running
        required, optional = self._parameter_keys()
        if running is not None:
            more_required, more_optional = running._keys("running_")
            required, optional = required + more_required, optional + more_optional
        check_keys(operation, state, required, optional)
        parameters = self._checked_parameters(operation, state)
        given = {} if running is None else running._checked(operation, state, "running_")
        with lock:
            self._load_parameters(parameters)
            if running is not None:
                running._load(given)
