"""Files stay short, and the first line of each says what lives there."""

from __future__ import annotations

import ast
import re

import pytest

from architecture.tree import files, name

MOST_LINES = 400

CPP = [*files("cpp", ".h", ".cpp", ".cu", ".cuh"), *files("tests", ".h", ".cpp")]
PYTHON = [
    *files("python", ".py"),
    *files("tests", ".py"),
    *files("bench", ".py"),
    *files("examples", ".py"),
]


@pytest.mark.parametrize("path", CPP + PYTHON, ids=name)
def test_length(path):
    lines = path.read_text().count("\n")
    assert lines <= MOST_LINES


@pytest.mark.parametrize("path", CPP, ids=name)
def test_cpp_starts_with_a_sentence(path):
    comment = re.match(r"(// [^\n]*\n)+", path.read_text())
    assert comment, "no comment in the first line"
    text = re.sub(r"\s*\n// ", " ", comment[0][3:].strip())
    assert re.match(r"[A-Z0-9]\w*.*[.:]", text, re.IGNORECASE) and len(text) > 20, text


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_python_starts_with_a_sentence(path):
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "no docstring"
    assert text.startswith(('"""', 'r"""', "#!"))
    first = docstring.split("\n\n")[0]
    assert first.endswith((".", "::")) and len(first) > 20, first


def test_no_file_is_globbed_into_the_build():
    for path in files("cpp", ".txt", ".cmake"):
        assert "GLOB" not in path.read_text(), name(path)
