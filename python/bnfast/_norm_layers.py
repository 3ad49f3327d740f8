"""The layers of layer, RMS, group and instance norm: what each is called with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._attributes import Derived, Fixed
from bnfast._checks import whole_number
from bnfast._group_norm import group_norm, instance_norm
from bnfast._layer_norm import layer_norm, rms_norm
from bnfast._sample_norm import ChannelNorm, LastAxesNorm

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class LayerNorm(LastAxesNorm):
    """Layer normalization: gamma * (h - mean) / sqrt(var + eps) + beta over the last axes.

    h is x, or residual + drop(x), the residual stream of a Transformer: see `h`.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The lengths of the last axes of x, over which mean and (biased) variance are taken; an int
        stands for one axis.
    eps : float, default 1e-5
        Added to the variance under the square root; finite and not negative.
    affine : bool, default True
        Whether there are parameters to learn.
    bias : bool, default True
        Whether a shift `beta` is one of them, beside the scale `gamma`.
    activation : str, optional
        "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu" or "elu", applied at the end.
    dropout : float, default 0.0
        The probability that an element of x is dropped in training, before the residual is added;
        the rest is scaled to make up.
    dtype : {float32, float64}, default float32
        Of gamma and beta. x may be of any supported dtype.
    rng : None, int or numpy.random.Generator, optional
        Where the seeds of dropout come from, one a training call: a number in [0, 2**64) or a
        Generator, whose stream copies continue, or with None the operating system.

    Attributes
    ----------
    gamma, beta : ndarray of `dtype`, shape `normalized_shape`, or None
        1 and 0 at first. Always the same arrays: an optimiser changes them in place, and an
        assignment copies into them.
    dgamma, dbeta : ndarray, shape `normalized_shape`, or None
        Their gradients, set by `backward`; None before, and where there is no such parameter.
    h : ndarray like x, or None
        What the forward normalised that `backward` would be of; None without one. It is x itself
        where there was neither dropout nor a residual. It may be the next block's residual, whose
        gradient then comes back as `dh` of `backward`; its values must not change until that.
    training : bool
        True at first; set by `train` and `eval`.
    eps, activation, dropout, rng
        As given; they may be set between calls.
    normalized_shape, dtype
        As given; `normalized_shape` as a tuple.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Notes
    -----
    The layer holds on to h from a forward to the next one, as `backward` needs it; in evaluation,
    too. Threads may share it: every change of its state is whole, and `backward` and `h` are those
    of the thread's own last forward (of the latest of any thread, where it has run none).

    The method is that of Ba, Kiros & Hinton, "Layer Normalization" (2016), equation 3, before the
    sublayers of a block as in Xiong et al., "On Layer Normalization in the Transformer
    Architecture" (2020), figure 1b.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> ln = bnfast.LayerNorm(4, dtype="float64")
    >>> stream, branch = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.0, 0.0, 0.0, 2.0]])
    >>> ln(branch, residual=stream).round(2)
    array([[-1.07, -0.53,  0.  ,  1.6 ]])
    >>> ln.h
    array([[1., 2., 3., 6.]])
    >>> grads = ln.backward(np.ones((1, 4)), dh=np.ones((1, 4)))
    >>> grads.dresidual.round(2), ln.dbeta  # adding a constant to h does not change y
    (array([[1., 1., 1., 1.]]), array([1., 1., 1., 1.]))
    """

    __slots__ = ()
    _function = staticmethod(layer_norm)

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        *,
        eps: float = 1e-5,
        affine: bool = True,
        bias: bool = True,
        activation: str | None = None,
        dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(
            normalized_shape,
            eps=eps,
            affine=affine,
            bias=bias,
            activation=activation,
            dropout=dropout,
            dtype=dtype,
            rng=rng,
        )

    def __repr__(self) -> str:
        return self._show(f"{self._shape}", f"bias={self._beta is not None}")


class RMSNorm(LastAxesNorm):
    """RMS normalization: gamma * h / sqrt(mean(h**2) + eps) over the last axes.

    It is layer norm about zero: nothing is subtracted or added, so there is no `beta` (it is None).

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The lengths of the last axes of x, over which the mean square is taken.
    eps : float, default 1e-6
        Added to the mean square under the root; finite and not negative. PyTorch's default is the
        spacing of x's dtype at 1, np.finfo(dtype).eps.
    affine : bool, default True
        Whether there is a scale `gamma` to learn.
    activation, dropout, dtype, rng
        As of :class:`LayerNorm`, and so are the attributes, `h` among them.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Notes
    -----
    The method is that of Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019),
    equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> norm = bnfast.RMSNorm(2, eps=0.0)
    >>> norm(np.array([[3.0, 3.0], [0.0, -2.0]])).round(2)
    array([[ 1.  ,  1.  ],
           [ 0.  , -1.41]])
    >>> norm.backward(np.ones((2, 2))).dgamma.round(2)
    array([ 1.  , -0.41])
    """

    __slots__ = ()
    _function = staticmethod(rms_norm)

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        *,
        eps: float = 1e-6,
        affine: bool = True,
        activation: str | None = None,
        dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(
            normalized_shape,
            eps=eps,
            affine=affine,
            bias=False,
            activation=activation,
            dropout=dropout,
            dtype=dtype,
            rng=rng,
        )

    def __repr__(self) -> str:
        return self._show(f"{self._shape}")


class GroupNorm(ChannelNorm):
    """Group normalization: statistics over groups of neighbouring channels of each sample.

    Parameters
    ----------
    num_groups : int
        How many groups the channels are divided into, at least 1.
    num_channels : int
        Number of channels C, a multiple of `num_groups`.
    axis : int, default 1
        The channel axis of x: 1 for (N, C, ...), -1 for channels last. Axis 0 is the samples'.
    eps : float, default 1e-5
        Added to the variance under the square root; finite and not negative.
    affine : bool, default True
        Whether there are parameters to learn.
    bias : bool, default True
        Whether a shift `beta` is one of them, beside the scale `gamma`.
    activation : str, optional
        "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu" or "elu", applied at the end.
    dropout : float, default 0.0
        The probability that an element of y is dropped in training; the rest is scaled to make up.
    dtype, rng
        As of :class:`LayerNorm`.

    Attributes
    ----------
    gamma, beta, dgamma, dbeta : ndarray, shape (C,), or None
    training, eps, activation, dropout, rng, dtype
        As of :class:`LayerNorm`.
    axis
        As given; it may be set between calls.
    num_groups, num_channels
        As given.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Notes
    -----
    The method is that of Wu & He, "Group Normalization" (2018), section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> norm = bnfast.GroupNorm(2, 4, eps=0.0)
    >>> norm(np.array([[1.0, 3.0, 10.0, 30.0]]))
    array([[-1.,  1., -1.,  1.]])
    >>> norm.backward(np.ones((1, 4))).dgamma
    array([-1.,  1., -1.,  1.])
    """

    __slots__ = ("_num_groups",)
    _function = staticmethod(group_norm)
    num_groups = Fixed[int]()
    num_channels = Derived[int](lambda layer: layer._shape[0])

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *,
        axis: int = 1,
        eps: float = 1e-5,
        affine: bool = True,
        bias: bool = True,
        activation: str | None = None,
        dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        name = type(self).__name__
        self._num_groups = whole_number(name, "num_groups", num_groups, low=1)
        num_channels = whole_number(name, "num_channels", num_channels, low=1)
        if num_channels % self._num_groups:
            expected = f"a multiple of num_groups, {self._num_groups}"
            raise ValueError(f"{name}: num_channels is {num_channels}, expected {expected}")
        super().__init__(
            num_channels,
            axis=axis,
            eps=eps,
            affine=affine,
            bias=bias,
            activation=activation,
            dropout=dropout,
            dtype=dtype,
            rng=rng,
        )

    def __repr__(self) -> str:
        channels = f"{self._num_groups}, {self.num_channels}, axis={self.axis}"
        return self._show(channels, f"bias={self._beta is not None}")

    def _normalise(
        self, x: NDArray[Any], residual: NDArray[Any] | None, **statistics: Any
    ) -> NDArray[Any]:
        return super()._normalise(x, residual, num_groups=self._num_groups, **statistics)


class InstanceNorm(ChannelNorm):
    """Instance normalization: statistics of each channel of each sample.

    There are no running statistics: evaluation normalises every sample by its own, as training
    does. PyTorch's layer does so, too, unless it was made with `track_running_stats=True`: then it
    keeps running averages of the samples' means and variances, and evaluation normalises by these.
    The `state_dict` of such a layer is refused for its further keys.

    Parameters
    ----------
    num_features : int
        Number of channels C, at least 1.
    affine : bool, default False
        Whether there are parameters to learn. As in PyTorch, there are none by default.
    axis, eps, bias, activation, dropout, dtype, rng
        As of :class:`GroupNorm`, and so are the attributes.

    Attributes
    ----------
    num_features
        As given.

    Raises
    ------
    TypeError or ValueError
        If an argument is of another kind, or out of the range above.

    Notes
    -----
    The method is that of Ulyanov, Vedaldi & Lempitsky, "Instance Normalization: The Missing
    Ingredient for Fast Stylization" (2016), equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> import bnfast
    >>> norm = bnfast.InstanceNorm(2, eps=0.0)
    >>> norm(np.array([[[1.0, 3.0], [10.0, 30.0]]]))
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """

    __slots__ = ()
    _function = staticmethod(instance_norm)
    num_features = Derived[int](lambda layer: layer._shape[0])

    def __init__(
        self,
        num_features: int,
        *,
        axis: int = 1,
        eps: float = 1e-5,
        affine: bool = False,
        bias: bool = True,
        activation: str | None = None,
        dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        super().__init__(
            whole_number(type(self).__name__, "num_features", num_features, low=1),
            axis=axis,
            eps=eps,
            affine=affine,
            bias=bias,
            activation=activation,
            dropout=dropout,
            dtype=dtype,
            rng=rng,
        )

    def __repr__(self) -> str:
        channels = f"{self.num_features}, axis={self.axis}"
        return self._show(channels, f"bias={self._beta is not None}")
