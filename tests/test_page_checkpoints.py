"""The checkpoints page without a browser: what it shows of honest, strange and hostile checkpoints, and who may see what."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hostile import small

from analysis.theme import DARK, LIGHT
from jobs import client
from models import examine, inspect, shelf, uploads
from models.examine import Ask
from models.progress import Quiet
from models.refusal import Refused
from pages.checkpoint import compare, figures, names, parameters
from tests import browser_session
from tests.conftest import REPO

needs_demo = pytest.mark.skipif(not any(e.source == "demo/storyteller-a" for e in shelf.demo_models()), reason="the demo model is not trained yet")
EVIL = "x<img src=x onerror=alert(1)>[a](javascript:alert(2))![b](http://evil.example/p.png)$e$~s~ :material/home:"


@pytest.fixture
def app(home):
    """The page under AppTest; `app(**query)` opens a link in a session of its own."""
    from streamlit.testing.v1 import AppTest

    def open_link(**query):
        test = AppTest.from_file(str(REPO / "pages" / "navigation.py"), default_timeout=60)
        test.switch_page("checkpoints.py")
        for name, value in query.items():
            test.query_params[name] = value
        return test.run()

    return open_link


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders to bring: a GPT-2, the same with one tensor changed, and one of an architecture nobody knows."""
    root = tmp_path_factory.mktemp("made")
    a = small.gpt2(root / "a")
    b = Path(shutil.copytree(a, root / "b"))
    changed = dict(small.tensors(b))
    changed["transformer.h.1.mlp.c_fc.weight"] = changed["transformer.h.1.mlp.c_fc.weight"] + np.float32(0.5)
    small.edit(small.rewrite(b, changed), layer_norm_epsilon=0.01)
    (root / "odd").mkdir()
    small.rewrite(root / "odd", {"[click](http://evil.example)": np.eye(3, dtype=np.float32), "encoder/w": np.ones((4, 2), np.float32)})
    return root


def words(test) -> str:
    parts = [element.value for kind in ("title", "markdown", "caption", "error", "warning", "code") for element in getattr(test, kind)]
    return "\n".join(parts).replace("\\", "").replace("\u00a0", " ")


def button(test, key):
    return next((b for b in test.button if b.key == key), None)


def frame(test, column):
    """The last table of the page that has the column: cards offer theirs in popovers before."""
    return [f.value for f in test.dataframe if column in f.value.columns][-1]


def work(home, ask: Ask):
    """What a worker would do."""
    return examine.execute(ask.spec(home), home, Quiet())


def test_the_door_says_its_limits_before_one_tries(app):
    test = app()
    assert not test.exception
    text = words(test)
    assert test.title[0].value == "Bring your own checkpoint" and "21 GB" in text and "200 files" in text and "A larger checkpoint comes from a folder" in text


def test_a_folder_is_opened_and_shown_from_its_headers(app, home, made):
    test = app()
    next(t for t in test.text_input if t.key == "folder_path").set_value(str(made / "a")).run()
    button(test, "open_folder").click().run()
    assert not test.exception
    source = test.query_params["model"]
    source = source[0] if isinstance(source, list) else source
    assert source.startswith("shelf/a-")
    text = words(test)
    assert "28 tensors" in text and "2 blocks" in text and "gpt2" in text and "How is it built?" in text
    assert {job.spec["task"] for job in client.queue()} == {"statistics", "selfcheck"}
    assert button(test, "open_analysis") is not None
    work(home, Ask("statistics", source))
    test.run()
    assert not test.exception
    shown = frame(test, "histogram")
    assert {"norm", "kurtosis", "effective_rank", "name"} <= set(shown.columns) and len(shown) == parameters.ROWS
    assert "How are its values distributed?" in words(test)


def test_what_cannot_run_is_examined_and_says_why(app, home, made):
    source = examine.register(str(made / "odd"), home)
    work(home, Ask("statistics", source))
    test = app(model=source)
    assert not test.exception
    text = words(test)
    assert "can be examined, not run" in text and "config.json" in text and button(test, "open_analysis") is None
    assert "No blocks are recognised" in text
    assert list(frame(test, "histogram")["name"]) == ["[click](http://evil.example)", "encoder/w"]
    raw = "\n".join(m.value for m in test.markdown)
    assert "[click](" not in raw and "http://" not in raw


def test_nothing_in_a_name_becomes_markup():
    shown = names.in_markdown(EVIL, 400)
    for sign in "<>[]$~:!":
        position = shown.find(sign)
        assert position < 0 or sign == "!" or shown[position - 1] == "\\", sign
    assert "://" not in shown and "<" not in names.in_figure(EVIL, 400)
    assert "\n" not in names.one_line("a\nb\u202egnp.exe") and "\u202e" not in names.one_line("a\u202eb")
    assert len(names.one_line("x" * 500)) == names.LONGEST


def test_a_title_with_markup_is_shown_as_text(app, home, made):
    folder = made / "odd"
    shelf.add(shelf.ShelfEntry("shelf/evil", str(folder), "folder", EVIL, None, "", False, 1.0, None, 10, False, "No config, " + EVIL), home)
    for query in ({}, {"model": "shelf/evil"}):
        test = app(**query)
        assert not test.exception
        raw = "\n".join(element.value for kind in ("markdown", "caption") for element in getattr(test, kind))
        assert "x\\<img" in raw and "<img" not in raw.replace("\\<", "") and "[a](" not in raw and "![b](" not in raw


@pytest.mark.parametrize("source", ["shelf/nobody", "demo/nobody", "../../etc/passwd", "<script>", "a", "shelf/../x", "x/y z", "v/0123456789ab", "demo/storyteller-a~drop_layers:blocks=1"])
def test_a_link_to_nothing_gets_a_card_and_a_way_back(app, source):
    test = app(model=source)
    assert not test.exception
    assert "cannot be opened" in words(test)
    next(b for b in test.button if (b.key or "").startswith("back_")).click().run()
    assert test.title[0].value == "Bring your own checkpoint"


def test_anothers_upload_is_not_there_and_a_shared_one_is(app, home, made, monkeypatch):
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    entry = shelf.ShelfEntry("shelf/u-secret", str(made / "a"), "upload", "secret", None, "ann", False, 1.0)
    shelf.add(entry, home)
    assert "secret" not in words(app()) and "somebody else" in words(app(model="shelf/u-secret"))
    shelf.share("u-secret", "ann", home)
    assert "28 tensors" in words(app(model="shelf/u-secret"))
    assert "closed" in words(app()) and not any(t.key == "folder_path" for t in app().text_input)


def test_delete_takes_off_the_shelf_what_is_ones_own(app, home, made):
    source = examine.register(str(made / "a"), home)
    test = app()
    assert source in words(test)
    button(test, f"delete_{source}").click().run()
    assert source not in words(test) and (made / "a" / "model.safetensors").is_file()


def test_a_hubs_checkpoint_is_fetched_by_a_job(app, home):
    test = app(model="someone/model@main")
    assert not test.exception and "is not on this machine" in words(test) and not client.queue()
    button(test, "ask_fetch").click().run()
    assert [job.spec["task"] for job in client.queue()] == ["fetch"]
    with pytest.raises(Refused, match="not on this machine"):
        work(home, Ask("fetch", "someone/model@main"))


def test_two_checkpoints_side_by_side(app, home, made):
    a, b = (examine.register(str(made / name), home) for name in "ab")
    work(home, Ask("difference", a, b))
    test = app(model=a, **{"with": b})
    assert not test.exception
    text = words(test)
    assert "1 of 28 tensors differ" in text and "Where do the weights differ?" in text and "equal, byte for byte" in text
    table = frame(test, "cosine")
    assert table["name"].iloc[0] == "transformer.h.1.mlp.c_fc.weight" and table["status"].iloc[0] == "changed"
    fields = frame(test, "field")
    assert list(fields["field"]) == ["layer_norm_epsilon"] and list(fields["B"]) == ["0.01"]


def test_changed_files_are_another_question(home, made, tmp_path):
    folder = Path(shutil.copytree(made / "a", tmp_path / "c"))
    source = examine.register(str(folder), home)
    before = Ask("statistics", source).spec(home), examine.key(Ask("statistics", source), home)
    small.rewrite(folder, {**small.tensors(folder), "transformer.ln_f.bias": np.ones(16, np.float32)})
    assert before[0] != Ask("statistics", source).spec(home) and before[1] != examine.key(Ask("statistics", source), home)


def test_the_selfcheck_of_a_model_that_does_not_fit_its_config_lists_what_is_wrong(home, made, tmp_path):
    folder = small.edit(Path(shutil.copytree(made / "a", tmp_path / "d")), n_layer=3)
    source = examine.register(str(folder), home)
    with pytest.raises(Refused) as refusal:
        work(home, Ask("selfcheck", source))
    assert "h.2." in " ".join(refusal.value.details)


def test_sorting_puts_empty_values_last_and_cuts_into_pages():
    table = pa.table({"name": [f"t{i}" for i in range(60)], "norm": [float(i) if i % 3 else None for i in range(60)]})
    first, n = parameters.page_of(table, "norm", True, "", 1)
    assert n == 60 and first["norm"].to_pylist()[:2] == [59.0, 58.0] and first.num_rows == parameters.ROWS
    last, _ = parameters.page_of(table, "norm", False, "", 99)
    assert last.num_rows == 60 % parameters.ROWS and last["norm"].to_pylist()[-1] is None
    assert parameters.page_of(table, "no such", True, "T1", 1)[1] == 11  # t1, t10 … t19, whatever the case


def test_the_drawing_counts_every_parameter_once(made):
    outline = inspect.outline(made / "a")
    figure = figures.architecture(outline, inspect.parameters(made / "a"))
    for theme in (LIGHT, DARK):
        drawn = figure.views[""](theme)
        said = sum(int(text.split(": ")[1].split(" ")[0].replace(",", "")) for text in drawn.data[-1].customdata)
        assert said == sum(outline["elements"].to_pylist())


def test_the_random_band_holds_a_random_matrix_and_not_a_planted_direction():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 100))
    above = lambda m: int(figures.spectrum(s := np.linalg.svd(m, compute_uv=False), 1.0, 1.0, m.shape, float(m.std())).reading.split("; ")[1].split(" ")[0])
    assert above(noise) <= 1
    assert above(noise + 3 * np.outer(np.ones(200), rng.normal(size=100))) >= 1


def test_the_map_of_differences_shows_the_changed_matrix(home, made):
    table = compare_table(made)
    figure = figures.where_weights_differ(table)
    heat = figure.views[""](LIGHT).data[0]
    row = [line[0] for line in heat.customdata].index("mlp.c_fc.weight")
    assert np.nanargmax(heat.z) == row * heat.z.shape[1] + 1 and np.count_nonzero(np.nan_to_num(heat.z)) == 1
    assert "in block 1" in figure.reading and "1 of 28 tensors differ" in compare.sentence(table)


def test_constant_zero_and_broken_tensors_are_told_and_not_drawn(app, home, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    broken = np.eye(4, dtype=np.float32)
    broken[0, 0] = np.nan
    small.rewrite(folder, {"h.0.zero": np.zeros((5, 4), np.float32), "h.0.one": np.ones((4, 5), np.float32), "h.0.broken": broken, "h.0.flag": np.array(3, np.int64)})
    source = examine.register(str(folder), home)
    work(home, Ask("statistics", source))
    for name, sentence in (("h.0.zero", "no direction"), ("h.0.one", "Every element is 1"), ("h.0.broken", "no spectrum"), ("h.0.flag", "needs a matrix"), ("h.0.gone", "has no tensor")):
        if name in ("h.0.zero", "h.0.one"):
            work(home, Ask("spectrum", source, tensor=name))
        test = app(model=source, tensor=name)
        assert not test.exception and sentence in words(test), name
    work(home, Ask("difference", source, source))
    assert figures.where_weights_differ(examine.stored(Ask("difference", source, source), home).table("difference")) is None


def compare_table(made):
    from models import differences

    return differences.of_weights(made / "a", made / "b")


def test_questions_are_asked_and_answers_reach_the_intake(app, home, made, monkeypatch):
    from models import intake
    from models.intake.infer import Question
    from pages.checkpoint import arriving

    upload = uploads.begin(home, "", {"model.safetensors": 4})
    with uploads.receive(home, "", upload.id, "model.safetensors") as receiver:
        receiver.write(b"abcd")
    given = []

    def take(incoming, folder, answers=None, serving_others=False, base=None, known_tokenizer=None, limits=None, unpacked_limit=0):
        given.append((answers, sorted(p.name for p in incoming.iterdir())))
        if answers is None:
            asked = (Question("n_head", "How many heads?", 2, (1, 2, 4)), Question("tokenizer", "No tokenizer.", "none", ("none", "byte-level")))
            return intake.Outcome(folder / "model", "safetensors", {"model_type": "gpt2"}, asked, False, "", (), ("config.json was missing: <b>",), ())
        shutil.copytree(made / "a", folder / "model", dirs_exist_ok=True)
        return intake.Outcome(folder / "model", "safetensors", {"model_type": "gpt2"}, (), True, "", (), ("config.json was missing: <b>",), ("Logits: all finite.",))

    monkeypatch.setattr(arriving.uploads.intake, "take", take)
    test = app()
    button(test, f"finish_{upload.id}").click().run()
    assert not test.exception and "A few things the files do not say" in words(test)
    next(s for s in test.selectbox if s.key == "answer_n_head").set_value(4).run()
    next(r for r in test.radio if r.key == "answer_tokenizer").set_value("byte-level").run()
    button(test, "answer_go").click().run()
    assert given[-1] == ({"n_head": 4, "tokenizer": "byte-level"}, ["model.safetensors"])
    assert "runs" in words(test) and "Logits: all finite." in words(test) and not [e for e in shelf.shelf(home) if e.kind == "upload"], "not final yet"
    button(test, "answer_again").click().run()
    assert next(s for s in test.selectbox if s.key == "answer_n_head").value == 4, "the last answer is the proposal"
    next(s for s in test.selectbox if s.key == "answer_n_head").set_value(1).run()
    button(test, "answer_go").click().run()
    button(test, "keep_it").click().run()
    assert given[-1][0] == {"n_head": 1, "tokenizer": "byte-level"} and "is on the shelf" in words(test)
    (entry,) = [e for e in shelf.shelf(home) if e.kind == "upload"]
    assert entry.notes == ("config.json was missing: <b>",)
    button(test, "arrived_look").click().run()
    assert "28 tensors" in words(test) and "config.json was missing: <b>" in words(test)


def test_while_too_much_is_being_opened_an_upload_waits_and_is_kept(app, home, made, monkeypatch):
    upload = uploads.begin(home, "", {"model.safetensors": 1})
    with uploads.receive(home, "", upload.id, "model.safetensors") as receiver:
        receiver.write(b"x")
    monkeypatch.setattr(uploads, "PATIENCE", 0.01)
    monkeypatch.setattr(uploads, "_OPENING", threading.BoundedSemaphore(1))
    with uploads._OPENING:
        test = app()
        button(test, f"finish_{upload.id}").click().run()
        assert not test.exception and "other uploads are being opened" in words(test) and uploads.status(home, "", upload.id).whole
    button(test, "open_again").click().run()
    assert "has 1 bytes" in words(test) and "not taken" in words(test)


def test_a_tokenizer_may_join_later_and_nothing_else_may(home):
    upload = uploads.begin(home, "ann", {"model.safetensors": 4})
    uploads.join(home, "ann", upload.id, "tokenizer.json", json.dumps({}).encode())
    assert uploads.status(home, "ann", upload.id).files == {"model.safetensors": 4, "tokenizer.json": 2}
    for name, data, owner in (("model.bin", b"x", "ann"), ("../x", b"x", "ann"), ("tokenizer.json", b"", "ann"), ("tokenizer.json", b"x", "bob")):
        with pytest.raises(Refused):
            uploads.join(home, owner, upload.id, name, data)
    assert [u.id for u in uploads.unfinished(home, "ann")] == [upload.id] and not uploads.unfinished(home, "bob")


# in a real browser


@pytest.mark.skipif(browser_session.chromium() is None, reason="no Chromium on this machine, so nothing was uploaded in a browser")
@pytest.mark.timeout(600)
def test_files_chosen_in_a_browser_reach_the_shelf_and_their_table(made, home):
    """The real component, the real route, the fenced process: then the parameters, and no fault of the page's code."""
    with browser_session.running_app(home) as address, browser_session.running_browser(browser_session.chromium()) as browser:
        visitor = browser_session.Visitor(browser, address).open("/checkpoints").see("Drop the files of a checkpoint here")
        visitor.page.locator("input[type=file]").first.set_input_files([str(p) for p in (made / "a").iterdir()])
        visitor.see("is on the shelf").see("Logits: all finite.")
        (entry,) = [e for e in shelf.shelf(home) if e.kind == "upload"]
        assert uploads.used(home, "") == entry.n_bytes and not uploads.unfinished(home, "")
        visitor.page.get_by_test_id("stMain").get_by_role("button", name="Examine").first.click()
        visitor.wait_for_link("model=shelf").see("28 tensors").see("How are its values distributed?")
        visitor.page.get_by_test_id("stDataFrame").first.wait_for()
        visitor.page.locator("table[role=grid]").first.get_by_text("transformer.h.0.attn.c_attn.bias").wait_for(state="attached")
        visitor.press("Open in analysis") if visitor.page.get_by_role("button", name="Open in analysis", exact=True).count() else visitor.press("biotech Open in analysis")
        visitor.wait_for_link("a=shelf")
        assert not visitor.faults
        visitor.close()
    assert small.tensors(Path(entry.path)).keys() == small.tensors(made / "a").keys()
