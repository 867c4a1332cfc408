"""Fetch the typeface (IBM Plex, SIL Open Font License) into pages/static/fonts:  python -m pages.fonts

No font file lies in the repository. With npm and a network the packages of @fontsource are unpacked once; without, nothing
happens, and pages and figures use what the browser has. The same files serve the browser that draws exports: fontconfig reads
them from pages/static/fonts through a configuration file that the app names in FONTCONFIG_FILE.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "static" / "fonts"
PACKAGES = {
    "@fontsource/ibm-plex-sans@5": ("latin-400", "latin-500", "latin-600", "greek-400", "greek-600"),
    "@fontsource/ibm-plex-mono@5": ("latin-400", "latin-500"),
}
CONFIG = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir>{folder}</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""


def wanted() -> list[str]:
    return [f"{package.partition('/')[2].partition('@')[0]}-{face}-normal.woff2" for package, faces in PACKAGES.items() for face in faces]


def present() -> bool:
    return all((FOLDER / name).is_file() for name in wanted())


def use() -> None:
    """Let browsers started from here see the fonts; a choice already made in the environment stands."""
    if present():
        config = FOLDER / "fonts.conf"
        if not config.is_file():
            config.write_text(CONFIG.format(folder=FOLDER))
        os.environ.setdefault("FONTCONFIG_FILE", str(config))


def fetch() -> str | None:
    """Unpack what is missing; returns why it could not be had, or None."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", "--silent", "--fetch-retries=0", "--fetch-timeout=15000", *PACKAGES], cwd=folder, capture_output=True, text=True, timeout=90,
        )
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["npm failed"])[-1]
        FOLDER.mkdir(parents=True, exist_ok=True)
        for archive in Path(folder).glob("*.tgz"):
            _unpack(archive)
    return None if present() else "the packages do not hold the expected files"


def _unpack(archive: Path) -> None:
    """Take the wanted files by name; no path of the archive is followed."""
    with tarfile.open(archive) as files:
        for name in wanted():
            member = next((m for m in files if m.isfile() and m.name == f"package/files/{name}"), None)
            if member is not None:
                (FOLDER / name).write_bytes(files.extractfile(member).read())


def main() -> int:
    if present():
        return 0
    try:
        reason = fetch()
    except subprocess.TimeoutExpired:
        reason = "npm did not answer in time"
    if reason:
        print(f"Keeping the browser's own fonts: {reason}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
