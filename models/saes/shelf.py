"""The shelf of SAEs: names that one can choose, and which of them were trained for a model.

    demo/saes/storyteller-a.resid_post.3      shipped
    saes/<title>-<12 hex of its content>      brought (a folder that stays where it is) or trained here

The name holds the content's hash, so a link or a key that names an SAE cannot come to mean another one.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from models import hashes
from models.layout import Site
from models.refusal import Refused, shown
from models.saes import reading
from models.saes.dictionary import Sae
from models.serving import public

DEMO = Path(__file__).resolve().parents[2] / "demo" / "saes"
_OWN = re.compile(r"saes/[a-z0-9][a-z0-9\-]{0,39}-[0-9a-f]{12}\Z")
_DEMO = re.compile(r"demo/saes/[a-z0-9][a-z0-9._\-]{0,63}\Z")


@dataclass(frozen=True)
class KnownSae:
    """One SAE at hand: its name, where it reads, and the model it was trained for ("" unknown)."""

    name: str
    site: Site
    model: str


def load_sae(name: str | Path, home: Path | None = None) -> Sae:
    """By name (`home` is needed for `saes/…`), or a folder given as a Path. Refused where it is missing, changed or broken."""
    if isinstance(name, Path):
        return reading.read(name)
    folder = _folder(name, home)
    _require_unchanged(name, folder, home)
    return reading.read(folder, name)


def fingerprint(name: str, home: Path) -> str:
    """Content hash of the SAE behind a name: part of the key of whatever is computed with it."""
    folder = _folder(name, home)
    _require_unchanged(name, folder, home)
    return _content(folder, home)


def saes_for(variant, home: Path) -> list[KnownSae]:
    """SAEs trained for the checkpoint that a Variant (or its written base) starts from, shipped ones first; of a merge those trained on
    that merge, then those of the first parent's checkpoint, whose order of units it has. SAEs that do not say their model come last.
    Reads configs only; folders that cannot be read are left out."""
    last = lambda name: name.split("/")[-1].lower()
    bases = (variant,) if isinstance(variant, str) else tuple(dict.fromkeys((variant.origin, variant.root.base)))
    fits = lambda sae, base: sae.model == base or ("~" not in base and last(sae.model) == last(base))
    found = {sae.name: sae for sae in known(home)}
    return [sae for base in bases for sae in found.values() if sae.model and fits(sae, base)] + [sae for sae in found.values() if not sae.model]


def choose(name: str, variant, home: Path) -> str:
    """The SAE named, or where none is, the first at hand for the model; Refused where there is none."""
    if name:
        return name
    found = saes_for(variant, home)
    if not found:
        base = variant if isinstance(variant, str) else variant.origin
        raise Refused(f"There is no SAE for {base} here. Train one on the SAE training page, or bring a folder: python -m models.saes add FOLDER.")
    return found[0].name


def known(home: Path) -> list[KnownSae]:
    """Every SAE at hand, in order of names."""
    places = [(f"demo/saes/{p.name}", p) for p in sorted(DEMO.glob("*/")) if (p / reading.CONFIG).is_file()]
    places += [(f"saes/{p.name}", p) for p in sorted((home / "saes").glob("*"))]
    found = []
    for name, folder in places:
        try:
            found.append(KnownSae(name, *reading.place_of(folder)))
        except (Refused, OSError):
            continue
    return found


def register(path: str | Path, home: Path) -> str:
    """Put a folder of this machine on the shelf of SAEs (it stays where it is); returns its name."""
    if public():
        raise Refused("Folders of the server cannot be opened while the app serves others.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise Refused(f"Found no folder {shown(str(folder), 200)}; expected one with cfg.json and sae_weights.safetensors or sae.safetensors. Check the path.")
    sae = reading.read(folder.resolve())
    name = _name(f"{sae.model.split('/')[-1]} {sae.site.written}", _content(folder, home))
    target = home / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.unlink(missing_ok=True)  # a link whose folder has moved
        target.symlink_to(folder.resolve(), target_is_directory=True)
    return name


def keep(sae: Sae, home: Path, notes: dict | None = None) -> str:
    """Write an SAE that was trained here, as a sae-lens folder; returns its name."""
    (home / "saes").mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=home, prefix=".sae-"))
    try:
        reading.write(sae, temporary, notes=notes)
        name = _name(f"{sae.model.split('/')[-1]} {sae.site.written}", _content(temporary, None))
        if not (home / name).exists():
            temporary.chmod(0o755)
            temporary.rename(home / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return name


def _name(title: str, content: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "sae"
    return f"saes/{slug}-{content[:12]}"


def _content(folder: Path, home: Path | None) -> str:
    return hashes.of_files(folder, (reading.CONFIG, reading.weight_file(folder).name), home)


def _folder(name: str, home: Path | None) -> Path:
    demo, own = _DEMO.match(name), _OWN.match(name)
    folder = DEMO / name.removeprefix("demo/saes/") if demo else home / name if own and home else None
    if folder is None or ".." in name or not folder.is_dir():
        names = ", ".join(sae.name for sae in known(home)[:6]) if home else ""
        raise Refused(f"There is no SAE {shown(name, 80)} here{f'; at hand are {names}' if names else ''}. Train one on the SAE training page, or bring a folder: "
                      "python -m models.saes add FOLDER.")
    return folder


def _require_unchanged(name: str, folder: Path, home: Path | None) -> None:
    if name.startswith("saes/") and _content(folder, home)[:12] != name[-12:]:
        raise Refused(f"{name} stands for content {name[-12:]}, but its folder now holds {_content(folder, home)[:12]}: the files were changed. Add the folder again.")
