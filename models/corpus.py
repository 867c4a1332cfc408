"""Text as a recipe: where it comes from, which slice, how it is cut into sequences.

Written form, safe in a link, a shell and inside a variant:  SOURCE[:train|test][:<n>x<length>][:padded][:nobos][:seed<k>]

    demo/stories                      256 held-out stories sequences of 128 tokens, packed, BOS first
    demo/mixed:train:64x128:seed1     calibration text from the training split
    text/notes:32x256                 a registered file: text, JSON, JSONL, CSV, Parquet, or a folder that `datasets` saved
    hub/Salesforce/wikitext           a `datasets` id (needs the network, or its cache)
    ids/uniform:64x11                 no text: every token drawn alike from the vocabulary, special ones left out
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from models.documents import Document, content_hash, read_file
from models.refusal import Refused
from models.serving import public

MOST_SEQUENCES, MOST_AT_ONCE, LONGEST = 10_000_000, 100_000, 8_192  # at once: where they are not passed over in pieces
UNIFORM = "ids/uniform"
_SOURCE = re.compile(r"(demo|text|hub)/[A-Za-z0-9][A-Za-z0-9._/\-]*\Z")


@dataclass(frozen=True)
class Corpus:
    """A slice of text. `packing`: "packed" joins documents with EOS and cuts; "padded" is one document per sequence."""

    source: str
    split: Literal["train", "test"] = "test"
    n_sequences: int = 256
    length: int = 128  # tokens per sequence, BOS included
    packing: Literal["packed", "padded"] = "packed"
    bos: bool = True
    seed: int = 0

    @property
    def written(self) -> str:
        parts = [self.source]
        if self.split != "test":
            parts.append(self.split)
        if (self.n_sequences, self.length) != (256, 128):
            parts.append(f"{self.n_sequences}x{self.length}")
        if self.packing == "padded":
            parts.append("padded")
        if not self.bos:
            parts.append("nobos")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return ":".join(parts)

    def tokens_for(self, tokenizer, home: Path) -> Tokens:
        """Cut the text with this tokenizer; labels follow their documents into the sequences.

        Raises Refused when the text is missing, empty, binary or shorter than one sequence.
        """
        if self.n_sequences > MOST_AT_ONCE:
            raise Refused(f"{self.n_sequences:,} sequences are held in memory here; expected at most {MOST_AT_ONCE:,}. More are only passed over in pieces, as a pool that is scored.")
        if self.source == UNIFORM:
            return _uniform(self, tokenizer)
        return cut(self, read_documents(self, home), tokenizer)

    def pieces(self, tokenizer, home: Path, size: int) -> Iterator[tuple[Tokens, list[str]]]:
        """tokens_for in pieces of `size` padded sequences, each as wide as its longest, with the documents' own texts; nothing of a piece
        stays behind. Every call reads the source anew."""
        rows = islice(_rows(self, read_documents(self, home), tokenizer), self.n_sequences)
        while piece := list(islice(rows, size)):
            yield _joined(piece, tokenizer), [document.text for _, _, document in piece]

    def content_fingerprint(self, home: Path) -> str:
        """Hash of what the source holds, independent of slice and tokenizer; part of every key."""
        kind, _, name = self.source.partition("/")
        if kind == "demo":
            import demo.world
            from cache.fingerprint import code_identity

            return code_identity(demo.world)
        if kind == "text":
            return _text_entry(name, home)["sha256"]
        if self.source == UNIFORM:
            return UNIFORM
        from models.hub_text import dataset_revision

        return dataset_revision(name)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A corpus cut by one tokenizer.

    ids [sequence, position] int64; keep [sequence, position] bool, False on padding; labels are one array per name
    [sequence] (packed sequences take the label of the document that fills most of them); spans are token-level marks
    [sequence, position] bool by name, for instance `answer`.
    """

    ids: np.ndarray
    keep: np.ndarray
    labels: dict[str, np.ndarray]
    spans: dict[str, np.ndarray]

    @property
    def n_tokens(self) -> int:
        return int(self.keep.sum())


def parse(text: str) -> Corpus:
    """Read a written form; raises Refused with what was expected."""
    if not isinstance(text, str) or not text or len(text) > 300:
        raise Refused("A corpus is written like demo/stories or text/<name>:64x128; this is empty or too long.")
    source, *parts = text.strip().split(":")
    if source != UNIFORM and (not _SOURCE.match(source) or ".." in source):
        raise Refused(f"“{source[:80]}” is not a corpus; expected demo/<strand>, text/<name>, hub/<owner>/<name> or {UNIFORM}.")
    values: dict = {}
    for part in parts:
        if part in ("train", "test"):
            values["split"] = part
        elif match := re.fullmatch(r"(\d{1,6})x(\d{1,5})", part):
            values["n_sequences"], values["length"] = int(match[1]), int(match[2])
        elif part == "padded":
            values["packing"] = "padded"
        elif part == "nobos":
            values["bos"] = False
        elif match := re.fullmatch(r"seed(\d{1,9})", part):
            values["seed"] = int(match[1])
        else:
            raise Refused(f"“{part[:40]}” in corpus “{source}” is not train, test, <n>x<length>, padded, nobos or seed<k>.")
    corpus = Corpus(source, **values)
    if not 1 <= corpus.n_sequences <= MOST_SEQUENCES or not 4 <= corpus.length <= LONGEST:
        raise Refused(f"{corpus.n_sequences} sequences of {corpus.length} tokens: expected 1–{MOST_SEQUENCES:,} of 4–{LONGEST:,}.")
    return corpus


class TooLong(Refused):
    """Sequences longer than a model's context; `fits` is the written form of a corpus that is not."""

    def __init__(self, corpus: Corpus, context: int, model: str):
        self.fits = replace(corpus, length=context).written
        super().__init__(f"Sequences of {corpus.length} tokens are longer than the context of {model}, {context} tokens; ask for at most that, for instance {self.fits}.")


def require_context(corpus: Corpus, context: int | None, model: str) -> None:
    """Refused where sequences are longer than the positions a model was made for; `context` None says nothing."""
    if context and corpus.length > context:
        raise TooLong(corpus, context, model)


def read_documents(corpus: Corpus, home: Path):
    """Yield Documents until the caller has enough; demo strands never end, files do. Without a seed they come as they are read; with one
    all of them are read first, and shuffled."""
    kind, _, name = corpus.source.partition("/")
    if kind == "demo":
        yield from _demo_documents(name, corpus)
    elif kind == "text":
        entry = _text_entry(name, home)
        path = Path(entry["path"])
        if path.exists() and content_hash(path) != entry["sha256"]:
            raise Refused(f"{path.name} has changed since it was registered as text/{name}; add it again to get a new name for it.")
        yield from _shuffled(read_file(path), corpus)
    else:
        from models.hub_text import dataset_documents

        yield from _shuffled(dataset_documents(name, corpus.split, MOST_AT_ONCE if corpus.seed else MOST_SEQUENCES), corpus)


def _demo_documents(strand: str, corpus: Corpus):
    from demo import world

    if strand not in world.STRANDS:
        raise Refused(f"The demo world has no strand “{strand}”; it has {', '.join(world.STRANDS)}.")
    yield from world.stream(strand, corpus.split, corpus.seed)


def _shuffled(documents: Iterator[Document], corpus: Corpus) -> Iterable[Document]:
    if not corpus.seed:
        return documents
    documents = list(documents)
    return [documents[i] for i in np.random.default_rng(corpus.seed).permutation(len(documents))]


def _encode(tokenizer, document: Document):
    encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=bool(document.spans))
    marks: dict[str, list[bool]] = {}
    for start, end, name in document.spans:
        hit = [a < end and b > start for a, b in encoded["offset_mapping"]]
        marks[name] = [x or y for x, y in zip(marks.get(name, [False] * len(hit)), hit)]
    return encoded["input_ids"], marks


def cut(corpus: Corpus, documents, tokenizer) -> Tokens:
    """Documents, in order, as the corpus packs and cuts them."""
    return (_packed if corpus.packing == "packed" else _padded)(corpus, documents, tokenizer)


def _packed(corpus: Corpus, documents, tokenizer) -> Tokens:
    """Join documents by EOS, cut every `length` tokens (BOS in front of each sequence if the tokenizer has one)."""
    bos = [tokenizer.bos_token_id] if corpus.bos and tokenizer.bos_token_id is not None else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    room = corpus.length - len(bos)
    need = room * corpus.n_sequences
    ids: list[int] = []
    owner: list[int] = []
    marks: dict[str, list[tuple[int, int]]] = {}
    labels: list[dict] = []
    for document in documents:
        tokens, spans = _encode(tokenizer, document)
        for name, flags in spans.items():
            marks.setdefault(name, []).extend(len(ids) + i for i, flag in enumerate(flags) if flag)
        ids += tokens + end
        owner += [len(labels)] * (len(tokens) + len(end))
        labels.append(document.labels)
        if len(ids) >= need:
            break
    n = min(corpus.n_sequences, len(ids) // room)
    if n == 0:
        raise Refused(f"{corpus.source} has {len(ids):,} tokens, fewer than one sequence of {corpus.length}; add text or ask for shorter sequences.")
    shape = (n, room)
    body = np.asarray(ids[: n * room], np.int64).reshape(shape)
    owners = np.asarray(owner[: n * room]).reshape(shape)
    front = np.broadcast_to(np.asarray(bos, np.int64), (n, len(bos)))
    spans = {}
    for name, positions in marks.items():
        flat = np.zeros(len(ids), bool)
        flat[positions] = True
        spans[name] = np.concatenate([np.zeros((n, len(bos)), bool), flat[: n * room].reshape(shape)], 1)
    main = [int(np.bincount(row - row.min()).argmax() + row.min()) for row in owners]
    ids_all = np.concatenate([front, body], 1)
    return Tokens(ids_all, np.ones_like(ids_all, bool), _columns([labels[i] for i in main]), spans)


def _padded(corpus: Corpus, documents, tokenizer) -> Tokens:
    """One document per sequence, cut at `length`, padded on the right."""
    rows = list(islice(_rows(corpus, documents, tokenizer), corpus.n_sequences))
    if not rows:
        raise Refused(f"{corpus.source} holds no text; expected at least one non-empty document.")
    return _joined(rows, tokenizer)


def _rows(corpus: Corpus, documents, tokenizer) -> Iterator[tuple[list[int], dict, Document]]:
    """(ids, marks, document) of each document that has tokens, one at a time."""
    bos = [tokenizer.bos_token_id] if corpus.bos and tokenizer.bos_token_id is not None else []
    for document in documents:
        tokens, marks = _encode(tokenizer, document)
        if tokens:
            yield (bos + tokens)[: corpus.length], {name: ([False] * len(bos) + flags)[: corpus.length] for name, flags in marks.items()}, document


def _joined(rows: list[tuple[list[int], dict, Document]], tokenizer) -> Tokens:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
    shape = len(rows), max(len(ids) for ids, _, _ in rows)
    ids, keep = np.full(shape, pad, np.int64), np.zeros(shape, bool)
    marks = {name: np.zeros(shape, bool) for name in {n for _, spans, _ in rows for n in spans}}
    for i, (row, spans, _) in enumerate(rows):
        ids[i, : len(row)], keep[i, : len(row)] = row, True
        for name, flags in spans.items():
            marks[name][i, : len(flags)] = flags
    return Tokens(ids, keep, _columns([document.labels for _, _, document in rows]), marks)


def _uniform(corpus: Corpus, tokenizer) -> Tokens:
    """Independent tokens, each of the vocabulary equally likely: what a model does without text; needs none to be cut."""
    bos = [tokenizer.bos_token_id] if corpus.bos and tokenizer.bos_token_id is not None else []
    plain = np.setdiff1d(np.fromiter(tokenizer.get_vocab().values(), np.int64), np.asarray(tokenizer.all_special_ids, np.int64))
    rng = np.random.default_rng([corpus.seed, corpus.split == "train"])
    body = plain[rng.integers(len(plain), size=(corpus.n_sequences, corpus.length - len(bos)))]
    ids = np.concatenate([np.broadcast_to(np.asarray(bos, np.int64), (corpus.n_sequences, len(bos))), body], 1)
    return Tokens(ids, np.ones_like(ids, bool), {}, {})


def _columns(rows: list[dict]) -> dict[str, np.ndarray]:
    """Label dictionaries as columns; a label that a row lacks is an empty string."""
    names = sorted({name for row in rows for name in row})
    return {name: np.asarray([row.get(name, "") for row in rows]) for name in names}


def label_names(source: str, home: Path, among: int = 200) -> tuple[str, ...]:
    """Names of the labels that the first documents of a text have; of a hub's text, which would have to be fetched, none."""
    if source.startswith("hub/") or source == UNIFORM:
        return ()
    documents = islice(read_documents(Corpus(source, n_sequences=among), home), among)
    return tuple(sorted({name for document in documents for name in document.labels}))


def register_text(path: Path, home: Path) -> str:
    """Bind a local file of text, JSON, JSONL, CSV, TSV or Parquet, or a folder that `datasets` saved, to an alias; returns the corpus source
    `text/<alias>`. Read to its end once, to refuse early."""
    if public():
        raise Refused("Files of the server cannot be opened while the app serves others. Choose one of the texts that are here, or name a data set of a hub.")
    path = Path(path).expanduser().resolve()
    if not path.exists():
        raise Refused(f"There is no file {path}; check the path.")
    if sum(1 for _ in read_file(path)) == 0:
        raise Refused(f"{path.name} holds no documents; expected paragraphs of text, or rows of JSONL, CSV or Parquet.")
    digest = content_hash(path)
    stem = re.sub(r"[^a-z0-9\-]+", "-", path.stem.lower()).strip("-") or "text"
    alias = f"{stem}-{digest[:6]}"
    known = _texts(home)
    known[alias] = {"path": str(path), "sha256": digest}
    target = home / "texts.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(known, indent=1))
    temporary.replace(target)
    return f"text/{alias}"


def texts(home: Path) -> tuple[str, ...]:
    """Sources of the registered text files."""
    return tuple(f"text/{alias}" for alias in sorted(_texts(home)))


def _texts(home: Path) -> dict:
    file = home / "texts.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _text_entry(alias: str, home: Path) -> dict:
    entry = _texts(home).get(alias)
    if entry is None:
        raise Refused(f"No text is registered as text/{alias}; add the file again under Checkpoints and text.")
    return entry
