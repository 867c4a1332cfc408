"""What the store holds, by kind:  python -m cache [--home DIR] [--keep 20GB]

`--keep` removes the entries read longest ago until at most that much remains; pinned ones stay.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

from cache.store import Store

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cache", description="List what the store holds, by kind; or shrink it.")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("MICROTOME_HOME") or Path(__file__).resolve().parents[1] / ".microtome"))
    parser.add_argument("--keep", type=_bytes, help="remove what was read longest ago until this much remains, for instance 20GB")
    given = parser.parse_args(arguments)
    if not (given.home / "store").is_dir():
        print(f"There is no store in {given.home}; nothing has been computed there yet.")
        return 1
    store = Store(given.home / "store")
    if given.keep is not None:
        removed = store.evict(given.keep, spare_seconds=0)
        print(f"removed {len(removed)} entries")
    _list(store)
    return 0


def _list(store: Store) -> None:
    kinds: dict[str, list[int]] = defaultdict(list)
    for key, size in store.sizes().items():
        kinds[_kind(store, key)].append(size)
    for kind, sizes in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        print(f"{kind:<36} {len(sizes):>6} entries {_readable(sum(sizes)):>10}")
    total = [size for sizes in kinds.values() for size in sizes]
    print(f"{'all':<36} {len(total):>6} entries {_readable(sum(total)):>10}   {len(store.pinned())} pinned")


def _kind(store: Store, key: str) -> str:
    record = store.describe(key)
    if record is None:
        return "damaged"
    name = next((record[field] for field in ("analysis", "operator", "name") if record.get(field)), "")
    return f"{record.get('kind', 'unnamed')} {name}".strip()


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"“{text}” is no size; expected for instance 20GB or 500MB")
    unit = match[2] if match[2].endswith("B") or not match[2] else match[2] + "B"
    return int(float(match[1]) * UNITS[unit])


def _readable(size: int) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


if __name__ == "__main__":
    sys.exit(main())
