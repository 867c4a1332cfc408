"""The compression report: every analysis is a row, whatever became of it; nothing is averaged; later analyses join by being listed."""

import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import analysis
from analysis import report, run, sweep
from analysis.contract import Figure, Headline
from analysis.report import __main__ as shell
from analysis.report.rows import requests, table
from analysis.theme import figure
from export import files
from export import report as pages
from models import checkpoints
from models.corpus import register_text
from models.progress import Quiet
from models.refusal import NotApplicable
from tests import tiny


@dataclass(frozen=True)
class Params:
    gain: int = 1


@dataclass(frozen=True, eq=False)
class Result:
    norm: float


def _plot(theme):
    return figure(theme).add_scatter(x=[0, 1], y=[0, 1])


def probe(name, models=(1, 1), **more):
    """An analysis that measures the size of a model's weights; of a pair their ratio."""

    def compute(captures, params, progress):
        if more.get("fault"):
            raise more["fault"]
        sizes = []
        for capture in captures:
            with capture.model() as model:
                sizes.append(float(sum(w.float().norm() ** 2 for _, _, w in model.matrices())))
        return Result(params.gain * (sizes[0] if len(sizes) == 1 else sizes[1] / sizes[0]))

    def figures(runs):
        views = {"A": _plot, "B": _plot, "B − A": _plot} if len(runs) == 2 else {"": _plot}
        return [Figure("first", "First", "See this.", {"": _plot}, pa.table({"x": [1]}), "Caption <1>.", "A line."), Figure("second", "Second", "And this.", views, pa.table({"x": [1]}), "C.", "L.")]

    headlines = lambda runs: (Headline("Size", runs[0].result.norm, "units", 0.9 * runs[0].result.norm, 1.1 * runs[0].result.norm, "0 (noise)"),
                              Headline("Name", name, note="a word"))
    module = SimpleNamespace(__name__=f"analysis.{name}", __doc__="Q?\n\nMethod.", TITLE=name.title(), QUESTION=f"What of {name}?", MODELS=models, CORPUS=more.get("corpus"), Params=Params,
                             Result=Result, compute=compute, answer=lambda runs: f"**{name}** has {len(runs)} runs & more.", headlines=headlines, figures=figures, cost=lambda *a: 1.0)
    for hook in ("corpus_for", "report_params"):
        if hook in more:
            setattr(module, hook, more[hook])
    return module


@pytest.fixture
def world(home, tmp_path, monkeypatch):
    """Seven analyses of all kinds; a tiny model and half of it."""
    from cache import fingerprint

    (tmp_path / "words.txt").write_text(tiny.text())
    text = register_text(tmp_path / "words.txt", home)
    modules = {
        "single": probe("single", corpus=text + ":4x16"), "pair": probe("pair", (2, 2), corpus=text + ":4x16"), "mlp": probe("mlp", (0, 0)), "merge": probe("merge", (3, 8)),
        "inapplicable": probe("inapplicable", corpus=text + ":4x16", fault=NotApplicable("It has no router.")),
        "broken": probe("broken", corpus=text + ":4x16", fault=ZeroDivisionError()),
        "own": probe("own", corpus=text + ":8x16", corpus_for=lambda v: text + ":2x16", report_params={"gain": 3}),
    }
    monkeypatch.setattr(analysis, "ANALYSES", tuple(modules))
    monkeypatch.setattr(analysis, "load", modules.__getitem__)
    for module in (run,):
        monkeypatch.setattr(module, "code_identity", lambda m: getattr(m, "__name__", "") if isinstance(m, SimpleNamespace) else fingerprint.code_identity(m))
    run.lab.cache_clear()
    a = "shelf/" + checkpoints.register(tiny.save(tiny.gpt2(), tmp_path / "tiny"), home)
    yield a, f"{a}~magnitude:sparsity=0.75"
    run.lab.cache_clear()


def computed(world):
    asked = report.ask(*world)
    sweep.execute(sweep.spec("report", requests(asked)), Quiet())
    return asked, report.read(asked)


def test_every_analysis_is_a_section_and_every_outcome_a_row(world):
    _, sections = computed(world)
    states = {s.name: [(r.label, r.state) for r in s.rows] for s in sections}
    assert states["single"] == [("Size", "done"), ("Name", "done")] and states["pair"] == states["single"]
    assert states["mlp"] == [("", "not applicable")] and states["merge"] == [("", "not applicable")]
    assert states["inapplicable"] == [("A", "not applicable"), ("B", "not applicable")] and states["broken"] == [("A", "failed"), ("B", "failed")]
    words = " ".join(row.why for s in sections for row in s.rows)
    assert "It has no router." in words and "ZeroDivisionError" in words and "Traceback" not in words and "compares 3 models" in words
    assert [s.name for s in sections if s.complete] == ["single", "pair", "own"]


def test_the_numbers_are_those_of_the_analyses_with_sign_interval_null_n_and_text(world):
    _, sections = computed(world)
    row = sections[0].rows[0]
    assert row.b.value < 0.95 * row.a.value and row.difference == row.b.value - row.a.value < 0  # three quarters of the smallest weights are gone
    assert row.n == "64 tokens" and row.corpus.endswith(":4x16") and row.null == "0 (noise)" and row.unit == "units"
    pair = sections[1].rows[0]
    assert pair.a is None and pair.b.value == pytest.approx(row.b.value / row.a.value) and pair.difference is None
    assert sections[0].rows[1].difference is None  # words have none
    data = table(sections).to_pylist()
    assert len(data) == sum(len(s.rows) for s in sections) and data[0]["a"] == row.a.value and data[0]["a_low"] == pytest.approx(0.9 * row.a.value)


def test_hooks_choose_text_and_settings_and_are_optional(world):
    asked, sections = computed(world)
    own = next(each for each in asked if each.name == "own")
    assert {r.corpus.n_sequences for r in own.requests} == {2} and {r.params.gain for r in own.requests} == {3}
    one, three = (next(s for s in sections if s.name == n).rows[0].a.value for n in ("single", "own"))
    assert three == pytest.approx(3 * one)


def test_before_anything_ran_it_says_so_and_afterwards_nothing_is_missing(world):
    asked = report.ask(*world)
    before = report.read(asked)
    assert {r.state for s in before for r in s.rows} == {"not computed yet", "not applicable"}
    calls = []
    compute = lambda spec, progress: (calls.append(spec["analysis"]), run.execute(spec, progress))[1]
    sweep.execute(sweep.spec("report", requests(asked)), Quiet(), compute)
    stored = len([r for r in sweep.outcomes(requests(asked)) if r.state == "done"])
    assert stored == 5 and calls.count("single") == 2 and calls.count("pair") == 1


def test_only_some_analyses(world):
    assert [each.name for each in report.ask(*world, only=("pair", "single"))] == ["single", "pair"]


def test_difference_figures_come_first(world):
    _, sections = computed(world)
    assert [(f.name, v) for f, v in sections[0].figures] == [("second", "B − A"), ("first", "")]
    assert [(f.name, v) for f, v in sections[1].figures] == [("first", ""), ("second", "")]


def test_html_is_one_file_with_every_row(world):
    _, sections = computed(world)
    text = pages.html_page(sections, *world).decode()
    assert text.count("<figure") == 6 and "cdn" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert "<b>single</b> has 2 runs &amp; more." in text and "Caption &lt;1&gt;." in text
    for word in ("It has no router.", "compares 3 models", "not applicable", "0 (noise)", "64 tokens", "python -m analysis single"):
        assert word in text
    assert str(run.home()) not in text  # no path of this machine leaves it


@pytest.mark.skipif(bool(files.unavailable("pdf")), reason="no Chromium on this machine")
def test_pdf_has_pages_and_fonts(world):
    _, sections = computed(world)
    pdf = pages.pdf(sections, *world)
    assert pdf.startswith(b"%PDF-") and len(re.findall(rb"/Type /Page\b", pdf)) >= 1 and b"/MediaBox [0 0 594.9" in pdf


def test_the_shell_writes_it_and_says_what_gave_no_number(world, tmp_path, capsys):
    assert shell.main([world[0], "--against", world[1], "--only", "single", "--only", "broken", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 analyses gave numbers" in said and "broken: failed" in said
    assert (tmp_path / "out" / "report.html").stat().st_size > 1e6 and "single,Size,done" in (tmp_path / "out" / "report.csv").read_text().replace('"', "")


def test_a_section_whose_words_fail_does_not_take_the_report_away(world, monkeypatch):
    asked, _ = computed(world)
    broken = analysis.load("single")
    monkeypatch.setattr(broken, "headlines", lambda runs: 1 / 0)
    sections = report.read(asked)
    assert sections[0].rows[0].state == "failed" and sections[1].complete


def test_the_real_analyses_can_all_be_asked(home):
    run.lab.cache_clear()
    asked = report.ask("demo/storyteller-a", "demo/storyteller-a~round_to_nearest")
    assert [each.name for each in asked] == list(analysis.ANALYSES)
    for each in asked:
        low, high = each.module.MODELS
        assert len(each.requests) == (0 if high == 0 or low > 2 or hasattr(each.module, "not_in_report") else 1 if low == 2 else 2) and bool(each.why) != bool(each.requests)
    assert np.isfinite(sum(run.estimate(r).seconds for each in asked for r in each.requests))
