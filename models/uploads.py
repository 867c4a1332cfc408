"""Uploads on their way to the shelf: received in pieces on disk, hashed, limited, resumable, owned.

    ticket(home, owner)                       what a page hands its browser; proves the owner, ends after a day
    begin(home, owner, {"model.safetensors": 1_000_000})   reserves room, returns an Upload with a random id
    receive(home, owner, id, name, offset)    a Receiver: write(bytes) …, close()
    finish(home, owner, id, answers)          the intake; a shelf entry under a random alias, or questions, or Refused

An upload lives in home/uploads/<id>/ and is seen by its owner only; unfinished ones go after a day, finished ones when
they expire.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from models import hashes, intake, shelf
from models.intake import isolate
from models.refusal import Refused, amount, shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,150}\Z")
_ID = re.compile(r"[0-9a-f]{32}\Z")
MAX_FILES = 200
JOINED_LIMIT = 64 << 20  # bytes of a tokenizer's file that joins later
DAY = 86_400
KEEP_FREE = 2 << 30  # bytes of the disk that uploads never take
NOTES = 30  # lines on how it came that stay with an upload
AT_ONCE = 2  # uploads being opened, each in a process of its own with gigabytes of memory
PATIENCE = 60  # seconds that the next one waits
_OPENING = threading.BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True)
class Allowance:
    """Bytes per upload and per owner, unfinished uploads at a time, seconds an upload stays (None: until deleted)."""

    upload: int
    quota: int
    open_uploads: int
    stays: int | None


OWN = Allowance(20 << 30, 60 << 30, 8, None)
OTHERS = Allowance(2 << 30, 4 << 30, 2, 7 * DAY)


@dataclass(frozen=True)
class Upload:
    """`files` maps each name to its announced size; `received` to what has arrived."""

    id: str
    owner: str
    files: dict[str, int]
    received: dict[str, int]
    created: float

    @property
    def whole(self) -> bool:
        return self.files == self.received


class Busy(Refused):
    """Too much is being opened at once; the upload is kept."""


def allowance() -> Allowance:
    """What one owner may take here; MICROTOME_UPLOAD_GB and MICROTOME_QUOTA_GB change it."""
    chosen = OTHERS if shelf.public() else OWN
    gigabytes = lambda name, default: int(float(os.environ[name]) * 1e9) if name in os.environ else default
    return replace(chosen, upload=gigabytes("MICROTOME_UPLOAD_GB", chosen.upload), quota=gigabytes("MICROTOME_QUOTA_GB", chosen.quota))


def ticket(home: Path, owner: str, seconds: int = DAY) -> str:
    """A signed statement of who uploads, for the page to hand to its own script; worthless after `seconds`."""
    text = json.dumps([owner, int(time.time()) + seconds, secrets.token_hex(8)], separators=(",", ":")).encode().hex()
    return f"{text}.{_sign(home, text)}"


def owner_of(home: Path, written: str) -> str:
    """The owner that a ticket names; Refused when it is not ours or too old."""
    text, _, signature = written.partition(".")
    if len(written) > 4_000 or not hmac.compare_digest(_sign(home, text).encode(), signature.encode("utf-8", "replace")):
        raise Refused("This upload does not come from a page of this app. Reload the checkpoints page and try again.")
    owner, until, _ = json.loads(bytes.fromhex(text))
    if until < time.time():
        raise Refused("The page has been open for more than a day. Reload it and try again; what was uploaded is kept.")
    return owner


def _sign(home: Path, text: str) -> str:
    path = home / "upload-secret"
    if not path.is_file():
        home.mkdir(parents=True, exist_ok=True)
        temporary = home / f".{path.name}.{secrets.token_hex(6)}"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(temporary, path)  # the first one stands
        except FileExistsError:
            pass
        temporary.unlink()
    return hmac.new(path.read_bytes(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def begin(home: Path, owner: str, files: dict[str, int]) -> Upload:
    """Reserve room for `files` (name → bytes); Refused for names, sizes or sums beyond the allowance."""
    allowed = allowance()
    if not isinstance(files, dict) or not 0 < len(files) <= MAX_FILES:
        raise Refused(f"Expected 1 to {MAX_FILES} files in one upload. Pack many files as one .zip or .tar.")
    for name, size in files.items():
        if not isinstance(name, str) or not NAME.match(name) or ".." in name:
            raise Refused(f"The file name {shown(name, 80)} has signs that are not kept (letters, digits, dot, dash and underscore are). Rename it.")
        if type(size) is not int or size <= 0:
            raise Refused(f"{name} is empty. Choose another file.")
    total = sum(files.values())
    if total > allowed.upload:
        raise Refused(f"The upload has {amount(total)}; at most {amount(allowed.upload)} come through the browser. Open a large checkpoint by its folder or a hub's name.")
    mine = [upload for upload in _all(home) if upload.owner == owner]
    if len(mine) >= allowed.open_uploads:
        raise Refused(f"{len(mine)} of your uploads are unfinished; at most {allowed.open_uploads} may be. Finish or discard one first.")
    taken = used(home, owner)
    if taken + total > allowed.quota:
        raise Refused(f"Your uploads take {amount(taken)} of {amount(allowed.quota)}; {amount(total)} more do not fit. Delete one from the shelf.")
    home.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(home).free - total < KEEP_FREE:
        raise Refused(f"The disk has {amount(shutil.disk_usage(home).free)} left, {amount(KEEP_FREE)} stay in reserve; {amount(total)} do not fit. Free some space.")
    upload = Upload(secrets.token_hex(16), owner, dict(files), dict.fromkeys(files, 0), time.time())
    folder = _folder(home, upload.id)
    (folder / "incoming").mkdir(parents=True, mode=0o700)
    hashes.write_json(folder / "upload.json", {"owner": owner, "files": upload.files, "created": upload.created})
    return upload


def status(home: Path, owner: str, id: str) -> Upload:
    """The upload as it stands on disk; one sentence for "not there" and "not yours"."""
    folder = _folder(home, id)
    upload = _read(folder) if (folder / "upload.json").is_file() else None
    if upload is None or upload.owner != owner:
        raise Refused("This upload is not there: finished, discarded, older than a day, or somebody else's. Start it again.")
    return upload


class Receiver:
    """Appends to one file of an upload, never beyond its announced size; hashes while it writes. Use as a context manager."""

    def __init__(self, home: Path, owner: str, id: str, name: str, offset: int):
        upload = status(home, owner, id)
        if name not in upload.files:
            raise Refused(f"{shown(name, 80)} was not announced for this upload. Start it again with all files.")
        self.size, self.path = upload.files[name], _folder(home, id) / "incoming" / name
        self.file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            raise Refused(f"{name} is being received from another tab. Wait for it, or discard the upload.") from error
        self.received = os.fstat(self.file.fileno()).st_size
        if offset != self.received:
            self.file.close()
            raise Refused(f"{name} continues at byte {self.received:,}, not {offset:,}. Ask where it stands and go on from there.")
        self.digest = hashlib.sha256()
        while chunk := self.file.read(1 << 20):
            self.digest.update(chunk)

    def write(self, data: bytes) -> int:
        """Bytes received in all; Refused when more comes than was announced."""
        if self.received + len(data) > self.size:
            raise Refused(f"{self.path.name} was announced with {self.size:,} bytes and sends more. Start the upload again.")
        self.file.write(data)
        self.digest.update(data)
        self.received += len(data)
        return self.received

    @property
    def sha256(self) -> str | None:
        """Of the whole file, once it has all arrived."""
        return self.digest.hexdigest() if self.received == self.size else None

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_) -> None:
        self.file.flush()
        if self.received == self.size:
            os.fsync(self.file.fileno())
        self.file.close()


def receive(home: Path, owner: str, id: str, name: str, offset: int = 0) -> Receiver:
    """Go on with `name` at byte `offset`, which must be where it stands."""
    return Receiver(home, owner, id, name, offset)


def finish(
    home: Path, owner: str, id: str, answers: dict | None = None, base: Path | None = None, known_tokenizer: Path | None = None, title: str = "",
    limits: isolate.Limits = isolate.Limits(),
) -> tuple[shelf.ShelfEntry | None, intake.Outcome]:
    """(entry, outcome) once all has arrived; entry None while questions are open. A refused upload is removed."""
    outcome = look_into(home, owner, id, answers, base, known_tokenizer, limits)
    return None if outcome.questions else settle(home, owner, id, outcome, title), outcome


def look_into(
    home: Path, owner: str, id: str, answers: dict | None = None, base: Path | None = None, known_tokenizer: Path | None = None,
    limits: isolate.Limits = isolate.Limits(),
) -> intake.Outcome:
    """Open the files in the fenced process; the upload stays, so that questions may be answered differently."""
    upload, folder = status(home, owner, id), _folder(home, id)
    if not upload.whole:
        missing = [name for name, size in upload.files.items() if upload.received[name] != size]
        raise Refused(f"{missing[0]} has {upload.received[missing[0]]:,} of {upload.files[missing[0]]:,} bytes ({len(missing)} files are not whole). Let the upload finish.")
    room = max(allowance().quota - used(home, owner), 0)
    with _turn(folder):
        try:
            return intake.take(folder / "incoming", folder, answers, shelf.public(), base, known_tokenizer, limits, min(intake.UNPACKED_LIMIT, room + sum(upload.files.values())))
        except Refused:
            if "adapter_config.json" not in upload.files:  # an adapter waits for its base to be chosen
                discard(home, owner, id)
            raise


@contextlib.contextmanager
def _turn(folder: Path):
    """One opening of an upload at a time, and AT_ONCE of all; Busy when others take longer than PATIENCE."""
    with (folder / "opening.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy("This upload is being opened already, in another tab. Wait for it.") from error
        if not _OPENING.acquire(timeout=PATIENCE):
            raise Busy(f"{AT_ONCE} other uploads are being opened. Open it again in a minute; what you uploaded is kept.")
        try:
            yield
        finally:
            _OPENING.release()


def settle(home: Path, owner: str, id: str, outcome: intake.Outcome, title: str = "") -> shelf.ShelfEntry:
    """Put what `look_into` prepared on the shelf; what is not needed any more is removed."""
    upload, folder = status(home, owner, id), _folder(home, id)
    for leftover in ("incoming", "unpacked"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    for leftover in ("upload.json", "opening.lock"):
        (folder / leftover).unlink(missing_ok=True)
    now, stays = time.time(), allowance().stays
    called = re.sub(r"[^\w .\-]", "", title)[:80] or next(iter(upload.files))
    entry = shelf.ShelfEntry(
        f"shelf/u-{secrets.token_hex(12)}", str(folder / "model"), "upload", called, shelf.content(folder / "model", home) if outcome.fields else None,
        owner, False, now, now + stays if stays else None, _bytes(folder), outcome.runnable, outcome.why, outcome.notes[:NOTES],
    )
    shelf.add(entry, home)
    return entry


def unfinished(home: Path, owner: str) -> list[Upload]:
    """An owner's uploads that are on their way or wait for answers, the newest first."""
    return sorted((upload for upload in _all(home) if upload.owner == owner), key=lambda upload: -upload.created)


def join(home: Path, owner: str, id: str, name: str, data: bytes) -> None:
    """Add a tokenizer's file to an upload that came without one."""
    upload, folder = status(home, owner, id), _folder(home, id)
    if name not in shelf.TOKENIZER_FILES:
        raise Refused(f"{shown(name, 80)} is not a file of a tokenizer. Choose tokenizer.json.")
    if not data or len(data) > JOINED_LIMIT:
        raise Refused(f"{name} has {len(data):,} bytes; expected 1 to {JOINED_LIMIT:,}. Choose the one saved with the weights.")
    temporary = folder / f"joined-{secrets.token_hex(6)}"
    temporary.write_bytes(data)
    temporary.replace(folder / "incoming" / name)
    hashes.write_json(folder / "upload.json", {"owner": upload.owner, "files": {**upload.files, name: len(data)}, "created": upload.created})


def discard(home: Path, owner: str, id: str) -> None:
    """Remove an unfinished upload."""
    status(home, owner, id)
    shutil.rmtree(_folder(home, id), ignore_errors=True)


def used(home: Path, owner: str) -> int:
    """Bytes that an owner's unfinished uploads have reserved and finished ones take."""
    return sum(sum(u.files.values()) for u in _all(home) if u.owner == owner) + sum(e.n_bytes for e in shelf.owned(home, owner) if e.kind == "upload")


def sweep(home: Path) -> int:
    """Remove uploads unfinished for a day and shelf entries that expired; returns how many."""
    old = [upload for upload in _all(home) if upload.created < time.time() - DAY]
    for upload in old:
        shutil.rmtree(_folder(home, upload.id), ignore_errors=True)
    return len(old) + len(shelf.sweep(home))


def _folder(home: Path, id: str) -> Path:
    if not isinstance(id, str) or not _ID.match(id):
        raise Refused("This upload is not there: finished, discarded, older than a day, or somebody else's. Start it again.")
    return home / "uploads" / id


def _read(folder: Path) -> Upload | None:
    try:
        record = json.loads((folder / "upload.json").read_text())
    except (OSError, ValueError):
        return None  # finished or discarded in the meantime
    sizes = {name: (folder / "incoming" / name).stat().st_size if (folder / "incoming" / name).is_file() else 0 for name in record["files"]}
    return Upload(folder.name, record["owner"], record["files"], sizes, record["created"])


def _all(home: Path) -> list[Upload]:
    return [upload for folder in sorted((home / "uploads").glob("*")) if _ID.match(folder.name) and (upload := _read(folder))]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
