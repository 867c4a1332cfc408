"""Would this pattern of a tokenizer ever end? Patterns of real tokenizers have no repeat around a repeat.

Backtracking engines need exponential time for `(a+)+b`. Known tokenizers use none of it, so a pattern with a repeated
group that itself repeats without bound, or with a back-reference, is refused unread.
"""

from __future__ import annotations

import re

LONGEST = 4_000
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")
_TOKEN = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|\[:[^\]]*:\]|[^\]\\])*\]|\{\d*,?\d*\}|\(\?(?:<?[=!]|[a-zA-Z\-]*:|>|<\w+>|#[^)]*)|.", re.DOTALL)


def endless(pattern: str) -> str | None:
    """Why the pattern is not trusted, or None."""
    if len(pattern) > LONGEST:
        return f"is {len(pattern):,} characters long"
    tokens = _TOKEN.findall(pattern)
    stack: list[bool] = [False]  # per open group: does it hold an unbounded repeat?
    for position, token in enumerate(tokens):
        after = tokens[position + 1] if position + 1 < len(tokens) else ""
        if token.startswith("(") and not token.startswith("\\"):
            stack.append(False)
        elif token == ")" and len(stack) > 1:
            inner = stack.pop()
            if inner and _UNBOUNDED.fullmatch(after):
                return "repeats a group that itself repeats"
            stack[-1] = stack[-1] or inner
        elif _UNBOUNDED.fullmatch(token):
            stack[-1] = True
        elif re.fullmatch(r"\\[1-9gk]", token):
            return "refers back to its own match"
    return None
