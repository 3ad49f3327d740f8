"""The library of custom calls: found, compared with the JAX that runs, and registered with it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from bnfast import _core

try:
    import jax
except ModuleNotFoundError as error:
    raise ImportError("bnfast.jax needs JAX: pip install jax") from error

_TARGETS = ("bnfast_jax_forward", "bnfast_jax_backward", "bnfast_jax_dropout")


def _load() -> ctypes.CDLL:
    """Return the library, whose custom calls are then known to XLA.

    XLA ends the process when it is given calls that were compiled for a newer interface than its
    own. So the versions are compared first; JAX states its own in the headers that come with it.
    """
    path = Path(_core.__file__).with_name("libbnfast_jax.so")
    if not path.exists():
        how = "build it with BNFAST_JAX=1 in the environment"
        raise ImportError(f"bnfast.jax: this bnfast was built without JAX's headers; {how}")
    library = ctypes.CDLL(str(path))
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    version = re.compile(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)")
    running = {name: int(number) for name, number in version.findall(header)}
    major, minor = library.bnfast_jax_api_major(), library.bnfast_jax_api_minor()
    if running["MAJOR"] != major or running["MINOR"] < minor:
        built = f"built for version {major}.{minor} of XLA's interface for custom calls"
        got = f"JAX {jax.__version__} has {running['MAJOR']}.{running['MINOR']}"
        raise ImportError(f"bnfast.jax: this bnfast was {built}, and {got}; use a newer JAX")
    for target in _TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(library[target]), platform="cpu")
    library.bnfast_jax_state_size.argtypes = (ctypes.c_int64, ctypes.c_int64)
    library.bnfast_jax_state_size.restype = ctypes.c_int64
    return library


_library = _load()


def state_size(statistics: int, parameters: int) -> int:
    """How many float64 numbers the backward pass of a norm needs beyond its arrays."""
    size: int = _library.bnfast_jax_state_size(statistics, parameters)
    return size


def call(
    target: str, results: list[jax.ShapeDtypeStruct], *operands: jax.Array, **attributes: Any
) -> list[jax.Array]:
    """Return the results of a custom call, which loops over the examples of a vmap itself."""
    function = jax.ffi.ffi_call(f"bnfast_jax_{target}", results, vmap_method="expand_dims")
    return list(function(*operands, **attributes))
