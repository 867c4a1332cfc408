"""The report page without a browser: an empty state that offers a B, one job for all, analyses chosen in the link, rows while it runs."""

import pytest

import analysis
from analysis import run
from jobs import client
from models import shelf
from pages.shared import run_bar
from tests.conftest import REPO
from tests.test_page_compression import button, value, words

A = "demo/storyteller-a"
pytestmark = pytest.mark.skipif(not any(e.source == A for e in shelf.demo_models()), reason="the demo model is not trained yet")


@pytest.fixture
def app(home, monkeypatch):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setattr(run_bar, "starts_by_itself", lambda requests: False)
    run.lab.cache_clear()

    def open_link(**query):
        test = AppTest.from_file(str(REPO / "pages" / "navigation.py"), default_timeout=120).run()
        for name, text in query.items():
            test.query_params[name] = text
        test.switch_page("compression_report.py").run()
        assert not test.exception, test.exception
        return test

    return open_link


def test_without_b_it_says_what_it_is_and_offers_one(app):
    test = app()
    assert "runs every analysis on A and on a compressed B" in words(test) and not client.queue()
    button(test, "compare").click().run()
    assert value(test, "b") == "~round_to_nearest" and "Headline numbers" in words(test)


def test_all_of_it_is_one_job_that_everybody_sees(app):
    test = app(b="~round_to_nearest")
    assert "computations, about" in words(test)
    assert "not computed yet" in test.dataframe[-1].value["A"].tolist()
    button(test, "report_go").click().run()
    (job,) = client.queue()
    assert job.spec["kind"] == "sweep" and {r["analysis"] for r in job.spec["requests"]} <= set(analysis.ANALYSES)
    other = app(b="~round_to_nearest")
    assert button(other, "cancel_report") is not None and len(client.queue()) == 1
    button(other, "cancel_report").click().run()
    assert not client.queue()


def test_the_link_chooses_analyses(app):
    test = app(b="~round_to_nearest", only="compression_cost.nonsense")
    assert "1 computations, about" in words(test).replace("1 of 1 ", "1 ")
    assert set(test.dataframe[-1].value["analysis"]) == {analysis.load("compression_cost").TITLE}
    test.multiselect(key="report_only").set_value(["sensitivity"]).run()
    assert value(test, "only") == "sensitivity"


def test_an_impossible_b_is_told_before_anything_is_asked(app):
    test = app(b="~round_to_nearest:group=7")
    assert "do not divide" in words(test) and not client.queue()
