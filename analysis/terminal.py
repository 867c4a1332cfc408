"""A progress bar with time left, on stderr: redrawn in place on a terminal, a line now and then in a log."""

from __future__ import annotations

import shutil
import sys
import time

from models.progress import Quiet

WIDTH = 24  # cells of the bar
TERMINAL_SECONDS, LOG_SECONDS = 0.1, 10.0


class Bar(Quiet):
    """`with Bar("demo/storyteller-a") as bar:`; pass it where a progress is asked for."""

    def __init__(self, title: str, out=None, clock=time.monotonic):
        self.title, self.out, self.clock = title, out or sys.stderr, clock
        self.live = self.out.isatty()
        self._began = self._shown = None
        self._first = self._last = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error) -> None:
        if self.live and self._shown is not None:
            self.out.write("\r\x1b[K")
            self.out.flush()

    def step(self, i: int, n: int, message: str = "", live: dict[str, float] | None = None) -> None:
        now = self.clock()
        if self._began is None or i < self._last:  # a new phase counts from its own first step
            self._began, self._first = now, i
        self._last = i
        every = TERMINAL_SECONDS if self.live else LOG_SECONDS
        if self._shown is None or now - self._shown >= every or (self.live and i >= n):
            self._shown = now
            self._write(i, n, message, now - self._began)

    def _write(self, i: int, n: int, message: str, elapsed: float) -> None:
        share = min(max(i / max(n, 1), 0.0), 1.0)
        done = i - self._first
        left = f"{clock(elapsed * (n - i) / done)} left" if done > 0 and i < n else ""
        words = "  ".join(filter(None, (self.title, message, left)))
        if self.live:
            room = shutil.get_terminal_size().columns - 1
            bar = "█" * round(share * WIDTH) + "·" * (WIDTH - round(share * WIDTH))
            self.out.write("\r\x1b[K" + f"{share:4.0%} {bar} {words}"[:room])
        else:
            self.out.write(f"{share:4.0%}  {words}\n")
        self.out.flush()


def clock(seconds: float) -> str:
    """9 s, 1:05, 2:03:10."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
