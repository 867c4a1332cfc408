"""The newcomer's path in a real browser: open, change a parameter, watch, cancel, compare, share the link, export, go back."""

import sqlite3
import zipfile
from urllib.parse import unquote

import pytest

from models import shelf
from tests import browser_session, tiny
from tests.browser_session import Visitor

CHROMIUM = browser_session.chromium()
DEMO = any(entry.source == "demo/storyteller-a" for entry in shelf.demo_models())
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium), so nothing was seen in a browser"),
    pytest.mark.skipif(not DEMO, reason="the demo model is not trained yet"),
    pytest.mark.timeout(600),
]
SMALL = "/?corpus=demo/stories:8x16&removal_sequences=2&spectra_sequences=2&resamples=100"
B = "~drop_layers:blocks=3"


@pytest.fixture(scope="module")
def app_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("browser") / "home"
    home.mkdir()
    return home


@pytest.fixture(scope="module")
def address(app_home):
    with browser_session.running_app(app_home) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with browser_session.running_browser(CHROMIUM) as browser:
        yield browser


@pytest.fixture
def visit(browser, address):
    """Visitors of one test; none of them may see an error of the page's own code."""
    visitors = []

    def arrive(**how) -> Visitor:
        visitors.append(Visitor(browser, address, **how))
        return visitors[-1]

    yield arrive
    faults = [fault for visitor in visitors for fault in visitor.faults]
    for visitor in visitors:
        visitor.close()
    assert not faults


def test_the_first_figure_needs_no_click(visit):
    """An empty store: the page computes by itself, shows progress, then the answer, the figures and the command."""
    visitor = visit().open(SMALL).see_figures().see("from the store")
    assert "nats" in visitor.answer() or "cos" in visitor.answer()
    assert "python -m analysis layer_redundancy demo/storyteller-a" in visitor.page.get_by_test_id("stCode").last.inner_text()
    assert visitor.page.get_by_role("figure").count() >= 4  # each plot says in words what it shows


def test_a_parameter_is_changed_watched_and_cancelled(visit, app_home):
    visitor = visit().open(SMALL).see_figures()
    visitor.choose("removing …", "removing blocks").wait_for_link("remove=blocks").see("figures are from")
    visitor.see_figures()  # the old ones stay
    visitor.page.goto(visitor.address + SMALL.replace("8x16", "512x128").replace("removal_sequences=2", "removal_sequences=512"))
    visitor.see("about").press("Run").see("Cancel")
    second = visit().open(visitor.page.url.removeprefix(visitor.address)).see("Cancel")  # the same bar for everybody
    second.cancel()
    for each in (visitor, second):
        each.see("Cancelled at")
    with sqlite3.connect(app_home / "jobs.sqlite") as jobs:
        assert jobs.execute("select state from jobs order by created desc").fetchone()[0] == "cancelled"


def test_a_against_b_is_shared_by_its_link(visit):
    visitor = visit().open(SMALL).see_figures()
    visitor.choose("B, compared with A", B).wait_for_link("b=").press("Run").see("from the store").see_figures()
    visitor.page.get_by_role("radio", name="B − A").first.click()
    visitor.wait_for_link("view.")
    assert "demo/storyteller-a~drop_layers:blocks=3" in unquote(visitor.page.url)
    other = visit(scheme="dark", width=1024).open(visitor.page.url.removeprefix(visitor.address)).see_figures()
    assert other.answer() == visitor.answer() and "In B" in other.answer()
    assert other.page.get_by_role("radio", name="B − A", checked=True).count() == 1


def test_a_figure_leaves_as_pdf(visit):
    visitor = visit().open(SMALL).see_figures()
    visitor.press("Export")
    with visitor.page.expect_download() as waiting:
        visitor.page.get_by_role("button", name="Download figure").first.click()
    download = waiting.value
    assert download.suggested_filename.startswith("layer_redundancy-") and download.suggested_filename.endswith(".pdf")
    assert open(download.path(), "rb").read(5) == b"%PDF-"


def test_the_whole_page_leaves_as_one_zip(visit):
    visitor = visit().open(SMALL).see_figures()
    with visitor.page.expect_download() as waiting:
        visitor.page.get_by_role("button", name="Download everything").click()
    names = zipfile.ZipFile(waiting.value.path()).namelist()
    assert {"answer.md", "captions.md", "provenance.json", "REPRODUCE.txt"} <= set(names)
    assert {name.rpartition(".")[2] for name in names} >= {"pdf", "svg", "png", "html", "csv", "parquet"}


def test_run_again_computes_once_more(visit, app_home):
    visitor = visit().open(SMALL).see_figures()
    before = finished(app_home)
    visitor.press("Run again")
    for _ in range(1200):  # the run may be over before a busy machine has drawn its bar, so the jobs themselves are asked
        if finished(app_home) > before:
            break
        visitor.page.wait_for_timeout(100)
    assert finished(app_home) == before + 1
    visitor.see("from the store").see_figures()


def finished(home) -> int:
    with sqlite3.connect(home / "jobs.sqlite") as jobs:
        return jobs.execute("select count(*) from jobs where state = 'done'").fetchone()[0]


def test_a_folder_and_a_text_of_this_machine_become_the_subject(visit, tmp_path):
    folder = tiny.save(tiny.gpt2(), tmp_path / "mine")
    (tmp_path / "notes.txt").write_text(tiny.text())
    door = lambda: visit().open(SMALL).see_figures().press("Open a checkpoint or a text")
    door().fill("Folder of a checkpoint", str(folder)).press("Make it A").wait_for_link("a=shelf")
    door().fill("File on this machine", str(tmp_path / "notes.txt")).press("Make it the corpus").wait_for_link("corpus=text").see("text/notes")
    refused = door().fill("Folder of a checkpoint", str(tmp_path / "unicorn")).see("Found no folder")
    assert refused.page.get_by_test_id("stException").count() == 0


def test_a_clicked_block_opens_what_its_removal_costs(visit):
    visitor = visit().open(SMALL).see_figures()
    bar = visitor.page.locator(".js-plotly-plot .bars .point").nth(2).bounding_box()
    visitor.page.mouse.move(bar["x"] + 2, bar["y"] + bar["height"] / 2)
    visitor.page.mouse.click(bar["x"] + 2, bar["y"] + bar["height"] / 2)
    visitor.wait_for_link("compression_cost").see("What did the compression cost?")
    assert "drop_layers:blocks=2" in unquote(visitor.page.url)


def test_figures_follow_the_scheme_of_the_browser(visit):
    visitor = visit().open(SMALL).see_figures()
    ink = lambda: visitor.page.locator(".js-plotly-plot .xtick text").first.evaluate("e => getComputedStyle(e).fill")
    light = ink()
    visitor.page.emulate_media(color_scheme="dark")
    visitor.page.wait_for_function("light => getComputedStyle(document.querySelector('.js-plotly-plot .xtick text')).fill !== light", arg=light)


def test_back_and_deep_links(visit):
    visitor = visit().open("/jobs").see("Queue and history").open(SMALL).see_figures()
    visitor.choose("Sequences", "16 sequences").wait_for_link("16x16").see("figures are from")
    visitor.page.go_back()
    visitor.page.wait_for_url(lambda url: "8x16" in url)
    visitor.see("from the store")


def test_what_cannot_be_opened_is_said_in_words(visit):
    visitor = visit().open("/?a=demo/nobody&resamples=many").see("There is no demo model").see("resamples")
    assert visitor.page.get_by_test_id("stException").count() == 0
    visitor.press("science Show the demo model" if visitor.page.get_by_role("button", name="science Show the demo model", exact=True).count() else "Show the demo model")
    visitor.page.wait_for_url(lambda url: "nobody" not in url)


def test_the_default_pages_own_name_leads_to_it_with_its_link(visit):
    visitor = visit().open("/layer_redundancy?corpus=demo/stories:8x16&removal_sequences=2&spectra_sequences=2&resamples=100").see("Which blocks does the model not need?")
    assert visitor.page.get_by_text("Page not found").count() == 0 and "corpus=" in visitor.page.url
