"""The lab without a browser: the recipe in the link, refusals before anything is computed, the shelf, the plane, a sweep as one job."""

import pytest

from analysis import run
from analysis.frontier import recipes
from jobs import client
from models import shelf, variant_shelf
from operators import OPERATORS, parse
from pages.lab import step
from pages.shared import run_bar
from tests.conftest import REPO

CORPUS = "demo/mixed:8x32:padded"
A = "demo/storyteller-a"
pytestmark = pytest.mark.skipif(not any(e.source == A for e in shelf.demo_models()), reason="the demo model is not trained yet")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A home in which two recipes have been measured."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROTOME_HOME", str(folder))
        run.lab.cache_clear()
        for recipe in ("~round_to_nearest", "~magnitude"):
            run.execute(run.request("compression_cost", (A, A + recipe), CORPUS, {}).to_json())
    return folder


@pytest.fixture
def app(home, monkeypatch):
    """The lab under AppTest; `app(**query)` opens a link in a session of its own."""
    return opener(monkeypatch, home)


@pytest.fixture
def measured(stored, monkeypatch):
    yield opener(monkeypatch, stored)
    for file in ("variants.json", "jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"):
        (stored / file).unlink(missing_ok=True)
    client._opened.cache_clear()


def opener(monkeypatch, folder):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("MICROTOME_HOME", str(folder))
    monkeypatch.setattr(run_bar, "starts_by_itself", lambda requests: False)  # of the page that AppTest passes on its way
    run.lab.cache_clear()

    def open_link(**query):
        test = AppTest.from_file(str(REPO / "pages" / "navigation.py"), default_timeout=120).run()
        for name, value in {"corpus": CORPUS, **query}.items():
            test.query_params[name] = value
        test.switch_page("compression.py").run()
        assert not test.exception, test.exception
        return test

    return open_link


def words(test) -> str:
    parts = [element.value for kind in ("title", "markdown", "caption", "error", "warning", "code") for element in getattr(test, kind)]
    return "\n".join(parts).replace("\\", "")


def button(test, key):
    return next((b for b in test.button if b.key == key), None)


def value(test, name):
    found = test.query_params.get(name)
    return found[0] if isinstance(found, list) else found


# the recipe


def test_steps_are_added_moved_and_removed_in_the_link(app):
    test = app()
    assert button(test, "make").disabled and "Add a step" in words(test)
    test.selectbox(key="lab_add").set_value("drop_layers").run()
    assert "Use it for speed" in words(test)
    button(test, "add_step_go").click().run()
    test.selectbox(key="lab_add").set_value("wanda").run()
    button(test, "add_step_go").click().run()
    assert value(test, "recipe") == "drop_layers~wanda:on=demo/mixed:train:64x128"
    button(test, "earlier_1").click().run()
    assert value(test, "recipe") == "wanda:on=demo/mixed:train:64x128~drop_layers"
    button(test, "remove_0").click().run()
    assert value(test, "recipe") == "drop_layers"


def test_a_parameter_is_written_to_the_link_and_the_estimate_follows(app):
    test = app(recipe="round_to_nearest")
    before = words(test)
    test.selectbox(key="step0_round_to_nearest_bits").set_value("8").run()
    assert value(test, "recipe") == "round_to_nearest:bits=8"
    assert " of A, 7.11 bits per weight" in before and " of A, 10.9 bits per weight" in words(test)
    test.selectbox(key="step0_round_to_nearest_bits").set_value("4").run()
    assert value(test, "recipe") == "round_to_nearest"  # a default is not written


def test_calibration_and_seed_are_part_of_the_recipe(app):
    test = app(recipe="wanda")
    test.number_input(key="step0_on_n_sequences").set_value(32).run()
    test.number_input(key="step0_seed").set_value(7).run()
    assert value(test, "recipe") == "wanda:on=demo/mixed:train:32x128,seed=7"


@pytest.mark.parametrize(("recipe", "word"), [
    ("round_to_nearest:group=7", "do not divide"), ("round_to_nearest~sparsegpt", "prune first"), ("drop_layers:blocks=99", "no block 99"),
    ("wanda:on=demo/mixed:train:1x8", "at most 8 tokens"), ("magnitude:sparsity=2", "out of range"), ("melt", "no operator"), ("~~", "not a step"),
])
def test_what_cannot_be_made_is_refused_on_the_page_and_nothing_is_asked_for(app, recipe, word):
    test = app(recipe=recipe)
    assert word in words(test) and button(test, "make").disabled and not client.queue()


def test_make_keeps_the_recipe_chooses_it_and_asks_once(app, home):
    test = app(recipe="magnitude:sparsity=0.3")
    button(test, "make").click().run()
    made = parse(f"{A}~magnitude:sparsity=0.3")
    assert value(test, "b") == made.written and [k.variant for k in variant_shelf.listing(home)] == [made]
    (job,) = client.queue()
    assert job.spec["analysis"] == "compression_cost" and "waiting for a worker" in words(test)
    button(test, "cancel_make").click().run()
    assert not client.queue() and button(test, "make") is not None


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_its_controls_and_says_when_to_use_it(app, name):
    test = app(recipe=name)
    text = step.when(OPERATORS[name])
    assert text.startswith("Use it") and "Source" not in text and len(text) < 500
    keys = {w.key for kind in ("selectbox", "number_input", "text_input", "toggle") for w in getattr(test, kind)}
    assert {f"step0_{name}_{f}" for f in OPERATORS[name].Params.__dataclass_fields__} <= keys


def test_steps_are_named_by_what_sets_them_apart():
    label = lambda text: recipes.label(parse(A), parse(f"{A}~{text}"))
    assert label("gptq") == "gptq bits=4" and label("wanda:pattern=2:4") == "wanda sparsity=0.5, pattern=2:4"
    assert label("drop_layers:blocks=3.4") == "drop_layers blocks=3.4" and label("drop_layers:rank=last,count=1") == "drop_layers rank=last, count=1"
    assert label("drop_layers:blocks=3~gptq:bits=3") == "drop_layers blocks=3, gptq bits=3"


# the plane and the shelf


def test_measured_variants_are_points_with_an_answer(measured):
    test = measured(recipe="magnitude", b="~round_to_nearest")
    text = words(test)
    assert "Size against distance" in text and "random noise of the same size costs" in text and "B differs from A by" in text
    assert test.dataframe[-1].value["variant"].tolist() == ["round_to_nearest bits=4", "magnitude sparsity=0.5"]
    assert button(test, "make") is None and not client.queue()


def test_b_is_kept_renamed_edited_used_and_deleted(measured, stored):
    test = measured(b="~round_to_nearest")
    button(test, "keep_b").click().run()
    assert variant_shelf.listing(stored)[0].name == "round_to_nearest bits=4"
    test.text_input(key="new_name").set_value("four bits").run()
    assert variant_shelf.listing(stored)[0].name == "four bits" and "four bits" in test.dataframe[-1].value["variant"].tolist()
    button(test, "edit_b").click().run()
    assert value(test, "recipe") == "round_to_nearest"
    button(test, "delete_go").click().run()
    assert not variant_shelf.listing(stored) and value(test, "b") is None
    test = measured(b="~round_to_nearest")
    button(test, "use_as_a").click().run()
    assert value(test, "a") == f"{A}~round_to_nearest" and value(test, "b") is None


def test_a_kept_variant_can_be_chosen_on_any_page_by_its_name(measured, stored):
    variant_shelf.keep(stored, parse(f"{A}~magnitude"), "half")
    test = measured()
    box = test.selectbox(key="subject_b")
    assert "half" in " ".join(box.options)


def test_what_is_kept_but_not_measured_here_can_be(measured, stored):
    variant_shelf.keep(stored, parse(f"{A}~magnitude:sparsity=0.9"), "thin")
    test = measured()
    assert "thin" in test.dataframe[-1].value["variant"].tolist()
    button(test, "measure_kept").click().run()
    assert len(client.queue()) == 1


# the sweep


def test_a_sweep_is_one_job_of_ordinary_computations(app):
    test = app(sweep="round_to_nearest.wanda", seeds="2")
    n = len(OPERATORS["round_to_nearest"].SWEEP) + 2 * len(OPERATORS["wanda"].SWEEP)
    assert f"{n} of {n} to make" in words(test)
    button(test, "sweep_go").click().run()
    (job,) = client.queue()
    assert job.spec["kind"] == "sweep" and len(job.spec["requests"]) == n and job.lane == "batch"
    assert {r["variants"][1]["steps"][-1]["seed"] for r in job.spec["requests"]} == {0, 1}
    test = app(sweep="round_to_nearest.wanda", seeds="2")
    assert button(test, "cancel_sweep") is not None and len(client.queue()) == 1


def test_recipes_that_this_model_cannot_have_are_left_out_with_the_reason():
    made, left_out = recipes.variants(parse(A), parse(f"{A}~low_rank:which=mlp").steps, ("gptq", "drop_layers"), 1)
    assert {v.steps[-1].operator for v in made} == {"drop_layers"} and all("product of the factors" in line for line in left_out)
    assert len(left_out) == len(OPERATORS["gptq"].SWEEP)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_can_be_swept(name, monkeypatch):
    """By what it names itself, and without that by its first parameter; each setting is one that it can read."""
    made, left_out = recipes.variants(parse(A), (), (name,), 1)
    if getattr(OPERATORS[name], "SWEEP", None) == ():
        assert not made and name == "error_correction"  # does nothing alone: it mends what a step before it did
        return
    assert made and not left_out
    monkeypatch.delattr(OPERATORS[name], "SWEEP", raising=False)
    assert recipes.variants(parse(A), (), (name,), 1)[0]
