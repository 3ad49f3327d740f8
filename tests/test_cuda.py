"""Whether there is CUDA: asked in processes of their own, as the library for it is loaded once."""

from __future__ import annotations

import pytest
from programs import python

import bnfast
from bnfast import _core

ASK = """
import bnfast
cuda = bnfast.cuda
assert not cuda.is_available() and cuda.device_count() == 0 and cuda.architectures() == ()
print(cuda.why_unavailable())
bnfast.show_config()
"""


def answer(path: str) -> list[str]:
    run = python("-c", ASK, BNFAST_CUDA_LIBRARY=path)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_no_library(tmp_path):
    why, *config = answer(f"{tmp_path}/none.so")
    assert why == f"bnfast was installed without CUDA, as there is no {tmp_path}/none.so"
    assert f"CUDA       no: {why}" in config


def test_a_file_that_is_no_library(tmp_path):
    (tmp_path / "text.so").write_text("text")
    assert answer(f"{tmp_path}/text.so")[0].startswith("the library for CUDA cannot be loaded: ")


def test_another_library():
    why = answer(_core.__file__)[0]
    assert why == f"{_core.__file__} is not the library of bnfast for CUDA"


def test_devices_that_there_are_not():
    with pytest.raises(ValueError, match=r"^cuda_device: index is 2147483647, expected one of"):
        bnfast.cuda.device(2**31 - 1)
    with pytest.raises(TypeError, match="index is of type str, expected an integer"):
        bnfast.cuda.device("0")  # type: ignore[arg-type]


def test_backends_are_lent_by_name():
    with pytest.raises(ValueError, match="got 'gpu', expected 'cpu' or 'cuda'"):
        _core.lend_backend("gpu", "cuda")
    assert (why := bnfast.cuda.why_unavailable()) is None or why
    _core.lend_backend("cpu", "cuda")
    assert bnfast.cuda.is_available()
    _core.restore_backend("cuda")
    assert bnfast.cuda.why_unavailable() == why
