"""The lab in a real browser: a recipe is built and refused and mended, made, seen as a point, kept, and opened where it is measured."""

from urllib.parse import unquote

import pytest

from models import shelf
from tests import browser_session
from tests.browser_session import Visitor

CHROMIUM = browser_session.chromium()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium), so nothing was seen in a browser"),
    pytest.mark.skipif(not any(e.source == "demo/storyteller-a" for e in shelf.demo_models()), reason="the demo model is not trained yet"),
    pytest.mark.timeout(600),
]


def test_a_recipe_becomes_a_point_that_opens(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with browser_session.running_app(home) as address, browser_session.running_browser(CHROMIUM) as browser:
        visitor = Visitor(browser, address).open("/compression?corpus=demo/mixed:8x32:padded")
        page = visitor.page
        visitor.see("Nothing is computed before you ask for it")
        page.get_by_role("button", name="Add a step").first.click()
        visitor.choose("Operator", "Round to nearest").see("nothing better is needed").press("Add it").wait_for_link("recipe=")
        page.locator(".st-key-step_0_round_to_nearest button").first.click()
        group = page.get_by_role("spinbutton", name="Group size")
        group.fill("7")
        group.press("Enter")
        visitor.see("do not divide")  # in words, before anything is computed; the step's controls stay open
        group.fill("16")
        group.press("Enter")
        visitor.wait_for_link("group").see("bits per weight")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Make variant").first.click()
        visitor.see("Size against distance")
        assert "b=demo/storyteller-a~round_to_nearest:group=16" in unquote(page.url)
        assert "B differs from A by" in visitor.answer()
        visitor.see("1 kept")
        page.wait_for_timeout(500)
        spot = page.locator(".st-key-plot_frontier .points path.point").last.bounding_box()
        page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
        page.wait_for_url(lambda url: "compression_cost" in url)
        visitor.see("What did the compression cost?").see("from the store")
        faults = visitor.faults
        visitor.close()
    assert not faults
