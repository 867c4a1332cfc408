"""Words from a file (tensor names, titles, tokens) made safe for the place where they are shown.

Nobody chose these words for our pages: in Markdown they are escaped, in figures HTML is escaped, everywhere they are one
line without control signs and cut in the middle.
"""

from __future__ import annotations

import html
import unicodedata

from pages.shared.wording import plain

LONGEST = 72


def one_line(text: object, longest: int = LONGEST) -> str:
    """Without line breaks, control and direction signs; the middle left out where it is long."""
    kept = " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in str(text)[:4_000]).split())
    return kept if len(kept) <= longest else f"{kept[: longest // 2]}…{kept[-(longest - longest // 2 - 1):]}"


def in_markdown(text: object, longest: int = LONGEST) -> str:
    return plain(one_line(text, longest).replace("://", ":\u2060//").replace("www.", "www\u2060."))


def in_figure(text: object, longest: int = 40) -> str:
    return html.escape(one_line(text, longest))
