"""The libraries to test with: how each makes an array of NumPy's values, and reads one back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]


@dataclass
class Library:
    """One library: arrays from and to NumPy's, the address of an array, and its dtypes."""

    array: Callable[[np.ndarray], Any]
    numpy: Callable[[Any], np.ndarray]
    address: Callable[[Any], int]
    type: type
    dtypes: list[np.dtype]
    writeable: bool = True


def torch_library() -> Library:
    torch = pytest.importorskip("torch")

    def array(a: np.ndarray) -> Any:
        if a.dtype != BFLOAT16:
            return torch.from_numpy(a)
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)

    def numpy(t: Any) -> np.ndarray:
        if t.dtype != torch.bfloat16:
            return t.numpy()
        return t.view(torch.int16).numpy().view(BFLOAT16)

    return Library(array, numpy, lambda t: t.data_ptr(), torch.Tensor, DTYPES)


def strict_library() -> Library:
    xp = pytest.importorskip("array_api_strict")
    wide = [dtype for dtype in DTYPES if dtype.itemsize > 2]
    return Library(
        lambda a: xp.from_dlpack(a),
        lambda a: np.from_dlpack(a),
        lambda a: np.from_dlpack(a).ctypes.data,
        type(xp.asarray(0.0)),
        wide,
    )


def jax_library() -> Library:
    jax = pytest.importorskip("jax")
    narrow = [dtype for dtype in DTYPES if dtype.itemsize < 8]
    return Library(
        jax.numpy.asarray,
        np.asarray,
        lambda a: a.unsafe_buffer_pointer(),
        jax.Array,
        narrow,
        writeable=False,
    )


LIBRARIES = {"torch": torch_library, "array_api_strict": strict_library, "jax": jax_library}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]()
