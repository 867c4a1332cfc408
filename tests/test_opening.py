"""A checkpoint opened from the sidebar or a link: what it takes beside what is free, refused with numbers, fetched only by a job."""

import pytest
from hostile import small

from jobs import client
from models import checkpoints, shelf
from pages.shared import room
from tests.conftest import REPO
from tests.test_pages import app, button, slow, words  # noqa: F401  app and slow are fixtures


@pytest.fixture
def folder(home, tmp_path):
    return small.gpt2(tmp_path / "gpt2")


def typed(test, key, value):
    return next(t for t in test.text_input if t.key == key).set_value(value).run()


def link(test, name):
    value = test.query_params.get(name)
    return value[0] if isinstance(value, list) else value


def test_what_fits_says_both_numbers_and_keeps_the_dtype_in_the_link(app, folder):
    test = typed(app(), "open_model", str(folder))
    assert not test.exception and "free on cpu" in words(test)
    next(s for s in test.selectbox if s.key == "open_dtype_a").set_value("bfloat16").run()
    button(test, "open_model_go").click().run()
    assert link(test, "a").startswith("shelf/gpt2-") and link(test, "a").endswith("!bfloat16") and link(test, "device") is None


def test_what_does_not_fit_is_refused_with_numbers_and_may_be_offloaded(app, folder, monkeypatch):
    needed = room.needs(checkpoints.weights.read(folder), "float32")
    monkeypatch.setattr(checkpoints, "available", lambda device: checkpoints.HEADROOM + needed - 1)
    test = typed(app(), "open_model", str(folder))
    assert f"more than the {room.size(needed - 1)}" in words(test) and button(test, "open_model_go").disabled
    next(t for t in test.toggle if t.key == "open_offload").set_value(True).run()
    button(test, "open_model_go").click().run()
    assert link(test, "device") == "offload"
    smaller = typed(app(), "open_model", str(folder))
    next(s for s in smaller.selectbox if s.key == "open_dtype_a").set_value("bfloat16").run()
    assert not button(smaller, "open_model_go").disabled


def test_serving_others_no_path_of_the_server_and_no_other_persons_upload_is_told(app, folder, home, monkeypatch):
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    shelf.add(shelf.ShelfEntry("shelf/u-secret", str(folder), "upload", "secret", None, "ann", False, 1.0), home)
    test = app()
    assert not any(t.key == "open_text" for t in test.text_input)
    for path, sentence in ((str(folder), "Folders of the server cannot be opened"), ("shelf/u-secret", "deleted, expired or never there"), ("/etc", "Folders of the server")):
        typed(test, "open_model", path)
        assert not test.exception and sentence in "".join(e.value for e in test.error).replace("\\", "") and button(test, "open_model_go") is None


def test_a_name_of_a_hub_is_not_fetched_by_the_page_but_by_a_job(app, home):
    test = app(a="someone/model@main")
    assert not test.exception and "someone/model@main is not on this machine" in words(test) and not client.queue()
    button(test, "ask_fetch").click().run()
    assert [job.spec["task"] for job in client.queue()] == ["fetch"]


def test_sequences_longer_than_the_context_are_cut_by_one_click(app, folder, home):
    source = "shelf/" + shelf.register(folder, home)
    test = app(a=source)
    assert "longer than the context" in words(test)
    button(test, "shorter").click().run()
    assert not test.exception and "x32" in link(test, "corpus") and "longer than the context" not in words(test)


def test_a_labelled_text_is_opened_chosen_and_a_bad_one_refused(home, tmp_path, slow):
    """On the page of hash codes: the slice stays (a document a sequence), its labels are offered, the choice is in the link; ordered
    bits stand on a slider."""
    from streamlit.testing.v1 import AppTest

    bad, good = tmp_path / "bad.jsonl", tmp_path / "moods.jsonl"
    bad.write_text('{"text": "a", "mood": "gay"}\n{"mood": "sad"}\n')
    good.write_text("".join(f'{{"text": "the day was {mood} {i}", "mood": "{mood}", "page": {i}}}\n' for i in range(20) for mood in ("gay", "sad")))
    test = AppTest.from_file(str(REPO / "pages" / "navigation.py"), default_timeout=120).run()
    test.switch_page("hash_codes.py").run()
    of = lambda kind, key: next(w for w in getattr(test, kind) if w.key == key)
    assert of("selectbox", "param_label").options[0] == "by itself" and "strand" in of("selectbox", "param_label").options
    test = typed(test, "open_text", str(bad))
    button(test, "open_text_go").click().run()
    assert "bad.jsonl, line 2, has no “text” string" in test.error[0].value.replace("\\", "") and link(test, "corpus") is None
    test = typed(test, "open_text", str(good))
    button(test, "open_text_go").click().run()
    assert not test.exception and link(test, "corpus").startswith("text/moods-") and link(test, "corpus").endswith(":256x64:padded")
    assert of("selectbox", "param_label").options == ["by itself", "mood", "page"]
    of("selectbox", "param_label").set_value("mood").run()
    assert link(test, "label") == "mood"
    assert of("select_slider", "param_bits").value == "64"
    of("select_slider", "param_bits").set_value("16").run()
    assert link(test, "bits") == "16" and not test.exception
