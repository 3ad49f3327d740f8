"""Programs of other languages, built with the installed library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bnfast
from embedding.c_face import LIBRARY

ROOT = Path(__file__).resolve().parents[2]


def find(name: str) -> str | None:
    """The path of a program: of the environment that the tests run in, of the system, or Rust's."""
    folders = [Path(sys.executable).parent, os.environ["PATH"], Path.home() / ".cargo" / "bin"]
    return shutil.which(name, path=os.pathsep.join(map(str, folders)))


def tool(name: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    found = find(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints; it must succeed."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(source: Path, folder: Path) -> Path:
    """Configure and build a CMake project that finds bnfast as a package; the build folder."""
    if LIBRARY is None:
        pytest.skip("the library is not installed")
    cmake, built = tool("cmake"), folder / "build"
    tool(os.environ.get("CXX", "c++"))
    ninja = find("ninja")
    generator, maker = ("Ninja", ninja) if ninja else ("Unix Makefiles", tool("make"))
    run(
        *(cmake, "-S", source, "-B", built, "-G", generator, f"-DCMAKE_MAKE_PROGRAM={maker}"),
        *("-DCMAKE_BUILD_TYPE=Debug", f"-Dbnfast_DIR={bnfast.get_cmake_dir()}"),
        folder=folder,
    )
    run(cmake, "--build", built, folder=folder)
    return built


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
