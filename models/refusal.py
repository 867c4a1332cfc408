"""The one exception whose message is meant for the person at the screen."""


import re


class Refused(ValueError):
    """Something asked for cannot be done; the message says what was found, what was expected, what to do.

    `details` (optional) carries lines worth listing under the sentence, for instance missing tensors.
    """

    def __init__(self, message: str, *, details: tuple[str, ...] = ()):
        super().__init__(message)
        self.details = tuple(details)


class NotApplicable(Refused):
    """The analysis or operator makes no sense for this model, for instance a model without MLPs."""


def amount(n_bytes: float) -> str:
    """Bytes inside a sentence: 3.10 GB, 12 MB, 640 KB."""
    unit, scale, digits = next(((u, s, d) for u, s, d in (("GB", 1e9, 2), ("MB", 1e6, 0), ("KB", 1e3, 0)) if n_bytes >= s), ("bytes", 1, 0))
    return f"{n_bytes / scale:.{digits}f} {unit}"


def shown(value: object, longest: int = 80) -> str:
    """A word from outside inside a sentence: short, on one line, no markup, no quotes, no control signs."""
    text = " ".join(str(value).split())
    return re.sub(r"[^\w .,:;/@+*=()\[\]{}!?×~\-]", "?", text, flags=re.ASCII)[:longest]
