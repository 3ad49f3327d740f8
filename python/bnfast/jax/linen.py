"""flax.linen's BatchNorm, which trains with the compiled batch norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bnfast.jax._arrays import FLOATS
from bnfast.jax._norms import batch_norm

try:
    from flax import linen
except ModuleNotFoundError as error:
    raise ImportError("bnfast.jax.linen needs Flax: pip install flax") from error


class BatchNorm(linen.BatchNorm):
    """``flax.linen.BatchNorm`` with its arguments, parameters and ``batch_stats`` [1]_.

    Trained variables of either are the other's. In training, one feature axis without `mask` and
    `axis_name` is computed by :func:`bnfast.jax.batch_norm`; everything else, and inference, which
    XLA fuses with what stands beside it, is left to Flax. `use_fast_variance` does not matter: the
    variance is accurate, as fast as can be. Values of 16 bits are computed to float32 accuracy.

    References
    ----------
    .. [1] Flax, ``flax/linen/normalization.py``, https://flax.readthedocs.io.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from bnfast.jax.linen import BatchNorm
    >>> norm = BatchNorm(use_running_average=False, momentum=0.9)
    >>> x = jnp.array([[1.0, -5.0], [3.0, 5.0]])
    >>> variables = norm.init(jax.random.key(0), x)
    >>> y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    >>> print(y.round(3), updates["batch_stats"]["mean"])
    [[-1. -1.]
     [ 1.  1.]] [0.2 0. ]
    """

    @linen.compact
    def __call__(
        self, x: Any, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalise x; the arguments are Flax's."""
        average = linen.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        several = not isinstance(self.axis, int) or mask is not None or self.axis_name is not None
        if average or several or jnp.result_type(x).name not in FLOATS:
            return super().__call__(x, use_running_average, mask=mask)
        shape = (x.shape[self.axis],)
        kind = jnp.float32 if self.force_float32_reductions else self.param_dtype
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, kind)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, kind)
        gamma = beta = None
        if self.use_scale:
            gamma = self.param("scale", self.scale_init, shape, self.param_dtype)
        if self.use_bias:
            beta = self.param("bias", self.bias_init, shape, self.param_dtype)
        given = [a for a in (x, gamma, beta) if a is not None]
        dtype = jnp.dtype(self.dtype) if self.dtype is not None else jnp.result_type(*given)
        x = jnp.asarray(x, jnp.promote_types(jnp.result_type(x), dtype))
        y, mean, var = batch_norm(x, gamma, beta, axis=self.axis, eps=self.epsilon)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y.astype(dtype)
