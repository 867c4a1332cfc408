"""How long a researcher waits for a page: the app's start, a page whose result is stored, and eight sessions asking the same.

    python -m benchmarks.pages

Server time is the script run of Streamlit's own test runner (no browser, no network). A figure stays honest on a noisy machine
only as CPU time, so CPU seconds stand beside the clock's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parents[1]
NAME = "layer_redundancy"
CORPUS, PARAMS = "demo/stories:64x64", {"removal_sequences": "8", "spectra_sequences": "4"}
SMALL = "/?corpus=demo/stories:8x16&removal_sequences=2&spectra_sequences=2&resamples=100"


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> str:
    return f"{time.perf_counter() - began[0]:6.2f} s, {time.process_time() - began[1]:6.2f} s CPU"


def first_page() -> None:
    """In a fresh process: import what the app imports, then run the default page on an empty store."""
    code = (
        "import time; t, c = time.perf_counter(), time.process_time()\n"
        "import app\n"
        "i, d = time.perf_counter() - t, time.process_time() - c\n"
        "from streamlit.testing.v1 import AppTest\n"
        "t, c = time.perf_counter(), time.process_time()\n"
        "page = AppTest.from_file('pages/navigation.py', default_timeout=120).run()\n"
        "assert not page.exception, page.exception\n"
        "print(f'imports {i:6.2f} s, {d:6.2f} s CPU; first page {time.perf_counter() - t:6.2f} s, {time.process_time() - c:6.2f} s CPU')"
    )
    for turn in range(3):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env={**os.environ, "MICROTOME_HOME": home}, capture_output=True, text=True)
        print(f"fresh process {turn + 1}:", done.stdout.strip().splitlines()[-1] if done.returncode == 0 else done.stderr[-800:])


def stored_page() -> None:
    """The default page of the demo model when another process has stored its result: first sight in the app's process, which
    has warmed up as it does at its start, then again. The help page before it pays for the test runner's own first time."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["MICROTOME_HOME"] = home
        compute = f"from analysis import run; run.execute(run.request({NAME!r}, ('demo/storyteller-a',), {CORPUS!r}, {PARAMS!r}).to_json())"
        subprocess.run([sys.executable, "-c", compute], cwd=REPO, check=True)
        import app  # noqa: F401
        from pages.shared import drawn
        from streamlit.testing.v1 import AppTest

        drawn.warm()
        page = AppTest.from_file(str(REPO / "pages" / "navigation.py"), default_timeout=120)
        page.switch_page("help.py").run()
        page = AppTest.from_file(str(REPO / "pages" / "navigation.py"), default_timeout=120)
        page.query_params.update({"corpus": CORPUS, **PARAMS})
        times = []
        for turn in range(8):
            began = clocks()
            page.run()
            times.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        assert not page.exception and any("nats" in m.value for m in page.markdown)
        assert "torch.nn" not in sys.modules
        print(f"stored page: first {times[0][0]:.2f} s ({times[0][1]:.2f} s CPU), then median {statistics.median(t for t, _ in times[1:]):.2f} s "
              f"({statistics.median(c for _, c in times[1:]):.2f} s CPU); target 0.5 s")


def eight_sessions() -> None:
    """Eight browsers open one link at once; counts what was computed."""
    from jobs.table import Table
    from tests import browser_session

    chromium = browser_session.chromium()
    if chromium is None:
        print("eight sessions: skipped, no Chromium on this machine")
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with browser_session.running_app(home) as address, browser_session.running_browser(chromium) as browser:
            pages = [browser.new_context().new_page() for _ in range(8)]
            for page in pages:
                page.goto(address + SMALL, wait_until="commit")
            for page in pages:
                page.wait_for_selector(".js-plotly-plot .main-svg", timeout=240_000)
        jobs = Table(home).history(100)
        print(f"eight sessions: {len(jobs)} job, {sum(job.attempts for job in jobs)} computation")


if __name__ == "__main__":
    first_page()
    stored_page()
    eight_sessions()
