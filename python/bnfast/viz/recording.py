"""A recorded run: the records of every layer, drawn, as a page, and as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bnfast.viz import page
from bnfast.viz.records import Record

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.figure import Figure

_FORMAT = 1  # of saved files


class Recording:
    """What a :class:`Recorder` recorded; a saved one is read by `Recording.load`.

    Examples
    --------
    >>> import bnfast.viz, numpy as np, pathlib, tempfile
    >>> bn, x = bnfast.BatchNorm(2), np.array([[1, 10], [3, 30]], np.float32)
    >>> with bnfast.viz.Recorder(every=1).watch({"hidden": bn}) as recorder:
    ...     y = bn(x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "run.json")
    ...     recorder.save(path)
    ...     recording = bnfast.viz.Recording.load(path)
    >>> recording.layers, recording["hidden"] == recorder["hidden"]
    (('hidden',), True)
    >>> recording["hidden"][0].channels["batch_var"].picked
    [1.0, 100.0]
    """

    def __init__(self) -> None:
        self._records: dict[str, list[Record]] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in the order in which they were watched."""
        return tuple(self._records)

    def __getitem__(self, layer: str) -> tuple[Record, ...]:
        """Return the records of a layer, the earliest first."""
        if layer not in self._records:
            expected = ", ".join(map(repr, self._records)) or "none, as nothing is watched"
            raise KeyError(f"{type(self).__name__}: layer is {layer!r}, expected one of {expected}")
        return tuple(self._records[layer])

    def plot(self, layer: str, *, channel: int | None = None) -> Figure:
        """Draw the whole training of one layer with matplotlib (`pip install ".[viz]"`).

        Parameters
        ----------
        layer : str
            Its name.
        channel : int, optional
            One of those of which there are single numbers, see `Record.picked`: what is drawn of
            channels is drawn of this one.

        Returns
        -------
        matplotlib.figure.Figure
            Six panels over the training steps: the distributions of input and output, mean and
            variance of the batch against the running ones, gamma and beta. It belongs to no window:
            save it with `figure.savefig(path)`.

        Raises
        ------
        KeyError or ValueError
            If there is no such layer, nothing was recorded of it, or not of this channel.
        """
        from bnfast.viz.plots import draw_layer  # needs matplotlib, nothing else here does

        records = self[layer]
        if not records:
            raise ValueError(f"{type(self).__name__}: no training call of {layer!r} was recorded")
        if channel is not None and channel not in records[0].picked:
            expected = ", ".join(map(str, records[0].picked)) or "none, as none was picked"
            raise ValueError(
                f"{type(self).__name__}.plot: channel is {channel}, expected one of {expected}"
            )
        return draw_layer(layer, records, channel)

    def save_page(self, path: str | PathLike[str], *, title: str = "Batch norm at work") -> None:
        """Write one HTML page that shows the recording, step by step and layer by layer.

        It holds all it needs, and forbids the browser to fetch anything. Layers of which nothing
        was recorded are left out.

        Parameters
        ----------
        path : path
            Of the file, which is replaced.
        title : str
            The heading.

        Raises
        ------
        ValueError
            If nothing was recorded.
        """
        recorded = {name: self[name] for name, records in self._records.items() if records}
        if not recorded:
            raise ValueError(f"{type(self).__name__}.save_page: no training call was recorded")
        Path(path).write_text(page.render(title, recorded), encoding="utf-8")

    def save(self, path: str | PathLike[str]) -> None:
        """Write all numbers to a JSON file (in Python's dialect, which has NaN and Infinity)."""
        layers = {name: [r.to_json() for r in self[name]] for name in self.layers}
        Path(path).write_text(json.dumps({"format": _FORMAT, "layers": layers}), encoding="utf-8")

    @staticmethod
    def load(path: str | PathLike[str]) -> Recording:
        """Return the recording that `save` wrote.

        Raises
        ------
        ValueError
            If the file was not written by `save`, or by that of another version of the format.
        """
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        found = saved.get("format") if isinstance(saved, dict) else None
        if found != _FORMAT:
            raise ValueError(f"Recording.load: format is {found!r}, expected {_FORMAT}")
        recording = Recording()
        for name, records in saved["layers"].items():
            recording._records[name] = [Record.from_json(record) for record in records]
        return recording
