"""The library shows the public interface, nothing else, and nothing that forbids its unloading."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from architecture.tree import code, files
from bnfast import _core

LIBRARY = next((Path(_core.__file__).parent / "lib").glob("libbnfast.*"), None)
pytestmark = pytest.mark.skipif(
    LIBRARY is None or shutil.which("nm") is None, reason="needs an installed library and nm"
)


def exported() -> list[tuple[str, str]]:
    """The kind of each symbol that the library defines for others, and its name."""
    command = ["nm", "-D", "--defined-only", "-C", LIBRARY]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [(kind, name) for _, kind, name in (line.split(" ", 2) for line in lines)]


def test_what_is_exported_is_what_the_headers_declare():
    declared = {
        name
        for header in files("cpp/include", ".h")
        for name in re.findall(r"^BNFAST_API .*?(\w+)\(", code(header), re.MULTILINE)
    }
    names = {re.sub(r"\[abi:\w+\]|\(.*", "", name) for _, name in exported()}
    # Of the two errors: their constructors and destructors, and what tells them apart.
    errors = {name for name in names if re.search(r"(^|for )bnfast::(Value|Type)Error", name)}
    assert len(errors) >= 6
    assert {name.removeprefix("bnfast::") for name in names - errors} == declared


def test_nothing_keeps_the_library_from_being_unloaded():
    assert not [name for kind, name in exported() if kind == "u"]
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], check=True, capture_output=True, text=True)
    assert "NODELETE" not in dynamic.stdout
