"""The progress that says nothing, and what can be built on any: a stretch of a run, results kept by name. Jobs and the command line bring
progresses that do say something, with the same methods."""

SHARES = 1000  # a Stage counts in so many parts of the whole run


class Quiet:
    """Never cancelled, keeps nothing."""

    def step(self, i: int, n: int, message: str = "", live: dict[str, float] | None = None) -> None:
        """`i` of `n` done; `live` are points appended to named live curves."""

    def save(self, state: dict, force: bool = False) -> None:
        """Keep a partial state (tensors, arrays, plain values) to resume from."""

    def saved(self) -> dict | None:
        """The state kept by an interrupted run of the same job, or None."""
        return None

    def part(self, key: str) -> "Quiet":
        """The same progress for one part of a run, with a kept state of its own; `key` says what the part computes."""
        return self


class Stage:
    """The stretch from `start` to `end` (shares of the whole run) of another progress: what is done in it counts from 0 to n again."""

    def __init__(self, whole, start: float, end: float):
        self.whole, self.start, self.end = whole, start, end

    def step(self, i: int, n: int, message: str = "", live: dict[str, float] | None = None) -> None:
        share = self.start + (self.end - self.start) * (i / n if n else 0.0)
        self.whole.step(round(SHARES * share), SHARES, message, live)

    def save(self, state: dict, force: bool = False) -> None:
        self.whole.save(state, force)

    def saved(self) -> dict | None:
        return self.whole.saved()

    def part(self, key: str) -> "Stage":
        return Stage(self.whole.part(key), self.start, self.end)


class Kept:
    """Results of a long run by name: an interrupted run makes none of them twice."""

    def __init__(self, progress):
        self.progress, self.done = progress, progress.saved() or {}

    def __call__(self, name: str, make):
        """make(), or what an interrupted run of the same job had made under this name: arrays, tensors, plain values."""
        if name not in self.done:
            try:
                self.done[name] = make()
            finally:  # cancelled in the middle too: what was done until then
                if self.done:
                    self.progress.save(self.done)
        return self.done[name]
