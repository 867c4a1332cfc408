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
