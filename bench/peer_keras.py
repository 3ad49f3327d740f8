"""Keras on TensorFlow as a contender: training, inference and dropout on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from contender import Contender
from workload import EPS, RATE, SEED, Case


class Keras:
    """Its layers in a `tf.function`, without and with XLA; TensorFlow's fused kernel beside them.

    In training the layer also updates its moving statistics, a few numbers a channel.
    """

    name = "keras"

    def __init__(self, num_threads: int) -> None:
        # Both are read once, at import: Keras on another backend, and lines of news on stderr.
        os.environ["KERAS_BACKEND"] = "tensorflow"
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(num_threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        self._keras: Any = keras
        self._tf: Any = tensorflow
        self.version: str = f"{keras.__version__}, tensorflow {tensorflow.__version__}"

    def contenders(self, case: Case) -> list[Contender]:
        if case.operation.kind not in ("forward", "inference", "dropout"):
            return []
        tf = self._tf
        x = tf.constant(case.x)
        residual = None if case.residual is None else tf.constant(case.residual)
        found = []
        for name, normalise, compiled in self._layers(case):
            finish = self._finish(case, normalise)
            # On the CPU a call returns when its result is there.
            run = tf.function(finish, jit_compile=compiled, autograph=False)
            found.append(
                Contender(
                    name,
                    "fresh",
                    partial(run, x, residual),
                    np.asarray,
                )
            )
        return found

    def _layers(self, case: Case) -> Iterator[tuple[str, Callable[[Any], Any], bool]]:
        """(name, x to what follows of it, whether XLA compiles it)."""
        training = case.operation.kind == "forward"
        # XLA draws Keras's random numbers for over a second where the layer alone takes 25 ms.
        ways = ((self.name, False), (f"{self.name}-xla", True))[: 1 if case.operation.random else 2]
        for name, compiled in ways:
            if case.operation.elementwise:
                yield name, partial(self._dropout(case), training=True), compiled
            else:
                yield name, partial(self._batch_norm(case), training=training), compiled
        # The fused kernel knows channels last only, of images, and no float64.
        images = case.layout == "rows" and case.x.ndim == 4 and case.dtype_name != "float64"
        if images and not case.operation.elementwise:
            yield "tensorflow-fused", self._fused(case, training), False

    def _finish(self, case: Case, normalise: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        """The layer and what is fused with it in other libraries."""
        tf = self._tf
        drop = self._dropout(case) if case.operation.dropout else None

        def finish(x: Any, residual: Any) -> Any:
            y = normalise(x)
            y = y if residual is None else y + residual
            y = tf.nn.relu(y) if case.operation.relu else y
            return y if drop is None else drop(y, training=True)

        return finish

    def _policy(self, case: Case) -> Any:
        """16-bit tensors with 32-bit parameters, as ours."""
        mixed = "mixed_" if case.dtype.itemsize == 2 else ""
        return self._keras.DTypePolicy(mixed + case.dtype_name)

    def _batch_norm(self, case: Case) -> Any:
        layer = self._keras.layers.BatchNormalization(
            axis=case.axis, epsilon=EPS, dtype=self._policy(case)
        )
        layer.build(case.x.shape)
        layer.set_weights([case.gamma, case.beta, case.mean, case.var])
        return layer

    def _dropout(self, case: Case) -> Any:
        return self._keras.layers.Dropout(RATE, seed=SEED, dtype=self._policy(case))

    def _fused(self, case: Case, training: bool) -> Callable[[Any], Any]:
        tf = self._tf
        given = [] if training else [case.mean, case.var]
        parameters = [tf.constant(values) for values in (case.gamma, case.beta, *given)]
        nothing = tf.constant([], dtype=parameters[0].dtype)
        gamma, beta, mean, var = parameters if given else [*parameters, nothing, nothing]

        def fused(x: Any) -> Any:
            return tf.raw_ops.FusedBatchNormV3(
                x=x,
                scale=gamma,
                offset=beta,
                mean=mean,
                variance=var,
                epsilon=EPS,
                is_training=training,
            ).y

        return fused
