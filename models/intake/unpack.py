"""Take the few files we read out of a zip or tar, streaming, with caps; everything else is left in the archive.

Members are judged by their own words before a byte is written and by what comes out while it is: only plain files, only
names that we would have chosen ourselves, at most MAX_FILES of them, at most `limit` bytes in all, no ratio that text
does not reach. They land flat in one folder; of several models in one archive the caller is told.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from models.refusal import Refused

MAX_FILES = 2_000
MAX_RATIO = 200  # bytes out per byte in, for members beyond RATIO_FROM; weights reach 2, vocabularies 10
RATIO_FROM = 1 << 20
CHUNK = 1 << 20
WANTED = (".safetensors", ".json", ".txt", ".model", ".gguf", ".bin", ".pt", ".pth")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,150}\Z")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst")


def is_archive(name: str) -> bool:
    return name.lower().endswith((".zip", *TAR_ENDINGS))


def unpack(archive: Path, folder: Path, limit: int) -> tuple[str, ...]:
    """Extract into `folder` (flat); returns a line for each member that was left. Refused on anything that is no honest archive."""
    kind = magic(archive)
    try:
        if kind == "zip":
            return _all(_zip(archive), folder, limit, archive.name)
        with _stream(archive, kind) as stream:
            return _all(_tar(stream, archive.name), folder, limit, archive.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, NotImplementedError, UnicodeError) as error:
        raise Refused(f"{archive.name} is damaged or not a {kind} archive ({type(error).__name__}). Pack and upload it again.") from error


def magic(path: Path) -> str:
    """What the first bytes say: zip, gzip, zstd, tar, gguf, pickle, safetensors, json or unknown."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\x03\x04") or start.startswith(b"PK\x05\x06"):
        return "zip"
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    if start[257:262] == b"ustar":
        return "tar"
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"\x80") and len(start) > 1 and start[1] <= 5:
        return "pickle"
    if start[8:9] == b"{":
        return "safetensors"
    return "json" if start.lstrip()[:1] in (b"{", b"[") else "unknown"


@contextlib.contextmanager
def _stream(archive: Path, kind: str):
    with archive.open("rb") as file:
        if kind == "gzip":
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        elif kind == "zstd":
            import zstandard

            try:
                with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file) as stream:
                    yield stream
            except zstandard.ZstdError as error:
                raise Refused(f"{archive.name} is damaged or needs a window above 128 MB (zstd). Pack it again without --long.") from error
        elif kind == "tar":
            yield file
        else:
            raise Refused(f"{archive.name} is no zip, tar, tar.gz or tar.zst: its content is {kind}. Give it its right ending, or pack it again.")


Member = tuple[str, int, int, object]  # name, size, stored size (0 unknown), an open reader


def _zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        if len(infos) > MAX_FILES:
            raise Refused(f"{archive.name} holds {len(infos):,} files; at most {MAX_FILES:,} are read. Pack only the checkpoint.")
        if any(info.filename.endswith("/data.pkl") or info.filename == "data.pkl" for info in infos):
            raise Refused(f"{archive.name} is a PyTorch pickle in a zip's clothes. Rename it to .pt, or convert it (python -m models.convert {_safe(archive.name)} out/).")
        for info in infos:
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise Refused(f"{archive.name} is encrypted. Pack it again without a password.")
            kind = stat.S_IFMT(info.external_attr >> 16)
            _plain(info.filename, kind in (0, stat.S_IFREG), archive.name)
            with opened.open(info) as reader:
                yield info.filename, info.file_size, info.compress_size, reader


def _tar(stream, name: str) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as opened:
        for number, info in enumerate(opened):
            if number >= MAX_FILES:
                raise Refused(f"{name} holds more than {MAX_FILES:,} files. Pack only the checkpoint.")
            opened.members.clear()
            if info.isdir():
                continue
            _plain(info.name, info.isreg() and not info.issparse(), name)
            yield info.name, info.size, 0, opened.extractfile(info)


def _plain(member: str, regular: bool, archive: str) -> None:
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", member) or "\0" in member:
        raise Refused(f"{archive} wants to write outside its folder ({_safe(member)}). No honest archive does: nothing was unpacked from there on.")
    if not regular:
        raise Refused(f"{archive} holds a link, device or other special file ({_safe(member)}). Pack the files themselves.")


def _all(members: Iterator[Member], folder: Path, limit: int, archive: str) -> tuple[str, ...]:
    left, written, seen, places = [], 0, set(), set()
    for member, size, stored, reader in members:
        path = PurePosixPath(member.replace("\\", "/"))
        if path.name.startswith(".") or "__MACOSX" in path.parts:
            continue
        if not path.name.lower().endswith(WANTED) or not _NAME.match(path.name):
            left.append(f"{_safe(path.name)}: not a file of a checkpoint, left in the archive")
            continue
        if path.name in seen:
            raise Refused(f"{archive} holds {path.name} twice: it packs more than one model. Pack one folder.")
        seen.add(path.name)
        places.add(path.parent)
        if written + size > limit:
            raise Refused(f"{archive} unpacks to more than {limit / 1e9:.1f} GB. Open a large checkpoint by its folder or a hub's name.")
        if stored and size > RATIO_FROM and size > MAX_RATIO * stored:
            raise Refused(f"In {archive}, {path.name} unpacks to {size / stored:,.0f} times its size; no weights do. It is a zip bomb or damaged.")
        written += _copy(reader, folder / path.name, min(size, limit - written), archive)
    if not seen:
        raise Refused(f"{archive} holds no file of a checkpoint; expected config.json and model.safetensors. Pack the model's folder.", details=tuple(left[:100]))
    return tuple(left[:100])


def _copy(reader, target: Path, expected: int, archive: str) -> int:
    """Write at most `expected` bytes into a new file; more or fewer than announced is a lie."""
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    n = 0
    with os.fdopen(handle, "wb") as file:
        while chunk := reader.read(CHUNK):
            n += len(chunk)
            if n > expected:
                raise Refused(f"In {archive}, {target.name} is larger than the archive says. It is a zip bomb or damaged: pack it again.")
            file.write(chunk)
    if n != expected:
        raise Refused(f"In {archive}, {target.name} is cut short: {n:,} of {expected:,} bytes. Upload the archive again.")
    return n


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._/\\\-]", "?", name)[:80]
