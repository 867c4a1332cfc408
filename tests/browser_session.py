"""A running app and a real browser for tests/test_browser.py."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.conftest import REPO

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()
PATIENCE = 120_000  # ms: a busy machine is slow, not broken


def chromium() -> str | None:
    """The system's Chromium, where there is one."""
    return next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_app(home: Path, port: int | None = None, *options: str, **environment: str):
    """`streamlit run app.py` on a free port with a home of its own; yields its address."""
    port = port or free_port()
    log = home.parent / "app.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), *options], cwd=REPO, stdout=out, stderr=out,
            env={**os.environ, "MICROTOME_HOME": str(home), **environment},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_healthy(address: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the app ended at its start:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(address + "/_stcore/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the app did not answer:\n{log.read_text()[-3000:]}")


@contextmanager
def running_browser(path: str):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=PATIENCE)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """One browser context with one page: what a person at a screen does and sees."""

    def __init__(self, browser, address: str, scheme: str = "light", width: int = 1440):
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

    def open(self, link: str):
        self.page.goto(self.address + link)
        self.page.wait_for_selector("h1")
        return self

    def see(self, text: str):
        """Wait until the text stands on the page."""
        self.page.get_by_text(text).first.wait_for()
        return self

    def see_figures(self):
        self.page.wait_for_selector("[data-testid=stPlotlyChart] .main-svg")
        return self

    def answer(self) -> str:
        return self.page.locator(".st-key-answer").inner_text()

    def choose(self, label: str, value: str):
        """Pick or type a value in the select with that label."""
        box = self.page.get_by_role("combobox", name=label)
        box.click()
        box.fill(value)
        self.page.keyboard.press("Enter")
        return self

    def fill(self, label: str, value: str):
        """Type into the visible text field whose label begins so."""
        box = self.page.get_by_role("textbox", name=label)
        box.fill(value)
        box.press("Enter")
        return self

    def press(self, name: str):
        self.page.get_by_role("button", name=name, exact=True).first.click()
        return self

    def cancel(self):
        """Press Cancel in the run bar, once, when the page has been drawn; then it goes from there. A press that is lost fails the test."""
        self.page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", state="attached")
        button = self.page.locator(".st-key-runbar").get_by_role("button", name="Cancel").first
        button.click()
        button.wait_for(state="hidden")
        return self

    def wait_for_link(self, part: str):
        self.page.wait_for_url(lambda url: part in url)
        return self

    def close(self):
        self.context.close()
