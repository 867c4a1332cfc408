"""Finding Chromium, and the one warm process that draws for whoever asks in this process."""

from __future__ import annotations

import atexit
import base64
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from models.refusal import Refused

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "microsoft-edge-stable", "brave-browser")
PLACES = (
    "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/lib/chromium/chromium", "/usr/bin/google-chrome", "/opt/google/chrome/chrome",
    "/snap/bin/chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
MISSING = ("PNG, SVG and PDF are drawn by Chrome or Chromium, and none was found; install one (apt install chromium, or plotly_get_chrome), "
           "then export again. HTML and the data need none.")
START_SECONDS, FIGURE_SECONDS = 90, 60


def find() -> str | None:
    """Path of a Chromium-like browser: BROWSER_PATH, then PATH, then the usual places, then what plotly_get_chrome downloaded."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if os.access(named, os.X_OK) else None
    for name in NAMES:
        if found := shutil.which(name):
            return found
    return next((place for place in PLACES if os.access(place, os.X_OK)), None) or _downloaded()


@lru_cache(maxsize=1)
def _downloaded() -> str | None:
    from choreographer.cli._cli_utils import get_chrome_download_path

    place = get_chrome_download_path(mkdir=False)
    return str(place) if place and os.access(place, os.X_OK) else None


class Browser:
    """A client of `export.process`, started on demand, restarted when it died; one figure at a time."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._answers: queue.Queue = queue.Queue()

    def draw(self, job: dict, timeout: float = FIGURE_SECONDS) -> dict[str, bytes]:
        """The files of one figure (see export.process for `job`). Refused without Chromium, on an error, after `timeout` seconds."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._stop()  # it ended while nobody asked: idle, or killed
            for attempt in (1, 2):
                if self._process is None:
                    self._start()
                answer = self._ask(job, timeout)
                if answer is not None:
                    return answer
                self._stop()  # died on this figure; once more with a fresh one
        raise Refused("Chromium ended twice while drawing this figure; export HTML or the data instead, or a smaller figure.")

    def close(self) -> None:
        with self._lock:
            self._stop(patience=5.0)

    def _ask(self, job: dict, timeout: float) -> dict[str, bytes] | None:
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        answer = self._answer(timeout, f"Drawing this figure took longer than {timeout:.0f} s; export HTML or the data instead.")
        if answer is None:
            return None
        if "error" in answer:
            raise Refused(answer["error"])
        return {name: text.encode() if name == "svg" else base64.b64decode(text) for name, text in answer.items()}

    def _start(self) -> None:
        path = find()
        if path is None:
            raise Refused(MISSING)
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[1], env={**os.environ, "BROWSER_PATH": path}, start_new_session=True,
        )
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()
        answer = self._answer(START_SECONDS, f"Chromium ({path}) did not start within {START_SECONDS} s; HTML and the data need none.")
        if answer is None or "error" in answer:
            self._stop()
            raise Refused((answer or {}).get("error") or f"Chromium ({path}) did not start; HTML and the data need none.")

    def _answer(self, timeout: float, late: str) -> dict | None:
        """The next line, or None when the process ended."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self._stop()
            raise Refused(late) from None
        return None if line is None else json.loads(line)

    def _stop(self, patience: float = 0.0) -> None:
        """End the process and its Chromium; with patience it may first tidy up its profile folder."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):  # what was not read yet is lost anyway
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(stream, answers: queue.Queue) -> None:
    for line in stream:
        answers.put(line)
    answers.put(None)


@lru_cache(maxsize=1)
def shared() -> Browser:
    """The browser of this process; its Chromium starts with the first figure and ends with the process."""
    browser = Browser()
    atexit.register(browser.close)
    return browser
