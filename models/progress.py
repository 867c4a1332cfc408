"""The progress that says nothing; jobs and the command line bring ones that do, with the same methods."""


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
        self.whole.step(round(1000 * share), 1000, message, live)

    def save(self, state: dict, force: bool = False) -> None:
        self.whole.save(state, force)

    def saved(self) -> dict | None:
        return self.whole.saved()

    def part(self, key: str) -> "Stage":
        return Stage(self.whole.part(key), self.start, self.end)
