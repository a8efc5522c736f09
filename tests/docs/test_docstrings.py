"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import scythe

MODULES = ["scythe", *(module.name for module in pkgutil.walk_packages(scythe.__path__, "scythe."))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 10
