"""oneDNN as a contender, through the library that bench/onednn/batch_norm.cpp makes."""

from __future__ import annotations

import ctypes
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contender import Contender
from workload import EPS, Array, Case

LIBRARY = Path(__file__).resolve().parent / "onednn" / "libbatch_norm.so"
KINDS = {"forward": 0, "backward": 1, "inference": 2}
LAYOUTS = {"planes": 0, "rows": 1, "blocked": 2}
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}


class Request(ctypes.Structure):
    """The struct of the same name in batch_norm.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "layout", "dtype", "relu", "threads")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_int64) for name in ("batch", "channels", "height", "width")),
        *((n, ctypes.c_void_p) for n in ("x", "dy", "out", "gamma", "beta", "mean", "var")),
    )


class OneDnn:
    """The batch norm primitive, with ReLU fused into it; adding a residual is not its business.

    On planes it runs twice: as they are, and in the blocked layout that oneDNN's convolutions like
    best, whose conversion is not timed.
    """

    name = "onednn"

    def __init__(self, num_threads: int) -> None:
        if not LIBRARY.exists():
            raise ImportError(f"{LIBRARY.name} is not built: see bench/README.md")
        try:
            library = ctypes.CDLL(str(LIBRARY))
        except OSError as error:
            raise ImportError(str(error)) from error
        library.bench_error.restype = ctypes.c_char_p
        library.bench_prepare.restype = ctypes.c_void_p
        version = (ctypes.c_int32 * 3)()
        library.bench_version(version)
        self._library = library
        self._num_threads = num_threads
        self.version = ".".join(map(str, version))

    def contenders(self, case: Case) -> list[Contender]:
        operation = case.operation
        fused_elsewhere = operation.residual or operation.dropout
        if operation.kind not in KINDS or fused_elsewhere or case.dtype_name not in DTYPES:
            return []
        blocked = case.layout == "planes"
        return [
            self._contender(case, layout, name)
            for layout, name in ((case.layout, self.name), ("blocked", f"{self.name}-blocked"))
            if layout != "blocked" or blocked
        ]

    def _contender(self, case: Case, layout: str, name: str) -> Contender:
        shape, backward = case.shape, case.operation.kind == "backward"
        height, width = shape.spatial or (0, 0)
        request = Request(
            KINDS[case.operation.kind],
            LAYOUTS[layout],
            DTYPES[case.dtype_name],
            case.operation.relu,
            self._num_threads,
            EPS,
            *(shape.batch, shape.channels, height, width),
            *(case.x.ctypes.data, case.dy.ctypes.data if backward else None, case.out.ctypes.data),
            *(array.ctypes.data for array in (case.gamma, case.beta, case.mean, case.var)),
        )
        handle = self._library.bench_prepare(ctypes.byref(request))
        if handle is None:
            raise RuntimeError(self._library.bench_error().decode())
        plan = ctypes.c_void_p(handle)
        call = partial(self._library.bench_run, plan)
        weakref.finalize(call, self._library.bench_free, plan)

        def result(returned: Any) -> Array:
            array = np.empty_like(case.x)
            self._library.bench_result(plan, ctypes.c_void_p(array.ctypes.data))
            return array

        return Contender(name, "out", call, result)
