"""Fetching from a hub, against a small one on the loopback: the commit, the chosen files, limits, and whose token is used."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hostile import small
from safetensors.torch import load

from models import checkpoints
from models import hub as door
from models.refusal import Refused
from tests.conftest import REPO
from tests.fake_hub import Hub, running

ASK = """
import json, sys
from pathlib import Path
from models import checkpoints, hub
from models.refusal import Refused
answers = []
for source in sys.argv[2:]:
    try:
        name, _, revision = source.partition("@")
        hub.fetch(name, revision or None, Path(sys.argv[1]))
        found = checkpoints.resolve(source, Path(sys.argv[1]))
        answers.append({"commit": found.revision, "files": sorted(p.name for p in found.path.iterdir()), "folder": str(found.path), "parameters": found.n_parameters})
    except Refused as refusal:
        answers.append({"refused": str(refusal)})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    read = lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()}
    first, second = (read(small.gpt2(root / str(seed), seed=seed)) for seed in (0, 1))
    sharded = read(small.llama(root / "sharded", max_shard_size="5KB"))
    extras = {"pytorch_model.bin": b"\x80\x04 never", "modeling_x.py": b"never", "onnx/model.safetensors": b"never", "README.md": b"never"}
    a, b, c = "a" * 40, "b" * 40, "c" * 40
    with running(Hub({
        "ann/model": {a: first, b: second | extras, "main": b, "v1": a},
        "ann/sharded": {c: sharded | {"consolidated.safetensors": b"never" * 100}, "main": c},
        "ann/pickles": {a: {"pytorch_model.bin": b"x", "config.json": b"{}"}, "main": a},
        "ann/private": {a: first, "main": a},
    }, private={"ann/private"})) as served:
        yield served


def ask(hub, home, *sources, **environment):
    hub.asked.clear()
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(home), *sources], cwd=REPO, capture_output=True, text=True,
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf"), "HF_TOKEN": "own", "HF_HUB_DISABLE_TELEMETRY": "1",
             "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def small_weights(hub, commit):
    return load(hub.repositories["ann/model"][commit * 40]["model.safetensors"])["transformer.wte.weight"]


def test_a_revision_is_resolved_to_its_commit_and_only_plain_files_come(hub, home):
    main, tag, sharded, pickles, private, unknown, no_revision = ask(
        hub, home, "ann/model", "ann/model@v1", "ann/sharded", "ann/pickles", "ann/private", "ann/nobody", "ann/model@v9")
    assert main["commit"] == "b" * 40 and tag["commit"] == "a" * 40
    assert main["files"] == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert torch.equal(checkpoints.load(checkpoints.resolve("ann/model", home))[0].lm_head.weight, small_weights(hub, "b"))
    assert "consolidated.safetensors" not in sharded["files"] and "model.safetensors.index.json" in sharded["files"]
    assert private["commit"] == "a" * 40, "one's own token opens one's own models"
    assert "has no .safetensors" in pickles["refused"] and "python -m models.convert" in pickles["refused"]
    assert "no model ann/nobody" in unknown["refused"] and "no revision “v9”" in no_revision["refused"]
    assert not [path for path, _ in hub.asked if path.endswith((".bin", ".py", ".md"))]

    (again,) = ask(hub, home, f"ann/model@{'a' * 40}", HF_HUB_OFFLINE="1")
    assert again["folder"] == tag["folder"] and not hub.asked, "without a network, what was fetched is used"


@pytest.mark.parametrize("name, revision", [("gpt2", None), ("a/b/c", None), ("../x", None), ("a/b", "../../etc"), ("a/b", ""), ("a/<b>", None), ("a/b", "main\n")])
def test_what_is_no_name_never_reaches_the_hub(home, name, revision):
    with pytest.raises(Refused, match="is not a name on a hub"):
        door.fetch(name, revision, home)


def test_serving_others_asks_as_nobody_and_keeps_its_own_cache(hub, home):
    (mine,) = ask(hub, home, "ann/private")
    assert mine["commit"]
    found, private = ask(hub, home, "ann/model", "ann/private", MICROTOME_PUBLIC="1")
    assert found["folder"].startswith(str(home / "hub")) and "private" in private["refused"]
    assert not any(authorization for _, authorization in hub.asked)
    (offline,) = ask(hub, home, "ann/private", MICROTOME_PUBLIC="1", HF_HUB_OFFLINE="1")
    assert "is not on this machine" in offline["refused"], "what the owner fetched for himself is not the visitors'"


def test_the_download_has_a_limit_and_what_is_read_least_goes(hub, home):
    n = len(hub.repositories["ann/model"]["a" * 40]["model.safetensors"]) / 1e9
    over, = ask(hub, home, "ann/model", MICROTOME_HUB_GB=str(0.9 * n))
    closed, = ask(hub, home, "ann/model", MICROTOME_HUB_GB="0")
    assert "are fetched. Raise MICROTOME_HUB_GB" in over["refused"] and "are not fetched here" in closed["refused"]
    served = {"MICROTOME_PUBLIC": "1", "MICROTOME_HUB_GB": str(1.1 * n)}
    assert "commit" in ask(hub, home, "ann/model", **served)[0] and list((home / "hub").rglob("blobs/*"))
    script = f"import models.hub as h, pathlib; h.KEPT = 1; h._make_room(int({n} * 1e9), pathlib.Path({str(home)!r}))"
    subprocess.run([sys.executable, "-c", script], cwd=REPO, check=True, env={**os.environ, **served, "HF_HOME": str(home / "hf")})
    assert not list((home / "hub").rglob("blobs/*"))


def test_pages_never_fetch_and_a_branch_stays_at_its_commit_until_fetched_again(hub, home, tmp_path):
    with pytest.raises(door.NotHere, match="ann/model is not on this machine yet") as gone:
        checkpoints.resolve("ann/model", home)
    assert gone.value.source == "ann/model"
    ask(hub, home, "ann/model")
    moved = hub.repositories["ann/model"] | {"main": "a" * 40}
    hub.repositories["ann/model"], kept = moved, hub.repositories["ann/model"]
    try:
        assert checkpoints.resolve("ann/model", home).revision == checkpoints.resolve(f"ann/model@{'b' * 40}", home).revision == "b" * 40
        ask(hub, home, "ann/model")
        assert checkpoints.resolve("ann/model", home).revision == "a" * 40
    finally:
        hub.repositories["ann/model"] = kept
