"""What is measured of elements and of channels, against NumPy; the way to JSON and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bnfast
import bnfast.viz
from bnfast.viz.records import QUANTILES
from viz.runs import recorded


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_distribution_is_that_of_numpy(dtype):
    x = np.random.default_rng(0).normal(3, 2, size=(30, 7, 5)).astype(dtype)
    measured = bnfast.viz.Distribution.of(x, bins=16)
    counts, edges = np.histogram(x.astype(np.float64), 16)
    assert measured.counts == counts.tolist()
    assert (measured.low, measured.high) == (edges[0], edges[-1])
    assert measured.quantiles == np.quantile(x.astype(np.float64), QUANTILES).tolist()
    assert measured.size == measured.finite == x.size


def test_what_is_not_finite_is_counted_only():
    x = np.array([1.0, np.nan, 2.0, np.inf, -np.inf, 4.0])
    measured = bnfast.viz.Distribution.of(x, bins=3)
    assert (measured.size, measured.finite, measured.counts) == (6, 3, [1, 1, 1])
    nothing = bnfast.viz.Distribution.of(np.full(4, np.nan), bins=3)
    assert (nothing.size, nothing.finite, nothing.counts) == (4, 0, [0, 0, 0])
    assert np.isnan([nothing.low, nothing.high, *nothing.quantiles]).all()


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([7.0, 7.0, 7.0], [3, 0, 0, 0]),
        ([0.0, 0.0], [2, 0, 0, 0]),
        ([1.0, 1.0 + 2**-52], [1, 0, 0, 1]),  # narrower than NumPy takes
        ([-1.7e308, 0.0, 1.7e308], [1, 0, 1, 1]),  # wider than float64 has a number for
        ([5e-324, 1e-323], [1, 0, 0, 1]),
    ],
)
def test_histograms_of_extreme_ranges(values, counts):
    with np.errstate(over="ignore"):  # of NumPy's quantiles, between the largest numbers
        assert bnfast.viz.Distribution.of(np.array(values), bins=4).counts == counts


def test_numbers_of_channels():
    values = np.array([3.0, np.nan, 1.0, 2.0])
    measured = bnfast.viz.Channels.of(values, np.array([0, 1, 3]))
    assert measured.quantiles == np.quantile([1.0, 2.0, 3.0], QUANTILES).tolist()
    np.testing.assert_array_equal(measured.picked, [3.0, np.nan, 2.0])
    unknown = bnfast.viz.Channels.of(np.full(2, np.nan), np.array([0]))
    assert np.isnan(unknown.quantiles).all()


def test_a_recording_is_saved_and_loaded_whole(tmp_path):
    recorder = recorded()
    recorder.save(tmp_path / "run.json")
    loaded = bnfast.viz.Recording.load(tmp_path / "run.json")
    assert loaded.layers == recorder.layers
    for name in recorder.layers:
        assert loaded[name] == recorder[name] and len(loaded[name]) == 6


@pytest.mark.parametrize("content", [[], {}, {"format": 0, "layers": {}}])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"^Recording\.load: format is (None|0), expected 1"):
        bnfast.viz.Recording.load(path)
