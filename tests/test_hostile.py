"""Every hostile upload gets a sentence; none runs code, writes elsewhere, or takes the machine's memory or time.

The files are made by tests/hostile and go through the same fences as the app's (tests/hostile/zygote.py); some go through
the app's own door as well. After all of them an honest model still opens.
"""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hostile import archives, fields, pickles, small, tables  # noqa: F401  they register their cases
from hostile.cases import CASES, LOADS
from hostile.zygote import Zygote

from models import intake
from models.intake import isolate
from models.refusal import Refused

PEAK = 2 << 30  # bytes of resident memory, torch and transformers included
SECONDS = 120  # killed after that; a bound, not a measurement


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return small.gpt2(tmp_path_factory.mktemp("good") / "gpt2")


@pytest.fixture(scope="module")
def zygote():
    server = Zygote()
    yield server
    server.close()


def tree(root: Path) -> dict:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in root.rglob("*")}


def test_the_corpus_is_large_and_covers_the_classes():
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)
    assert set(Counter(case.attack for case in CASES)) >= {"pickle", "archive path", "archive link", "archive device", "archive bomb", "safetensors", "shards", "config size", "config code", "weights", "tokenizer", "gguf", "adapter"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.attack.replace(' ', '_')}-{case.name}")
def test_hostile(case, good, zygote, tmp_path):
    world = tmp_path / "world"
    incoming = world / "home" / "upload" / "incoming"
    incoming.mkdir(parents=True)
    canary = world / "canary"
    case.write(incoming, good, canary)
    (world / "secret.txt").write_text("stays")
    before = {path: seen for path, seen in tree(world).items() if not path.startswith(str(incoming.parent))}
    arguments = {"incoming": str(incoming), "folder": str(incoming.parent), "limit": 1 << 28, "serving_others": False, "answers": case.answers, "base": None, "known_tokenizer": None}

    answer = zygote.run("prepare", arguments, incoming.parent, seconds=SECONDS, memory=4 << 30)

    assert "crashed" not in answer, answer["crashed"]
    outcome = answer.get("result")
    sentence = answer["refused"] if outcome is None else outcome["why"]
    if case.says == LOADS:
        assert outcome and outcome["runnable"], answer
    else:
        assert outcome is None or not outcome["runnable"]
        assert re.search(case.says, sentence), sentence
        assert sentence.endswith(".") and "Traceback" not in sentence and "<script" not in sentence and len(sentence) < 700
    assert not canary.exists()
    assert {path: seen for path, seen in tree(world).items() if not path.startswith(str(incoming.parent))} == before
    assert answer["peak"] < PEAK


def test_an_honest_model_still_opens(good, zygote, tmp_path):
    shutil.copytree(good, tmp_path / "u" / "incoming")
    arguments = {"incoming": str(tmp_path / "u" / "incoming"), "folder": str(tmp_path / "u"), "limit": 1 << 28, "serving_others": False, "answers": None, "base": None, "known_tokenizer": None}
    assert zygote.run("prepare", arguments, tmp_path / "u")["result"]["runnable"]


@pytest.mark.parametrize("name", ["zip_slip", "tar_symlink", "header_of_a_terabyte", "os_system"])
def test_through_the_apps_own_door(name, good, tmp_path):
    case = next(case for case in CASES if case.name == name)
    incoming = tmp_path / "u" / "incoming"
    incoming.mkdir(parents=True)
    case.write(incoming, good, tmp_path / "canary")
    with pytest.raises(Refused, match=case.says):
        intake.take(incoming, tmp_path / "u", {})
    assert not (tmp_path / "canary").exists()


def test_the_fence_itself(tmp_path):
    """What a file could only try if it had found a way to run code: each attempt fails, the process is stopped in time."""
    script = Path(__file__).parent / "hostile" / "breakout.py"
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    (outside / "secret").write_text("s3cret")
    import json
    import subprocess
    import sys

    order = {"folder": str(inside), "readable": [], "memory": 1 << 30, "seconds": 60, "file_size": 1 << 20}
    done = subprocess.run([sys.executable, str(script), json.dumps(order), str(outside)], capture_output=True, text=True, cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, timeout=120)
    result = json.loads(done.stdout)
    granted = result.pop("granted")
    assert {k for k, v in result.items() if v != "denied"} <= ({"read outside"} if "landlock" not in granted else set()), result
    assert sorted(p.name for p in outside.iterdir()) == ["secret"]


def test_a_task_that_hangs_or_hoards_is_stopped(tmp_path, monkeypatch):
    """The same door with a task that never ends: a sentence, and no process left behind."""
    (tmp_path / "slow.py").write_text("")
    monkeypatch.setattr(isolate, "_START", "import time; time.sleep(600)")
    with pytest.raises(Refused, match="took more than 1 s or more memory than allowed and was stopped"):
        isolate.run("prepare", {}, tmp_path, limits=isolate.Limits(seconds=1))
    monkeypatch.setattr(isolate, "_START", "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 28, 1 << 28)); bytearray(1 << 30)")
    with pytest.raises(Refused, match="needs more memory than allowed"):
        isolate.run("prepare", {}, tmp_path, limits=isolate.Limits(seconds=30))
