"""The typeface of drawn figures: IBM Plex Sans from static/fonts where `make run` could fetch it, else what the system has.

Chromium takes no woff2 from fontconfig, so the faces are handed to the drawing pages as data; PDF embeds what it uses. A Plex
that is installed in the system is found by its name, and without either the list in analysis.theme.FONT falls back to Arial's
metrics (Liberation Sans on Debian and Ubuntu).
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "static" / "fonts"
RANGES = {"latin": "U+0000-036F, U+0400-FFFF", "greek": "U+0370-03FF"}
_FACE = re.compile(r"ibm-plex-sans-(?P<subset>latin|greek)-(?P<weight>\d00)-normal\.woff2\Z")


def faces(folder: Path = FOLDER) -> str:
    """CSS @font-face rules with the fonts inside; "" where there are none."""
    rules = []
    for path in sorted(folder.glob("*.woff2")):
        if face := _FACE.match(path.name):
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            rules.append(
                f"@font-face{{font-family:'IBM Plex Sans';font-weight:{face['weight']};unicode-range:{RANGES[face['subset']]};"
                f"src:url(data:font/woff2;base64,{data}) format('woff2')}}"
            )
    return "".join(rules)
