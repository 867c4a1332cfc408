"""How many models an analysis looks at: none, one, two, more; in the link, in what is computed, and on the page."""

import pytest

import analysis
from analysis import bundle, run
from models import checkpoints
from models.corpus import register_text
from models.refusal import Refused
from pages.shared import queue
from pages.shared import view as views
from pages.shared.frame import subjects
from tests import tiny
from tests.probes import many_models, no_model
from tests.test_pages import app, button, words  # noqa: F401  app is a fixture

PROBES = {"layer_redundancy": no_model, "compression_cost": many_models}  # names that have pages


@pytest.fixture
def probes(home, monkeypatch):
    monkeypatch.setattr(analysis, "load", lambda name: PROBES[name])
    run.lab.cache_clear()
    yield
    run.lab.cache_clear()


@pytest.fixture
def models(home, tmp_path):
    """Three tiny models and a text, on a shelf of their own."""
    (tmp_path / "words.txt").write_text(tiny.text())
    names = ["shelf/" + checkpoints.register(tiny.save(make(), tmp_path / name), home) for name, make in (("one", tiny.gpt2), ("two", tiny.llama), ("three", lambda: tiny.gpt2(seed=7)))]
    return names, register_text(tmp_path / "words.txt", home) + ":4x32"


def test_an_analysis_without_a_model_is_computed_and_kept(probes):
    (request,) = run.requests("layer_redundancy", "demo/nobody", None, "demo/stories", {"flips": "400"})
    assert request.variants == () and request.corpus is None
    key = run.execute(request.to_json())
    found = run.load(request)
    assert key == run.key(request) and found.record["n_sequences"] == 400 and found.record["n_tokens"] == 0
    assert run.command(request) == "python -m analysis layer_redundancy --set flips=400 --out DIR"
    assert "400 inputs" in bundle.answer((request,), [found]) and bundle.provenance((request,), [found])["recipes"] == []
    assert run.estimate(request).seconds > 0


def test_a_third_model_reaches_compute_and_the_command(probes, models):
    (one, two, three), text = models
    (request,) = run.requests("compression_cost", one, two, text, {}, more=(three,))
    run.execute(request.to_json())
    assert len(run.load(request).result.weights) == 3
    assert f"--against {two} --more {three}" in run.command(request)
    back = queue.Standing(type("Job", (), {"spec": request.to_json()})()).query
    assert (back["a"], back["b"], back["more"]) == (one, two, three)
    assert views.requests("compression_cost", views.read(many_models, back)) == (request,)


def test_more_models_stand_in_the_link_and_only_where_they_are_looked_at(probes, models):
    (one, two, three), text = models
    link = {"a": one, "b": two, "more": f"{three};~drop_layers:blocks=0", "corpus": text}
    view = views.read(many_models, link)
    assert view.more == (three, f"{one}~drop_layers:blocks=0") and not view.refused
    assert [label for label, _ in subjects(many_models, view)] == ["A", "B", "C", "D"]
    assert views.read(many_models, link | {"more": "no name"}).refused.keys() == {"more"}
    assert not views.read(no_model, link | {"more": "no name"}).refused and subjects(no_model, view) == []


def test_too_few_models_are_refused_in_words(probes, models):
    with pytest.raises(Refused, match="choose a second one"):
        run.requests("compression_cost", models[0][0], None, models[1], {})


def test_the_page_without_a_model_runs_and_shows_its_answer(probes, app, monkeypatch):
    monkeypatch.setattr(run, "estimate", lambda request: run.Estimate(60.0, 1e9, True))
    test = app(flips="400")
    assert not test.exception and "Nothing measured yet" in words(test)
    assert not any(s.key in ("subject_a", "subject_b", "subject_corpus", "slice_n") for s in test.selectbox)
    button(test, "measure").click().run()
    (waiting,) = queue.active()
    run.execute(waiting.job.spec)
    test.run()
    assert not test.exception
    text = words(test)
    assert "of 400 flips are heads" in text and "inputs of its own, 400" in text and "python -m analysis layer_redundancy --set flips=400" in text


def test_a_corpus_that_is_not_what_is_looked_at_is_called_what_it_is(monkeypatch):
    """Prompts of the analysis's own beside a control text: both stand in the chips and in the written answer, each under its name."""
    from types import SimpleNamespace

    from pages.shared import frame

    own = SimpleNamespace(CORPUS_IS="control text", INPUTS="sums", MODELS=(1, 1), TITLE="Sums", __doc__="Sums?\n\nHow it is done.")
    view = views.View(corpus="demo/stories:4x32")
    entry = lambda n: SimpleNamespace(record={"n_tokens": 128, "n_inputs": n})
    assert frame._read(own, view, []) == ["sums", "control text demo/stories\\:4x32, 128\u00a0tokens"]
    assert frame._read(own, view, [entry(48), entry(31)])[0] == "48 and 31 sums"
    assert "on sums, with 4 sequences of demo/stories as control text" in frame.what_comes(own, view)
    monkeypatch.setattr(analysis, "load", lambda name: own)
    written = bundle.read(SimpleNamespace(analysis="sums", corpus=view.corpus_spec), SimpleNamespace(record={"n_tokens": 128, "n_sequences": 4, "n_inputs": 48}))
    assert written == "sums: 48; control text: `demo/stories:4x32`, 128 tokens in 4 sequences"
    plain_one = SimpleNamespace(MODELS=(1, 1), TITLE="Plain", __doc__="What?\n\nHow.")
    assert frame._read(plain_one, view, []) == ["demo/stories\\:4x32, 128\u00a0tokens"]


@pytest.mark.parametrize("name", analysis.ANALYSES)
def test_every_analysis_says_what_its_page_will_show(name):
    """Before the first run: the card that teaches."""
    from pages.shared import frame

    module = analysis.load(name)
    said = frame.what_comes(module, views.View(corpus=module.CORPUS, a="demo/storyteller-a", b="demo/storyteller-b"))
    assert module.TITLE.lower() in said and said.endswith(".")
    assert not hasattr(module, "CORPUS_IS") or f"as {module.CORPUS_IS}" in said
