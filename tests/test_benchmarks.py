"""Benchmarks are run by hand, seldom; what they take from the project must still be there when somebody does."""

import importlib

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "benchmarks").glob("*.py") if path.stem != "__init__"))
def test_a_benchmark_finds_what_it_imports(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__
