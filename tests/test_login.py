"""Serving others with sign-in: two people at a real provider (ours, on the loopback), each with a shelf of their own."""

import pytest

from tests import browser_session, oidc, tiny
from tests.browser_session import Visitor

CHROMIUM = browser_session.chromium()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium), so sign-in was not seen in a browser"),
    pytest.mark.timeout(300),
]


def test_two_people_sign_in_and_do_not_see_each_others_uploads(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    port = browser_session.free_port()
    folder = tiny.save(tiny.gpt2(), tmp_path / "mine")
    with oidc.provider() as provider:
        secrets = oidc.secrets_file(tmp_path, provider, port)
        with browser_session.running_app(home, port, f"--secrets.files={secrets}", MICROTOME_PUBLIC="1") as address, browser_session.running_browser(CHROMIUM) as browser:
            ada, bob = (Visitor(browser, address) for _ in range(2))
            for who, visitor in (("ada", ada), ("bob", bob)):
                visitor.open("/checkpoints").press("Sign in")
                visitor.page.get_by_role("link", name=who).click()
                visitor.see(f"Signed in as {who}@example.org")
            ada.open("/checkpoints").page.locator("input[type=file]").first.set_input_files([str(path) for path in sorted(folder.iterdir())])
            ada.page.locator(".st-key-arrived_look button").click()
            ada.wait_for_link("model=shelf")
            upload = ada.page.url.partition("model=")[2].partition("&")[0]
            bob.open(f"/checkpoints?model={upload}").see("somebody else's or never there")
            ada.open("/checkpoints").press("Sign out").see("Sign in")
            ada.open(f"/checkpoints?model={upload}").see("somebody else's or never there")
            text = (home.parent / "app.log").read_text()
            assert "client_secret" not in text and "cookie_secret" not in text
            assert not ada.faults and not bob.faults
