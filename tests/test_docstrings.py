"""The examples in docstrings run, and every public name has a docstring."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import bnfast

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(bnfast.__path__, "bnfast.")
    if module.name not in ("bnfast.__main__", "bnfast._core")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:  # an adapter whose framework is not installed
        pytest.skip(str(error))
    failed, _ = doctest.testmod(module)
    assert failed == 0


@pytest.mark.parametrize("name", [n for n in bnfast.__all__ if callable(getattr(bnfast, n))])
def test_every_public_name_has_a_docstring(name):
    assert getattr(bnfast, name).__doc__


def test_the_functions_have_examples():
    functions = [f for n in bnfast.__all__ if hasattr(f := getattr(bnfast, n), "__code__")]
    finder = doctest.DocTestFinder(recurse=False)
    without = [f.__name__ for f in functions if not any(t.examples for t in finder.find(f))]
    assert without in ([], ["show_config"])
