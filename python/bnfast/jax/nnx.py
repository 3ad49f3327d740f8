"""flax.nnx's BatchNorm, which trains with the compiled batch norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bnfast.jax._arrays import FLOATS
from bnfast.jax._norms import batch_norm

try:
    from flax import nnx
except ModuleNotFoundError as error:
    raise ImportError("bnfast.jax.nnx needs Flax: pip install flax") from error


class BatchNorm(nnx.BatchNorm):
    """``flax.nnx.BatchNorm`` with its arguments and variables [1]_.

    Its state is the other's. What is computed by :func:`bnfast.jax.batch_norm` and what is left to
    Flax is as in :class:`bnfast.jax.linen.BatchNorm`.

    References
    ----------
    .. [1] Flax, ``flax/nnx/nn/normalization.py``, https://flax.readthedocs.io.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from bnfast.jax.nnx import BatchNorm
    >>> norm = BatchNorm(2, momentum=0.9, rngs=nnx.Rngs(0))
    >>> y = norm(jnp.array([[1.0, -5.0], [3.0, 5.0]]))
    >>> print(y.round(3), norm.mean[...])
    [[-1. -1.]
     [ 1.  1.]] [0.2 0. ]
    """

    def __call__(
        self, x: Any, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalise x; the arguments are Flax's."""
        average = self.use_running_average if use_running_average is None else use_running_average
        several = not isinstance(self.axis, int) or mask is not None or self.axis_name is not None
        if average is not False or several or jnp.result_type(x).name not in FLOATS:
            return super().__call__(x, use_running_average, mask=mask)
        variables = (self.mean, self.var, self.scale, self.bias)
        values = [None if v is None else v[...] for v in variables]
        x, _, _, gamma, beta = self.promote_dtype((x, *values), dtype=self.dtype)
        y, mean, var = batch_norm(x, gamma, beta, axis=self.axis, eps=self.epsilon)
        for running, new in ((self.mean, mean), (self.var, var)):
            new = self.momentum * running[...] + (1 - self.momentum) * new
            running[...] = jax.lax.stop_gradient(new)
        return y
