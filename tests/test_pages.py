"""Pages without a browser: the link, the words, and the frame's states under Streamlit's own test runner."""

import subprocess
import sys

import pytest

import analysis
from analysis import run
from analysis.contract import Headline
from analysis.theme import THEMES
from jobs import client
from jobs.table import Table
from models import shelf
from models.params import fields_of
from models.refusal import Refused
from pages.shared import controls, live, queue, wording
from pages.shared import view as views
from pages.shared.frame import metric_words
from tests.conftest import REPO

NAME = "layer_redundancy"
MODULE = analysis.load(NAME)
TINY = {"corpus": "demo/stories:8x16", "removal_sequences": "2", "remove": "nothing", "spectra_sequences": "2", "resamples": "100"}
needs_demo = pytest.mark.skipif(not any(e.source == "demo/storyteller-a" for e in shelf.demo_models()), reason="the demo model is not trained yet")


def read(**query):
    return views.read(MODULE, query)


def request(view):
    return views.requests(NAME, view)[0]


# the link


def test_an_empty_link_is_the_default_view():
    view = read()
    assert (view.a, view.b, view.corpus, view.params, view.notices, view.refused) == ("demo/storyteller-a", None, MODULE.CORPUS, {}, (), {})


def test_bad_values_are_named_and_the_rest_stays():
    view = read(resamples="many", seed="7", nonsense="1", corpus="demo/stories:8x16", device="cuda:9")
    assert view.params == {"seed": 7} and view.corpus == "demo/stories:8x16" and not view.refused
    assert len(view.notices) == 3
    assert any("resamples" in n and "2000 is used" in n for n in view.notices)
    assert any("nonsense" in n and "left out" in n for n in view.notices)
    assert any("cuda:9" in n for n in view.notices)


def test_steps_alone_mean_a_with_those_steps():
    assert read(b="~drop_layers:blocks=3").b == "demo/storyteller-a~drop_layers:blocks=3"
    assert read(a="demo/x~drop_layers:blocks=1", b="~drop_layers:blocks=3").b == "demo/x~drop_layers:blocks=1~drop_layers:blocks=3"


def test_b_equal_to_a_is_said_and_dropped():
    view = read(b="demo/storyteller-a")
    assert view.b is None and "same as A" in view.notices[0]


@pytest.mark.parametrize(
    ("query", "part", "word"),
    [
        ({"a": "no name"}, "a", "not a model"), ({"a": "demo/x~melt"}, "a", "melt"), ({"b": "~drop_layers:blocks=x"}, "b", "blocks"),
        ({"b": "~drop_layers:colour=1"}, "b", "colour"), ({"corpus": "novel"}, "corpus", "novel"), ({"a": "v/0123456789ab"}, "a", "not known here"),
    ],
)
def test_a_subject_that_cannot_be_read_is_refused_in_words(query, part, word):
    view = read(**query)
    assert set(view.refused) == {part} and word in str(view.refused[part])


def test_values_equal_to_the_default_do_not_make_another_view():
    assert read(seed="0") == read()


def test_differences_name_what_the_old_figures_are_from():
    old, new = read(corpus="demo/stories:64x128", seed="3"), read(corpus="demo/stories:32x128", b="~drop_layers:blocks=3")
    assert views.differences(MODULE, old, new) == "A alone, 64 sequences, Seed of the resampling 3"
    assert views.differences(MODULE, read(tokens="after-first"), read()) == ""  # only drawn differently


# words


def test_a_variant_of_two_steps_is_not_struck_through():
    assert "~" not in wording.plain("a~drop~gptq").replace(r"\~", "") and wording.plain("a_b*c") == r"a\_b\*c"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02134, "0.0213"), (12288, "12,288"), (1234.5, "1,234"), (-0.5, "−0.500"), (float("nan"), "not measured"), ("ρ", "ρ"), (3, "3"), (0.0000123, "1.23·10⁻⁵")],
)
def test_numbers_have_three_significant_digits(value, text):
    assert wording.number(value) == text


def test_numbers_stay_with_their_units_and_intervals_together():
    assert wording.prose("0.021 nats/token, 95 % of 0.018–0.024") == "0.021\u00a0nats/token, 95\u00a0% of 0.018\u2060–\u20600.024"


def test_under_a_number_stands_its_null_before_its_interval():
    assert metric_words(Headline("", 0.57, "ρ", 0.1, 0.9, "±0.59"))[:3] == ("ρ = 0.570", "null ±0.59", "")
    assert metric_words(Headline("", 0.339, "nats/token", 0.021, 2.41))[:3] == ("0.339", "0.0210 to 2.41", "nats/token")
    assert metric_words(Headline("", 1.15, "×", 1.02, 2.31, note="n = 11"))[:3] == ("1.15\u00a0×", "1.02 to 2.31", "n = 11")
    assert metric_words(Headline("", 3, low=0.01, high=0.02, note="0.0213 nats/token mean KL"))[:3] == ("3", "0.0213 nats/token mean KL", "")


def test_at_most_three_parameters_stand_in_the_bar_and_none_is_lost():
    first, rest = controls.split(MODULE.Params)
    assert 1 <= len(first) <= 3
    assert {f.name for f, _ in first + rest} == {f.name for f, _ in fields_of(MODULE.Params)}


# the frame


@pytest.fixture
def app(home):
    """A page under AppTest; `app(**query)` opens a link in a session of its own."""
    from streamlit.testing.v1 import AppTest

    def open_link(**query):
        test = AppTest.from_file(str(REPO / "pages" / "navigation.py"), default_timeout=120)
        for name, value in query.items():
            test.query_params[name] = value
        return test.run()

    return open_link


@pytest.fixture
def slow(monkeypatch):
    """Nothing starts by itself."""
    monkeypatch.setattr(run, "estimate", lambda request: run.Estimate(60.0, 1e9, True))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A home whose store holds the tiny result of A."""
    folder = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROTOME_HOME", str(folder))
        run.execute(request(read(**TINY)).to_json())
    return folder


@pytest.fixture
def with_result(stored, monkeypatch):
    monkeypatch.setenv("MICROTOME_HOME", str(stored))
    return stored


def words(test) -> str:
    """All text of a page."""
    parts = [element.value for kind in ("title", "markdown", "caption", "error", "warning", "code") for element in getattr(test, kind)]
    return "\n".join(parts).replace("\\", "")


def button(test, key):
    return next((b for b in test.button if b.key == key), None)


@needs_demo
def test_a_stored_result_is_drawn_answer_first(app, with_result):
    test = app(**TINY)
    assert not test.exception
    text = words(test)
    assert test.title[0].value == MODULE.QUESTION
    assert "from the store" in text and "Which states are alike?" in text
    assert len(test.metric) >= 1
    assert f"python -m analysis {NAME} demo/storyteller-a --corpus demo/stories:8x16" in test.code[-1].value
    assert button(test, "run") is None and button(test, "again") is not None
    assert not client.queue()


@needs_demo
def test_a_changed_parameter_leaves_the_old_figures_and_says_so(app, with_result, slow):
    test = app(**TINY)
    test.query_params["seed"] = "5"
    test.run()
    assert not test.exception
    text = words(test)
    assert "figures are from Seed of the resampling 0" in text and "Which states are alike?" in text and "about 60" in text
    assert button(test, "run") is not None and not client.queue()


@needs_demo
def test_a_control_writes_the_link_and_the_link_moves_the_control(app, with_result, slow):
    test = app(**TINY)
    box = next(s for s in test.selectbox if s.key == "param_removal_sequences")
    assert box.value == "2"
    box.set_value("8").run()
    assert test.query_params["removal_sequences"] in ("8", ["8"])
    test.query_params["removal_sequences"] = "4"
    test.run()
    assert next(s for s in test.selectbox if s.key == "param_removal_sequences").value == "4"


@needs_demo
def test_run_submits_once_for_everybody_and_cancel_ends_it_for_everybody(app, slow):
    first = app(**TINY)
    assert "Nothing measured yet" in words(first)
    button(first, "run").click().run()
    second = app(**TINY)
    assert len(client.queue()) == 1
    for test in (first, second):
        assert "waiting for a worker" in words(test) and button(test, "cancel") is not None
    button(second, "cancel").click().run()
    assert not client.queue()
    first.run()
    assert "Cancelled at 0 %" in words(first) and button(first, "run") is not None


@needs_demo
def test_a_quick_first_figure_needs_no_click_but_a_cancelled_one_is_left_alone(app, home, monkeypatch):
    monkeypatch.setattr(run, "estimate", lambda request: run.Estimate(2.0, 1e6, True))
    test = app(**TINY)
    assert len(client.queue()) == 1 and client.queue()[0].lane == "quick"
    client.cancel(client.queue()[0].id)
    test.run()
    assert not client.queue() and button(test, "run") is not None


@needs_demo
def test_progress_is_shown_with_what_is_left(app, home, slow):
    test = app(**TINY)
    button(test, "run").click().run()
    table = Table(home)
    job = client.queue()[0]
    table.claim(job.lane, 1)
    table.report(job.id, 3, 12, "removing block 3", 9.0, {})
    test.run()
    assert "removing block 3, 3 of 12, 9.0\u00a0s left" in words(test)


@needs_demo
def test_the_curves_of_a_running_job_are_drawn(app, home, slow):
    test = app(**TINY)
    button(test, "run").click().run()
    table = Table(home)
    job = client.queue()[0]
    table.claim(job.lane, 1)
    assert not test.get("plotly_chart")
    table.report(job.id, 3, 12, "training", 9.0, {"loss": [[1, 2, 3], [2.0, 1.5, 1.25]], "active": [[], []]})
    test.run()
    assert not test.exception and len(test.get("plotly_chart")) == 1
    figure = live.plot(client.status(job.id).live, "B", THEMES["light"])
    assert [list(trace.y) for trace in figure.data] == [[2.0, 1.5, 1.25]] and figure.data[0].line.color == THEMES["light"].b
    assert "loss" in figure.layout.annotations[0].text and "1.25" in figure.layout.annotations[0].text
    both = live.plot({"loss · λ 1": [[1, 2], [2.0, 1.0]], "loss · λ 9": [[1, 2], [2.0, 1.01]], "r": [[1], [0.5]]}, "A", THEMES["dark"])
    assert [t.xaxis for t in both.data] == ["x", "x", "x2"] and {"loss", "λ 1", "λ 9", "r <b>0.500</b>"} == {n.text for n in both.layout.annotations}


@needs_demo
def test_a_failed_run_is_told_in_its_own_words_with_details(app, home, slow):
    test = app(**TINY)
    button(test, "run").click().run()
    table = Table(home)
    job = client.queue()[0]
    table.claim(job.lane, 1)
    table.failed(job.id, "Found 12 blocks; expected 14. Add the missing shard.", ("missing: h.12.ln_1.weight", "missing: h.13.ln_1.weight"))
    test.run()
    text = words(test)
    assert "did not finish" in text and "Add the missing shard" in text and "missing: h.13.ln_1.weight" in text
    assert button(test, "run") is not None


@pytest.mark.parametrize(("query", "word"), [({"a": "demo/nobody"}, "nobody"), ({"a": "no name"}, "not a model"), ({"corpus": "x"}, "corpus"), ({"b": "~melt"}, "melt")])
def test_a_subject_that_cannot_be_opened_gets_a_card_and_a_way_out(app, query, word):
    test = app(**query)
    assert not test.exception
    assert word in words(test) and button(test, "to_demo") is not None
    assert not client.queue()


@needs_demo
def test_the_way_out_of_a_bad_b_keeps_a(app, with_result):
    test = app(**TINY, b="~melt")
    button(test, "drop_b").click().run()
    assert "from the store" in words(test)


def test_a_model_is_made_from_a_by_an_operator(app, slow):
    test = app(**TINY)
    next(s for s in test.selectbox if s.key == "step_operator").set_value("drop_layers").run()
    next(t for t in test.text_input if t.key == "step_drop_layers_blocks").set_value("3").run()
    button(test, "step_use").click().run()
    assert test.query_params["b"] in ("demo/storyteller-a~drop_layers:blocks=3", ["demo/storyteller-a~drop_layers:blocks=3"])


def test_queue_and_help_pages(app, home, slow):
    id = queue.submit(request(read(**TINY)))
    test = app()
    test.switch_page("job_queue.py").run()
    assert not test.exception and MODULE.TITLE in words(test)
    button(test, f"cancel_{id}").click().run()
    assert "cancelled" in words(test)
    test.switch_page("help.py").run()
    assert not test.exception and "B − A" in words(test)


def test_a_job_leads_back_to_its_page(home, slow):
    view = read(**TINY)
    queue.submit(request(view))
    standing = queue.active()[0]
    assert standing.page == NAME
    assert request(views.read(MODULE, standing.query)) == request(view)


@needs_demo
def test_a_page_from_the_store_takes_little_of_the_servers_time(app, with_result):
    """No clock: the second drawing of a page must reuse what the first one drew."""
    from pages.shared import drawn

    app(**TINY)
    before = drawn._plot.cache_info()
    app(**TINY)
    after = drawn._plot.cache_info()
    assert after.misses == before.misses and after.hits > before.hits


def test_nothing_heavy_comes_with_the_pages():
    code = (
        "import sys, importlib\n"
        "for name in ('frame', 'queue', 'exporting', 'subject'): importlib.import_module(f'pages.shared.{name}')\n"
        "import analysis; [analysis.load(n) for n in analysis.ANALYSES]\n"
        "heavy = ('transformer_lens', 'sae_lens', 'sklearn', 'numba', 'datasets', 'transformers.models.gpt2.modeling_gpt2', 'transformers.models.llama.modeling_llama')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_pages_process_draws_its_first_page_without_importing_torch(home):
    """A module that runs torch while it is imported (`from torch import nn`, a constant of a dtype) would bring it along."""
    code = (
        "import sys, app\n"
        "from pages.shared import drawn; drawn.warm()\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"page = AppTest.from_file({str(REPO / 'pages' / 'navigation.py')!r}, default_timeout=120).run()\n"
        "assert not page.exception, page.exception\n"
        "print('torch.nn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "False"


def test_a_postponed_module_arrives_whole_and_once():
    code = (
        "import sys\n"
        "from pages import later\n"
        "later.postpone('torch')\n"
        "import torch as early\n"
        "assert 'torch.nn' not in sys.modules\n"
        "import torch.nn.functional as F\n"
        "import torch\n"
        "from torch import nn\n"
        "assert F is torch.nn.functional is early.nn.functional and nn is sys.modules['torch.nn'] and nn.__spec__.origin\n"
        "assert isinstance(early.nn.Linear(1, 1), nn.Module) and isinstance(early.zeros(1), torch.Tensor)\n"
        "assert type(torch).__name__ == 'module'\n"
        "later.postpone('no_such_module'); assert 'no_such_module' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# who may look


def test_an_upload_of_somebody_else_is_as_if_it_were_not_there(home, tmp_path, monkeypatch):
    from models import checkpoints
    from pages.shared import visitor
    from tests import tiny

    run.lab.cache_clear()
    source = "shelf/" + checkpoints.register(tiny.save(tiny.gpt2(), tmp_path / "mine"), home, owner="ada")
    monkeypatch.setattr(visitor, "owner", lambda: "ada")
    assert not read(a=source).refused and not read(b=source + "~drop_layers:blocks=1").refused
    monkeypatch.setattr(visitor, "owner", lambda: "bob")
    for view in (read(a=source), read(b=source + "~drop_layers:blocks=1")):
        (refusal,) = view.refused.values()
        assert "is on the shelf: deleted, expired or never there" in str(refusal)


@needs_demo
def test_a_parameter_that_names_somebody_elses_upload_is_refused_as_if_it_were_not_there(home, monkeypatch):
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    shelf.add(shelf.ShelfEntry("shelf/u-secret", str(shelf.DEMO / "storyteller-b"), "upload", "secret", None, "ann", False, 1.0), home)
    monkeypatch.setattr(run, "also", lambda request: (run.variant("shelf/u-secret"),))
    with pytest.raises(Refused, match="deleted, expired or never there"):
        request(read())
    shelf.share("u-secret", "ann", home)
    assert request(read())


@needs_demo
def test_while_others_are_served_a_run_beyond_the_limit_is_refused_in_words_and_strangers_see_no_names(app, slow, monkeypatch):
    from pages.shared import visitor

    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    monkeypatch.setenv("MICROTOME_JOBS_PER_USER", "1")
    monkeypatch.setattr(visitor, "owner", lambda: "ada")
    button(app(**TINY), "run").click().run()
    again = app(**{**TINY, "seed": "5"})
    button(again, "run").click().run()
    assert len(client.queue()) == 1 and "You have 1 run waiting" in words(again)
    monkeypatch.setattr(visitor, "owner", lambda: "bob")
    (standing,) = queue.active()
    assert standing.title == "Somebody else’s run" and standing.page is None
    queue.cancel(standing.id)
    assert len(client.queue()) == 1
    test = app(**{**TINY, "seed": "7"})
    button(test, "run").click().run()
    assert len(client.queue()) == 2
