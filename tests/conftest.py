"""Shared by all tests: one thread per process, no hub, and a home folder of their own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
DATA = REPO.parent / "shared" / "data"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A fresh home folder (store, jobs, uploads), also for subprocesses."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("MICROTOME_HOME", str(folder))
    return folder


def pytest_collection_modifyitems(items):
    """The suite's two workers must collect the same names; an address in one (from `repr` of an object) would stop the whole run."""
    addressed = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if addressed:
        raise pytest.UsageError(f"Test names must be the same in every process; give `ids=` to: {', '.join(addressed)}")
