"""A variant taken away: plain transformers loads the folder and gives the same logits; smaller where it can be; the page's way to it."""

import io
import json
import zipfile

import pytest
import torch

from analysis import run
from jobs import client, take_away
from jobs.table import Table
from models import checkpoints, shelf
from models.corpus import register_text
from models.progress import Quiet
from models.refusal import Refused
from operators import __main__ as shell
from operators import parse
from pages.lab.take_away import zipped
from tests import tiny
from tests.test_page_compression import app, button, value, words  # noqa: F401  app is a fixture

needs_demo = pytest.mark.skipif(not any(e.source == "demo/storyteller-a" for e in shelf.demo_models()), reason="the demo model is not trained yet")


@pytest.fixture
def sources(home, tmp_path):
    run.lab.cache_clear()
    (tmp_path / "words.txt").write_text(tiny.text())
    text = register_text(tmp_path / "words.txt", home)
    names = {family: "shelf/" + checkpoints.register(tiny.save(getattr(tiny, family)(), tmp_path / family), home) for family in ("gpt2", "llama")}
    yield names, text
    run.lab.cache_clear()


def plain(folder, ids):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model, model(input_ids=ids).logits


RECIPES = (  # family, recipe, what of the config gets smaller, words
    ("llama", "slice_gpt:slice=0.5,on={text}:20x24", {"hidden_size": 8}, "slice_gpt"),
    ("llama", "drop_layers:blocks=1~slice_gpt:slice=0.5,on={text}:20x24", {"hidden_size": 8, "num_hidden_layers": 2}, "1 of 3 blocks left out"),
    ("gpt2", "slice_gpt:slice=0.5,on={text}:20x24", {"n_embd": 16}, "all 3 blocks kept"),
    ("gpt2", "low_rank:keep=0.6,metric=svd", {"n_embd": 16, "n_layer": 3}, "all 3 blocks kept"),
    ("llama", "magnitude~drop_layers:blocks=0,mlp=2", {"num_hidden_layers": 2}, "1 of 3 blocks left out"),
    ("gpt2", "round_to_nearest:group=8", {"n_layer": 3}, "all 3 blocks kept"),
    ("llama", "share_blocks:group=3", {"num_hidden_layers": 3}, "all 3 blocks kept"),
)


@pytest.mark.parametrize(("family", "recipe", "config", "word"), RECIPES, ids=[f"{f}-{r.split(':')[0]}" for f, r, _, _ in RECIPES])
def test_the_folder_gives_the_same_logits_and_is_smaller_where_it_can_be(sources, family, recipe, config, word):
    names, text = sources
    v = parse(f"{names[family]}~{recipe.format(text=text)}")
    key = take_away.execute(take_away.spec(v), Quiet())
    done = take_away.taken(v)
    assert key == take_away.key_of(v) and word in done.said and "loaded again" in done.said
    ids = torch.arange(24).reshape(2, 12)
    module, logits = plain(done.folder, ids)
    assert (logits - run.lab(run.home()).model(v).logits(ids)).abs().max() < 1e-4
    written = json.loads((done.folder / "config.json").read_text())
    assert {k: written[k] for k in config} == config
    original, weights = (sum(p.numel() for p in m.parameters()) for m in (run.lab(run.home()).model(v.root).module, module))
    assert (weights < original) == (word not in ("all 3 blocks kept",))
    assert done.n_bytes == sum(f.stat().st_size for f in done.folder.iterdir())


def test_it_is_written_once_and_can_be_deleted(sources, monkeypatch):
    v = parse(f"{sources[0]['gpt2']}~magnitude")
    take_away.execute(take_away.spec(v), Quiet())
    monkeypatch.setattr(run, "export", lambda *a, **k: pytest.fail("written again"))
    take_away.execute(take_away.spec(v), Quiet())
    folder = take_away.taken(v).folder
    with zipfile.ZipFile(io.BytesIO(zipped(folder))) as archive:
        assert {n.rpartition("/")[2] for n in archive.namelist()} >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    take_away.delete(v)
    assert take_away.taken(v) is None and not folder.exists()


def test_an_impossible_recipe_is_refused_before_anything_is_loaded(sources, monkeypatch, tmp_path, capsys):
    v = parse(f"{sources[0]['gpt2']}~round_to_nearest:group=7")
    monkeypatch.setattr(checkpoints, "load", lambda *a, **k: pytest.fail("something was loaded"))
    with pytest.raises(Refused, match="do not divide"):
        take_away.execute(take_away.spec(v), Quiet())
    assert shell.main(["export", v.written, str(tmp_path / "out")]) == 1 and "do not divide" in capsys.readouterr().err


@needs_demo
def test_the_page_exports_shows_the_check_and_puts_it_on_the_shelf(app, home):  # noqa: F811
    v = parse("demo/storyteller-a~drop_layers:blocks=3")
    test = app(b=v.written)
    assert "really smaller" in words(test)
    button(test, "export_go").click().run()
    (job,) = client.queue()
    assert job.spec["kind"] == "take_away"
    table = Table(home)
    table.claim(job.lane, 1)
    table.done(job.id, take_away.execute(job.spec, Quiet()))
    test = app(b=v.written)
    assert "1 of 6 blocks left out" in words(test) and "largest difference of a logit" in words(test)
    button(test, "export_shelf").click().run()
    assert value(test, "b").startswith("shelf/storyteller-a-drop-layers")
    assert checkpoints.resolve(value(test, "b"), home).config["n_layer"] == 5
