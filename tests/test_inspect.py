"""Tables of a checkpoint against numbers computed another way, and against damage planted in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile import small

from models import differences, inspect
from models.refusal import Refused

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("inspect")
    rng = np.random.default_rng(0)
    planted = rng.normal(size=(30, 20)).astype(np.float32)
    planted[:, 5:] = 0
    heavy = rng.standard_t(3, size=(64, 64)).astype(np.float32)
    arrays = {"transformer.h.0.mlp.c_fc.weight": planted, "transformer.h.1.attn.c_attn.weight": heavy, "transformer.wte.weight": rng.normal(2, 3, (40, 8)).astype(np.float32),
              "strange.thing": np.eye(4, 6, dtype=np.float32), "one.half": rng.normal(size=500).astype(np.float16)}
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"].copy()
    arrays["transformer.h.1.ln_1.weight"] = np.array([1, np.nan, np.inf, 0, -np.inf, 3, 0, 0], np.float32)
    return small.rewrite(root, arrays)


def row(table, name):
    return next(r for r in table.to_pylist() if r["name"] == name)


def test_parameter_table_needs_no_config(folder):
    table = inspect.parameters(folder)
    assert row(table, "transformer.h.1.attn.c_attn.weight") == {
        "name": "transformer.h.1.attn.c_attn.weight", "block": 1, "part": "attention", "shape": "64 × 64", "dtype": "F32", "elements": 4096, "bytes": 16384, "file": "model.safetensors"}
    parts = {r["name"]: (r["block"], r["part"]) for r in table.to_pylist()}
    assert parts["transformer.wte.weight"] == (None, "embedding") and parts["lm_head.weight"] == (None, "head") and parts["strange.thing"] == (None, "other")
    assert sum(inspect.outline(folder)["elements"].to_pylist()) == sum(table["elements"].to_pylist())


def test_statistics_equal_scipy(folder):
    from scipy import stats

    table, arrays = inspect.statistics(folder), small.tensors(folder)
    for name in ("transformer.h.1.attn.c_attn.weight", "transformer.wte.weight", "one.half"):
        x, found = arrays[name].astype(np.float64), row(table, name)
        assert found["norm"] == pytest.approx(np.linalg.norm(x)) and found["std"] == pytest.approx(x.std()) and found["mean"] == pytest.approx(x.mean())
        assert found["kurtosis"] == pytest.approx(stats.kurtosis(x.ravel())) and found["largest"] == np.abs(x).max()
        assert sum(found["counts"]) == x.size and found["counts"] == np.histogram(x, 64, (x.min(), x.max()))[0].tolist()


def test_planted_rank_sparsity_and_damage(folder):
    table = inspect.statistics(folder)
    planted = row(table, "transformer.h.0.mlp.c_fc.weight")
    assert planted["sparsity"] == 0.75 and 4 < planted["effective_rank"] <= 5
    assert row(table, "strange.thing")["effective_rank"] == pytest.approx(4)
    damaged = row(table, "transformer.h.1.ln_1.weight")
    assert (damaged["n_nan"], damaged["n_inf"], damaged["sparsity"]) == (1, 2, 3 / 5)
    assert damaged["mean"] == pytest.approx(4 / 5)


def test_pieces_do_not_change_the_numbers(folder, monkeypatch):
    whole = inspect.statistics(folder).to_pylist()
    monkeypatch.setattr(inspect.pieces, "__defaults__", (7,))
    for a, b in zip(whole, inspect.statistics(folder).to_pylist(), strict=True):
        assert a["counts"] == b["counts"] and a["kurtosis"] == pytest.approx(b["kurtosis"], nan_ok=True)


def test_tied_tensors_are_found_and_near_twins_are_not(folder, tmp_path):
    assert set(inspect.duplicates(folder)[0]) == {"lm_head.weight", "transformer.wte.weight"}
    twins = np.zeros((2, 1000), np.float32)
    twins[1, 100] = 1  # beyond the glance
    small.rewrite(tmp_path, {"a": twins[0], "b": twins[1], "c": twins[0].copy()})
    assert [set(g) for g in inspect.duplicates(tmp_path)] == [{"a", "c"}]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_floats_are_read_as_torch_reads_them(tmp_path, dtype):
    import torch
    from safetensors.torch import save_file

    codes = torch.arange(256, dtype=torch.uint8) if dtype.startswith("float8") else torch.arange(0, 65536, 7, dtype=torch.int32).to(torch.uint16)
    tensor = codes.view(getattr(torch, dtype))
    save_file({"x": tensor}, tmp_path / "model.safetensors")
    found = inspect.values(tmp_path, inspect.weights.read(tmp_path).tensors["x"])
    assert np.array_equal(found, tensor.float().numpy(), equal_nan=True)


def test_spectrum_of_a_known_matrix(tmp_path):
    small.rewrite(tmp_path, {"m": np.diag([3.0, 4.0, 0.0]).astype(np.float32), "v": np.ones(3, np.float32)})
    sigma, effective, stable = inspect.spectrum(tmp_path, "m")
    p = np.array([4 / 7, 3 / 7])
    assert sigma.tolist() == [4, 3, 0] and effective == pytest.approx(np.exp(-(p * np.log(p)).sum())) and stable == pytest.approx(25 / 16)
    with pytest.raises(Refused, match="not a matrix"):
        inspect.spectrum(tmp_path, "v")


def test_difference_by_hand_and_its_sign(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir(), b.mkdir()
    small.rewrite(a, {"w": np.array([3.0, 4.0], np.float32), "same": np.ones(3, np.float32), "gone": np.ones(1, np.float32), "grown": np.ones(2, np.float32)})
    small.rewrite(b, {"w": np.array([3.0, 0.0], np.float32), "same": np.ones(3, np.float32), "new": np.ones(1, np.float32), "grown": np.ones(3, np.float32)})
    table = differences.of_weights(a, b)
    found = row(table, "w")
    assert (found["norm A"], found["norm B"], found["norm of difference"], found["relative"], found["cosine"], found["changed"]) == (5, 3, 4, 0.8, 0.6, 0.5)
    assert {r["name"]: r["status"] for r in table.to_pylist()} == {"w": "changed", "same": "equal", "gone": "only in A", "grown": "other shape", "new": "only in B"}


def test_config_and_tokenizer_differences(tmp_path):
    a = small.gpt2(tmp_path / "a")
    b = small.edit(Path(shutil.copytree(a, tmp_path / "b")), n_head=4, auto_map={"x": "y"})
    assert differences.of_configs(a, b).to_pylist() == [{"field": "n_head", "A": "2", "B": "4"}]
    assert differences.of_configs(a, a).num_rows == 0
    facts = differences.tokenizer_facts(a)
    assert (facts["kind"], facts["tokens"], facts["merges"]) == ("BPE", 256, 0)


def test_a_gigabyte_is_listed_without_reading_its_weights(tmp_path):
    """1 GB, sparse on disk: the table comes from the header, memory stays flat."""
    rows, position = {}, 0
    for i in range(64):
        rows[f"model.layers.{i}.mlp.up_proj.weight"] = small.entry([2048, 2048], position, position + 2048 * 2048 * 4)
        position += 2048 * 2048 * 4
    path = tmp_path / "model.safetensors"
    path.write_bytes(small.raw(rows))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + position)
    assert path.stat().st_size > 1 << 30
    code = (f"from pathlib import Path; from models import inspect; t = inspect.parameters(Path({str(tmp_path)!r})); assert t.num_rows == 64; "
            "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])")  # kB, of this process alone
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 500_000
