"""Documents of a file, one after the other: paragraphs of text, rows of JSON, JSONL, CSV, TSV or Parquet, or a data set's saved folder.

Rows are read as they come (a pool may be longer than memory). A row's text is its `text`; or a `prefix` with its `suffix`; or the turns
of its `messages` or `conversations`; or a question (instruction, prompt, with its input) followed by its answer (response, completion,
output). What answers, or continues a prefix, is marked; every other plain value is a label.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.refusal import Refused

ASKS = ("Body", "Question", "question", "instruction", "Instruction", "prompt", "Prompt", "input", "Input", "context")  # in the order in which one reads them
ANSWERS = ("Answer", "answer", "response", "Response", "completion", "output", "Output")
KEPT = ("Body", "Question", "question", "Answer", "answer")  # stay labels too: word problems (GSM8K, SVAMP) are read from them
TURNS = {"messages": ("role", "content"), "conversations": ("from", "value"), "conversation": ("role", "content")}
ANSWERING = ("assistant", "gpt", "model", "bot")
LIKE = '{"text": "…"}, {"prompt": "…", "response": "…"} or {"prefix": "…", "suffix": "…"}'
WIDEST = 1 << 24  # characters of a CSV field
ROWS = 1024  # of a table that are in memory at one time


@dataclass(frozen=True)
class Document:
    """One text with its labels and marked spans (start, end in characters, name)."""

    text: str
    labels: dict
    spans: tuple[tuple[int, int, str], ...] = ()


def read_file(path: Path) -> Iterator[Document]:
    """Documents of a file, or of a folder that `datasets` saved; Refused where it is missing, empty, or not what its name says."""
    kind = path.suffix.lower()
    if path.is_dir():
        yield from documents(_arrow_rows(path), path.name, "row")
    elif kind == ".parquet":
        yield from documents(_parquet_rows(path), path.name, "row")
    elif kind in (".csv", ".tsv"):
        yield from documents(_csv_rows(path, "\t" if kind == ".tsv" else ","), path.name, "row")
    elif kind in (".jsonl", ".ndjson"):
        yield from documents((_json(line, path, number) if line.strip() else None for number, line in enumerate(_lines(path), 1)), path.name, "line")
    elif kind == ".json":
        rows = _json(read_text(path), path, 1)
        yield from documents(rows if isinstance(rows, list) else [rows], path.name, "line")
    else:
        for paragraph in re.split(r"\n\s*\n", read_text(path)):
            if paragraph.strip():
                yield Document(paragraph.strip(), {})


def documents(rows, name: str, unit: str) -> Iterator[Document]:
    """Rows as documents; None and rows whose text is empty are left out. Refused, with its number, where a row holds no text."""
    for number, row in enumerate(rows, 1):
        if row is not None and (found := _document(row, f"{name}, {unit} {number},")).text.strip():
            yield found


def content_hash(path: Path) -> str:
    """sha256 of a file, or of a saved folder's files in the order of their names."""
    if path.is_dir():
        return hashlib.sha256("".join(f"{p.name} {content_hash(p)}\n" for p in sorted(path.rglob("*")) if p.is_file()).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _document(row, where: str) -> Document:
    if isinstance(row, str):
        return Document(row, {})
    if not isinstance(row, dict):
        row = {}
    plain = {k: v for k, v in row.items() if isinstance(v, (str, int, float, bool))}
    labels = lambda used: {k: v for k, v in plain.items() if k not in used or k in KEPT}
    if isinstance(row.get("text"), str):
        return Document(row["text"], labels(("text",)))
    if isinstance(row.get("prefix"), str) and isinstance(row.get("suffix"), str) and row["suffix"].strip():
        return _spans([(row["prefix"].rstrip(), ""), (row["suffix"].strip(), "suffix")], " ", labels(("prefix", "suffix")))
    for name, (who, what) in TURNS.items():
        turns = [t for t in row.get(name) or () if isinstance(t, dict) and isinstance(t.get(what), str)] if isinstance(row.get(name), list) else []
        if turns:
            return _spans([(t[what], "answer" if t.get(who) in ANSWERING else "") for t in turns], "\n", labels((name,)))
    parts = [(str(plain[k]), "") for k in ASKS if str(plain.get(k, "")).strip()]
    answer = next((k for k in ANSWERS if str(plain.get(k, "")).strip()), None)
    if parts and answer:
        return _spans([*parts, (str(plain[answer]), "answer")], "\n", labels((*ASKS, answer)))
    raise Refused(f"{where} has no “text” string; each must be like {LIKE}, other fields become labels. Found {', '.join(map(str, row))[:120] or 'no fields'}.")


def _spans(parts: list[tuple[str, str]], between: str, labels: dict) -> Document:
    """Parts joined into one text; those that have a name are marked."""
    at, spans = 0, []
    for text, name in parts:
        if name:
            spans.append((at, at + len(text), name))
        at += len(text) + len(between)
    return Document(between.join(text for text, _ in parts), labels, tuple(spans))


def _json(line: str, path: Path, number: int):
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise Refused(f"{path.name}, line {number}, is not JSON ({error.msg}); each line must be an object with a “text” field.") from None


def read_text(path: Path) -> str:
    """Whole text of a file; Refused if it is missing, empty or not text."""
    _require_text(path, "text or JSON")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, f"byte {error.start:,}") from None


def _lines(path: Path) -> Iterator[str]:
    _require_text(path, "JSONL")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise _not_utf8(path, f"line {number:,}") from None


def _csv_rows(path: Path, delimiter: str) -> Iterator[dict]:
    _require_text(path, "CSV with a header")
    csv.field_size_limit(WIDEST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, delimiter=delimiter, strict=True):
                yield {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)}
    except UnicodeDecodeError as error:
        raise _not_utf8(path, f"near byte {error.start:,} of what was being read") from None
    except csv.Error as error:
        raise Refused(f"{path.name} cannot be read as CSV ({error}); expected a header and rows of that many fields, quotes closed.") from None


def _parquet_rows(path: Path) -> Iterator[dict]:
    import pyarrow as pa
    import pyarrow.parquet

    _require_file(path, "Parquet")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        for batch in file.iter_batches(batch_size=ROWS):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{path.name} cannot be read as Parquet ({type(error).__name__}); expected a whole file that a Parquet reader opens.") from None


def _arrow_rows(folder: Path) -> Iterator[dict]:
    """Rows of a folder written by `Dataset.save_to_disk`, in the order of its files."""
    import pyarrow as pa

    try:
        names = [file["filename"] for file in json.loads((folder / "state.json").read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        kinds = sorted(p.parent.name for p in folder.glob("*/state.json"))
        more = f" It holds the splits {', '.join(kinds)}: give one of these folders." if kinds else ""
        raise Refused(f"{folder.name} is a folder without state.json; expected a text file, a table, or a folder that `datasets` saved (save_to_disk).{more}") from None
    for name in names:
        if Path(name).name != name:
            raise Refused(f"{folder.name} names a data file outside the folder; expected names alone.")
        try:
            with pa.memory_map(str(folder / name)) as file:
                for batch in pa.ipc.open_stream(file):
                    for lo in range(0, len(batch), ROWS):
                        yield from batch.slice(lo, ROWS).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise Refused(f"{folder.name}/{name} cannot be read ({type(error).__name__}); save the data set again.") from None


def _require_file(path: Path, expected: str) -> None:
    if not path.is_file():
        raise Refused(f"The file {path.name} is no longer where it was registered; add it again.")
    if path.stat().st_size == 0:
        raise Refused(f"{path.name} is empty; expected {expected}.")


def _require_text(path: Path, expected: str) -> None:
    _require_file(path, expected)
    with path.open("rb") as file:
        head = file.read(65536)
    if not head.strip() and path.stat().st_size <= len(head):
        raise Refused(f"{path.name} is empty; expected {expected}.")
    if b"\0" in head:
        raise Refused(f"{path.name} is a binary file; expected UTF-8 {expected}.")


def _not_utf8(path: Path, where: str) -> Refused:
    return Refused(f"{path.name} is not UTF-8 text ({where}); save it as UTF-8 and add it again.")
