"""What bnfast.jax refuses: Python errors while a call is traced, and ImportErrors before."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import bnfast
from bnfast_jax.cases import NORMS, draw, jax, jnp

X = draw((4, 3))


@pytest.mark.parametrize("name", [*NORMS, "dropout"])
@pytest.mark.parametrize("dtype", [np.int32, np.complex64, bool])
def test_dtypes(name, dtype):
    function = getattr(bnfast.jax, name)
    rest = (0.5, 7) if name == "dropout" else ()
    with pytest.raises(TypeError, match=rf"{name}: x has dtype \w+, expected float32, float64"):
        jax.jit(lambda x: function(x, *rest))(X.astype(dtype))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("batch_norm", {"gamma": np.ones(4)}, r"gamma has shape \(4,\), expected \(3,\)"),
        ("batch_norm", {"beta": np.ones((3, 1))}, r"beta has shape \(3, 1\), expected \(3,\)"),
        ("batch_norm", {"axis": 2}, "axis is 2, expected at most 1"),
        ("batch_norm", {"axis": -3}, "axis is -3, expected at least -2"),
        ("batch_norm", {"eps": -1.0}, "eps is -1, expected"),
        ("batch_norm", {"eps": np.nan}, "eps is nan, expected"),
        ("batch_norm", {"activation": "swish"}, "activation is 'swish', expected one of"),
        ("batch_norm", {"residual": X[:2]}, r"residual has shape \(2, 3\)"),
        (
            "batch_norm",
            {"residual": X.astype(np.float16)},
            r"residual .* and dtype float16, expected",
        ),
        ("layer_norm", {"axis": 0}, "axis is 0, expected the last axes"),
        ("layer_norm", {"axis": (1, 0)}, r"axis is \(1, 0\), expected the last axes"),
        ("layer_norm", {"axis": ()}, r"axis is \(\), expected the last axes"),
        ("rms_norm", {"gamma": np.ones(4)}, r"gamma has shape \(4,\), expected \(3,\)"),
    ],
)
def test_values_and_shapes(name, options, message):
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        getattr(bnfast.jax, name)(X, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("batch_norm", {"axis": 1.0}, "axis is of type float, expected an integer"),
        ("batch_norm", {"eps": "1"}, "eps is of type str, expected a number"),
        ("batch_norm", {"gamma": np.ones(3, int)}, "gamma has dtype int32, expected"),
        ("dropout", {"rate": 0.5, "seed": 1.5}, "seed is of type float, expected an integer"),
        ("dropout", {"rate": 0.5, "seed": None}, "seed is of type NoneType, expected an integer"),
        ("dropout", {"rate": 0.5, "seed": np.ones(2)}, r"seed has shape \(2,\) and dtype float32"),
        ("dropout", {"rate": 0.5, "seed": np.ones(3, np.uint32)}, r"seed has shape \(3,\)"),
        ("dropout", {"rate": "1", "seed": 1}, "rate is of type str"),
    ],
)
def test_kinds(name, options, message):
    with pytest.raises(TypeError, match=f"{name}: {message}"):
        getattr(bnfast.jax, name)(X, **options)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_are_no_64_bits(seed):
    with pytest.raises(ValueError, match=f"dropout: seed is {seed}, expected at"):
        bnfast.jax.dropout(X, 0.5, seed)


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
def test_rates(rate):
    with pytest.raises(ValueError, match="dropout: rate is"):
        bnfast.jax.dropout(X, rate, 7)


def test_x_without_axes():
    for name in NORMS:
        with pytest.raises(ValueError, match=rf"{name}: x has shape \(\), expected at least one"):
            getattr(bnfast.jax, name)(jnp.float32(1))


def test_no_x():
    with pytest.raises(TypeError, match="batch_norm: x is None"):
        bnfast.jax.batch_norm(None)


def test_errors_of_the_core_are_errors_of_xla():
    """Such as a number that no check of Python can see: JAX has arrays of more axes."""
    wide = jnp.zeros((1,) * 65)
    with pytest.raises(Exception, match="INVALID_ARGUMENT: layer_norm: x has 65 dimensions"):
        bnfast.jax.layer_norm(wide)


# --- the library ----------------------------------------------------------------------------------


def test_a_build_without_the_calls(monkeypatch, tmp_path):
    from bnfast.jax import _library

    monkeypatch.setattr(_library, "_core", SimpleNamespace(__file__=str(tmp_path / "_core.so")))
    with pytest.raises(ImportError, match="built without JAX's headers; build it with BNFAST_JAX"):
        _library._load()


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (1, 9)])
def test_a_jax_that_cannot_call_it(monkeypatch, tmp_path, major, minor):
    """One whose interface is older than the headers of the build, or another altogether."""
    from bnfast.jax import _library

    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    lines = [f"#define XLA_FFI_API_{k} {n}\n" for k, n in (("MAJOR", major), ("MINOR", minor))]
    header.write_text("".join(lines))
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    with pytest.raises(ImportError, match=rf"and JAX \S+ has {major}\.{minor}"):
        _library._load()
