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


def shown(value: object, longest: int = 80) -> str:
    """A word from outside inside a sentence: short, on one line, no markup, no quotes, no control signs."""
    text = " ".join(str(value).split())
    return re.sub(r"[^\w .,:;/@+*=()\[\]{}!?×~\-]", "?", text, flags=re.ASCII)[:longest]
