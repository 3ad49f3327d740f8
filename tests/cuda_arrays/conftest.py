"""The CPU's backend computes what is on a GPU, while these tests run."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from bnfast import _core


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    _core.lend_backend("cpu", "cuda")
    yield
    gc.collect()  # arrays give their memory back to the backend that it is from
    _core.restore_backend("cuda")
