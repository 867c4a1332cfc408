"""Values that operators hand back besides their Plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Storage:
    """What the variant costs to keep, counted honestly: scales, indices and codebooks included.

    `bits` of the touched matrices, `weights` their number in the original; `faster` says whether common hardware runs the
    representation faster, `how` in what format the bits are counted.
    """

    bits: float
    weights: int
    faster: bool
    how: str

    @property
    def bits_per_weight(self) -> float:
        return self.bits / max(self.weights, 1)
