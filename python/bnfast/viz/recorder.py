"""The recorder: hooks behind batch norms, which measure every n-th training call."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfast._checks import whole_number
from bnfast._functional import moments
from bnfast._layers import BatchNorm
from bnfast._libraries import to_numpy
from bnfast._sharing import lock
from bnfast.viz.recording import Recording
from bnfast.viz.records import QUANTITIES, Channels, Distribution, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

    Array = NDArray[Any]


class Recorder(Recording):
    """Records what batch norms get, do and learn in training: ours, and those of PyTorch models.

    Parameters
    ----------
    every : int, default 10
        Of each layer the training calls 0, `every`, 2 `every` ... are recorded. The others, and all
        calls in evaluation, cost next to nothing.
    bins : int, default 40
        Of the histograms of input and output.
    channels : int, default 8
        Of how many channels single numbers are kept, evenly spaced; of the others quantiles.
    most_records : int, default 400
        Of one layer. When they are full, every second one is dropped, and from then on only half as
        many calls of this layer are recorded: the whole training stays covered.
    most_elements : int, default 65536
        That a distribution is measured from. Of a larger tensor so many elements are drawn at
        random, by a generator of the recorder's own. Means and variances are always of all.

    Raises
    ------
    TypeError or ValueError
        If an argument is no integer, or too small.

    Notes
    -----
    Memory: a record has 2 * (bins + 9) + 6 * (channels + 5) numbers at most, some 7 kB as Python
    keeps them with the defaults, so that a layer takes 3 MB at most, however long the training is
    and whatever the sizes of its tensors. A recorder holds on to no tensor.

    `close`, or the end of a `with` block, takes the hooks off; what was recorded stays. A copy of a
    watched layer or model is not watched, and a copy of a recorder has the records and watches
    nothing. Layers may be called by several threads.

    Examples
    --------
    >>> import bnfast.viz, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> layers = {"first": bnfast.BatchNorm(3), "second": bnfast.BatchNorm(3)}
    >>> with bnfast.viz.Recorder(every=2).watch(layers) as recorder:
    ...     for step in range(5):
    ...         x = rng.normal(5, 2, size=(16, 3)).astype(np.float32)
    ...         for bn in layers.values():
    ...             x = bn(x)
    >>> [record.step for record in recorder["second"]]
    [0, 2, 4]
    >>> last = recorder["first"][2]
    >>> last.input.size, last.channels["gamma"].picked
    (48, [1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        *,
        every: int = 10,
        bins: int = 40,
        channels: int = 8,
        most_records: int = 400,
        most_elements: int = 65536,
    ) -> None:
        super().__init__()
        self.every = whole_number("Recorder", "every", every, low=1)
        self.bins = whole_number("Recorder", "bins", bins, low=1)
        self.channels = whole_number("Recorder", "channels", channels, low=0)
        self.most_records = whole_number("Recorder", "most_records", most_records, low=2)
        self.most_elements = whole_number("Recorder", "most_elements", most_elements, low=1)
        self._handles: list[Any] = []

    def watch(self, layers: Any) -> Self:
        """Record the training calls of these layers from now on; return the recorder.

        Parameters
        ----------
        layers : mapping of str to layer, layer, or torch.nn.Module
            A layer is a `bnfast.BatchNorm` or a batch norm of PyTorch: torch's or bnfast.torch's.
            Of another module all batch norms in it are watched, under the names that they have
            there, behind its own name in the mapping and a dot. A layer without a name is called
            after its class.

        Raises
        ------
        TypeError or ValueError
            If there is no batch norm in what was given, or a name is taken. Nothing is watched
            then.
        """
        named = layers if isinstance(layers, Mapping) else {"": layers}
        found = [pair for name, layer in named.items() for pair in _batch_norms(name, layer)]
        if not found:
            raise ValueError("Recorder.watch: layers is empty, expected at least one batch norm")
        names = [name for name, _ in found]
        for name in names:
            if name in self._records or names.count(name) > 1:
                raise ValueError(f"Recorder.watch: the name {name!r} is taken, give a mapping")
        for name, layer in found:
            self._records[name] = []
            self._handles.append(_Watch(self, name).hook_into(layer))
        return self

    def close(self) -> None:
        """Take all hooks off the layers; what was recorded stays, and `watch` may follow."""
        while self._handles:
            self._handles.pop().remove()

    def __getstate__(self) -> dict[str, Any]:
        # Copies have the records and watch nothing; the lists are copied as threads may go on.
        records = {name: list(kept) for name, kept in self._records.items()}
        return {**self.__dict__, "_records": records, "_handles": []}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Watch:
    """The hook of one layer: counts its training calls, and records every n-th of them.

    A copied or pickled hook, as one in a copied PyTorch model, does nothing.
    """

    def __init__(self, recorder: Recorder | None = None, name: str = "") -> None:
        self._recorder = recorder
        self._name = name
        self._calls = 0
        self._every = 1 if recorder is None else recorder.every
        self._generator = np.random.default_rng(0)
        self._lock = threading.Lock()  # of the numbers above; held while a call is measured

    def __reduce__(self) -> tuple[Any, ...]:
        return _Watch, ()

    def hook_into(self, layer: Any) -> Any:
        """Register the hook; return the handle that removes it."""
        if isinstance(layer, BatchNorm):
            return layer.register_forward_hook(self)
        return layer.register_forward_hook(self._of_torch, with_kwargs=True)

    def _of_torch(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self(module, args or (kwargs["input"],), output)  # torch gives args as the caller did

    def __call__(self, layer: Any, args: tuple[Any, ...], output: Any) -> None:
        if self._recorder is None or not layer.training:
            return
        with self._lock:
            step = self._calls
            self._calls += 1
            if step % self._every == 0:
                self._record(self._recorder, step, layer, args, output)

    def _record(
        self, recorder: Recorder, step: int, layer: Any, args: tuple[Any, ...], output: Any
    ) -> None:
        records = recorder._records[self._name]
        if len(records) == recorder.most_records:
            del records[1::2]
            self._every *= 2
            if step % self._every:
                return
        axis, where = (layer.axis, args[2]) if isinstance(layer, BatchNorm) else (1, None)
        x, y = _array(args[0]), _array(output)
        batch = moments(x, axis=axis, where=where)
        numbers = {"batch_mean": batch.mean, "batch_var": batch.var(), **_state(layer)}
        there = [name for name in QUANTITIES if name in numbers]
        picked = np.linspace(0, len(batch) - 1, min(recorder.channels, len(batch))).astype(np.int64)
        if where is not None:
            counted = _spread(_array(where), x.shape, axis)
            x, y = x[counted], y[counted]
        records.append(
            Record(
                step,
                Distribution.of(self._drawn(x, recorder.most_elements), recorder.bins),
                Distribution.of(self._drawn(y, recorder.most_elements), recorder.bins),
                picked.tolist(),
                {name: Channels.of(numbers[name], picked) for name in there},
            )
        )

    def _drawn(self, elements: Array, most: int) -> Array:
        """Return all elements, or so many of them at random."""
        if elements.size <= most:
            return elements
        return elements.ravel()[self._generator.integers(elements.size, size=most)]


def _batch_norms(name: str, layer: Any) -> list[tuple[str, Any]]:
    """Return the batch norms that a layer or module is or has, with their names."""
    if isinstance(layer, BatchNorm) or _is_batch_norm_of_torch(layer):
        return [(name or type(layer).__name__, layer)]
    if not hasattr(layer, "named_modules"):
        got = type(layer).__name__
        expected = "a BatchNorm, a PyTorch module, or a mapping of these"
        raise TypeError(f"Recorder.watch: {name or 'layers'} is of type {got}, expected {expected}")
    found = [pair for pair in layer.named_modules() if _is_batch_norm_of_torch(pair[1])]
    if not found:
        got = f"{name or type(layer).__name__} has no batch norm"
        raise ValueError(f"Recorder.watch: {got}, expected at least one")
    return [(f"{name}.{inner}" if name else inner, module) for inner, module in found]


def _is_batch_norm_of_torch(layer: Any) -> bool:
    """Whether a class of torch's batch norms is among its own, which need no import of torch."""
    wanted = ("torch.nn.modules.batchnorm", "_BatchNorm")
    return any((base.__module__, base.__name__) == wanted for base in type(layer).__mro__)


def _array(value: Any) -> Array:
    """Return a tensor of any library, wherever it is, as an array of NumPy's."""
    return to_numpy("Recorder", "x", value.cpu() if hasattr(value, "cpu") else value)


def _state(layer: Any) -> dict[str, Array]:
    """Return gamma, beta and running statistics, as far as the layer has them, as float64."""
    if isinstance(layer, BatchNorm):
        with lock:  # mean and var of the same update, where threads share the layer
            stats = layer.running
            running = (None, None) if stats is None else (stats.mean.copy(), stats.var.copy())
            values = (*running, *layer._parameters())
    else:
        values = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    names = ("running_mean", "running_var", "gamma", "beta")
    named = zip(names, values, strict=True)
    return {name: _array(v).astype(np.float64) for name, v in named if v is not None}


def _spread(where: Array, shape: tuple[int, ...], axis: int) -> Array:
    """Return `where` in the shape of x; it may lack the channel axis."""
    if where.ndim < len(shape):
        samples = list(shape)
        del samples[axis]
        where = np.expand_dims(np.broadcast_to(where, samples), axis % len(shape))
    return np.broadcast_to(where, shape)
