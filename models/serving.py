"""Whether the app serves its one user, or others."""

import os


def public() -> bool:
    """True while the app serves others (`MICROTOME_PUBLIC=1`)."""
    return os.environ.get("MICROTOME_PUBLIC", "") not in ("", "0")
