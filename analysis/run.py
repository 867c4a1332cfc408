"""The only door from a page, a job or a shell to an analysis: what is asked, its key, computing it, reading it back.

A Request is plain values; its key is a hash of everything that can change the numbers (code of the analysis and of what
it imports, content of checkpoint and corpus, recipe, parameters), so a hit can be trusted and a changed plot colour is a hit.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import analysis
import kernels
import operators
from analysis.contract import Run, Shape
from cache.codec import decode, encode
from cache.fingerprint import code_identity, fingerprint
from cache.store import Entry, Store
from models import checkpoints, hub
from models.corpus import Corpus, parse as parse_corpus, require_context
from models.home import REPO, home
from models.lab import ENGINE, SCHEMA, Lab
from models.outline import Outline, outline_of
from models.params import key_params, read_params
from models.progress import Quiet
from models.rates import FIRST_GUESS, rates, remember
from models.refusal import Refused
from models.variant import Variant

@dataclass(frozen=True)
class Request:
    """One computation: an analysis of one variant (of several, when it is paired; of none, when it makes its own networks)
    on one corpus, or on inputs of its own."""

    analysis: str
    variants: tuple[Variant, ...]
    corpus: Corpus | None
    params: object  # the analysis's Params
    device: str = "cpu"

    def to_json(self) -> dict:
        return {
            "kind": "analysis",
            "analysis": self.analysis,
            "variants": [v.to_json() for v in self.variants],
            "corpus": self.corpus and self.corpus.written,
            "params": {k: list(v) if isinstance(v, tuple) else v for k, v in key_params(self.params).items()},
            "device": self.device,
        }


def from_json(spec: dict) -> Request:
    """A request as `Request.to_json` wrote it, checked again."""
    module = analysis.load(spec["analysis"])
    variants = tuple(operators.canonical(Variant.from_json(v)) for v in spec["variants"])
    return Request(spec["analysis"], variants, corpus_of(module, spec["corpus"]), read_params(module.Params, spec["params"]), spec.get("device", "cpu"))


def request(name: str, variants: tuple[str, ...], corpus: str | None, params: dict, device: str = "cpu") -> Request:
    """Read untrusted text (a link, a command line) into a checked Request; Refused in words."""
    module = analysis.load(name)
    return Request(name, tuple(variant(v) for v in variants), corpus_of(module, corpus), read_params(module.Params, params), device)


def corpus_of(module, text: str | None) -> Corpus | None:
    """The corpus asked for, else the analysis's default; None for an analysis that brings its own inputs."""
    return None if module.CORPUS is None else parse_corpus(text or module.CORPUS)


def _require_context(v: Variant, text: Corpus) -> None:
    for parent in v.parents:
        _require_context(parent, text)
    if not v.parents:
        config = checkpoints.resolve(v.base, home(), v.revision).config
        require_context(text, config.get("max_position_embeddings") or config.get("n_positions") or config.get("n_ctx"), v.base)


def requests(name: str, a: str, b: str | None, corpus: str | None, params: dict, device: str = "cpu", more: tuple[str, ...] = ()) -> tuple[Request, ...]:
    """What a page with subject A (and B, and more) needs: one request each for a unary analysis, one for all of them for a
    paired one, one without any for an analysis of no model. What a paired analysis cannot take of `more` is left out."""
    module = analysis.load(name)
    low, high = module.MODELS
    subjects = tuple(filter(None, (a, b, *more)))
    if high == 0:
        return (request(name, (), corpus, params, device),)
    if low > len(subjects):
        raise Refused(f"{module.TITLE} compares {low} models; choose {'a second one' if low == 2 else f'{low - len(subjects)} more'} to compare with.")
    if low >= 2:
        return (request(name, subjects[:high], corpus, params, device),)
    return tuple(request(name, (s,), corpus, params, device) for s in subjects[:2])


def variant(text: str) -> Variant:
    """A written form, or `v/<12 hex>` looked up among the recipes kept in the home folder."""
    if text.startswith("v/"):
        head, _, rest = text.partition("~")
        file = home() / "recipes" / f"{head[2:14]}.json"
        if not head[2:].isalnum() or not file.is_file():
            raise Refused(f"The recipe {head[:20]} is not known here; open the bundle that it came with, or write the recipe out.")
        found = operators.canonical(Variant.from_json(json.loads(file.read_text())))
        return replace(found, steps=found.steps + operators.parse("demo/x~" + rest).steps) if rest else found
    return operators.parse(text)


def require_possible(v: Variant) -> None:
    """Refused, in the operator's words, where a step cannot be done to this checkpoint; from config and headers alone."""
    for parent in v.parents:
        require_possible(parent)
    if v.parents:
        first, *others = [foreseen(parent) for parent in v.parents]
        for parent, other in zip(v.parents[1:], others):
            if other.sizes != first.sizes:
                name = next((n for n in {**first.sizes, **other.sizes} if first.sizes.get(n) != other.sizes.get(n)))
                raise Refused(f"{v.parents[0].written} and {parent.written} cannot be merged: {name} is {first.sizes.get(name, 'absent')} in one and {other.sizes.get(name, 'absent')} in the "
                              "other; expected models of one shape.")
    if v.steps:
        foreseen(v)


def foreseen(v: Variant) -> Outline:
    """What a recipe will leave of its checkpoint, and how small; of a merge, of its first parent."""
    if v.parents:
        return operators.foreseen(v, foreseen(v.parents[0]))
    found = checkpoints.resolve(v.base, home(), v.revision)
    return operators.foreseen(v, _outline(found.path, found.fingerprint, {"float32": 32}.get(v.dtype, 16)))


@lru_cache(maxsize=64)
def _outline(folder: Path, fingerprint: str, dtype_bits: int) -> Outline:
    from models import configs, weights

    return outline_of(configs.read(folder).fields, weights.read(folder).tensors, dtype_bits)


def keep_recipe(v: Variant) -> str:
    """Store a recipe that is too long to be written out, so that `v/<12 hex>` can be read back; returns the written form."""
    if v.written.startswith("v/"):
        folder = home() / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{v.digest[:12]}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(v.to_json()))
        temporary.replace(folder / f"{v.digest[:12]}.json")
    return v.written


@lru_cache(maxsize=4)
def lab(folder: Path, device: str = "cpu") -> Lab:
    return Lab(folder, operators.ALL, device)


def store() -> Store:
    return lab(home()).store


def key(request: Request) -> str:
    """Key of the stored result. Needs the checkpoint's files (hashed once), not the model in memory; Refused where they or
    the text cannot be read, or the sequences are longer than the context."""
    read = (*request.variants, *also(request))
    for v in read:
        require_possible(v)
        if request.corpus:
            _require_context(v, request.corpus)
    bench = lab(home())
    module = analysis.load(request.analysis)
    return fingerprint(
        "analysis", SCHEMA, ENGINE, kernels.VERSION, request.analysis, code_identity(module), [bench.identity(v) for v in read],
        request.corpus and bench.corpus_identity(request.corpus), key_params(request.params), *files_read(request),
    )


def files_read(request: Request) -> list:
    """Content of further files that the parameters name; nothing for an analysis that reads none."""
    module = analysis.load(request.analysis)
    return [module.reads(request.variants, request.params)] if hasattr(module, "reads") else []


def also(request: Request) -> tuple[Variant, ...]:
    """Variants that the computation reads besides its subject (of several, besides the last, or what follows from all of them)."""
    module = analysis.load(request.analysis)
    found = module.also(request.variants[-1], request.params) if hasattr(module, "also") else ()
    found = module.also_of(request.variants, request.params) if hasattr(module, "also_of") else found
    return tuple(operators.canonical(v) for v in found)


def bring(variants: tuple[Variant, ...], again: bool = False) -> None:
    """Fetch from the hub what the recipes start from and is not here; `again`: ask also whether a branch has moved. Downloads,
    so only a worker or a shell does it."""
    for v in variants:
        if v.parents:
            bring(v.parents, again)
        elif not v.base.startswith(("demo/", "shelf/")) and (again or not _here(v)):
            hub.fetch(v.base, v.revision, home())


def _here(v: Variant) -> bool:
    try:
        hub.find(v.base, v.revision, home())
    except hub.NotHere:
        return False
    return True


_alone = threading.Lock()  # hooks live on the shared model: two threads on one would read each other's activations


def execute(spec: dict, progress=None) -> str:
    """Compute one request (plain JSON, as `Request.to_json`) unless it is stored; returns its key. Called by workers and the
    shell, one computation at a time in a process."""
    module, ask = analysis.load(spec["analysis"]), from_json(spec)
    bench = lab(home(), ask.device)
    bring((*ask.variants, *also(ask)))
    entry_key = key(ask)
    progress = progress or Quiet()
    with bench.store.lock(entry_key, waiting=lambda: progress.step(0, 0, "another run computes this")):
        if spec.get("again") or bench.store.get(entry_key) is None:
            with _alone:
                _compute(module, ask, bench, entry_key, progress)
    return entry_key


def _compute(module, ask: Request, bench: Lab, entry_key: str, progress) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    captures = tuple(bench.capture(v, ask.corpus) for v in (*ask.variants, *also(ask)))
    loading = time.perf_counter()
    for v in ask.variants:
        bench.model(v, progress)
    loading = time.perf_counter() - loading
    result = module.compute(captures, ask.params, progress.part(entry_key))
    arrays, tables, plain = encode(result)
    seconds = time.perf_counter() - began
    n_tokens, n_sequences = _read(captures, ask, result)
    flops = _flops(module, ask, n_tokens if ask.corpus else 0)
    record = {
        **ask.to_json(), "written": [v.written for v in ask.variants], "key": entry_key, "code": code_identity(module),
        "identity": [bench.identity(v) for v in ask.variants], "corpus_identity": ask.corpus and bench.corpus_identity(ask.corpus),
        "n_tokens": n_tokens, "n_sequences": n_sequences, "n_inputs": int(getattr(result, "n_inputs", 0)), "computed": time.time(), "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu, "load_seconds": loading, "flops": flops, "commit": git_commit(), "versions": versions(),
        "plain": plain,
    }
    bench.store.put(entry_key, arrays=arrays, tables=tables, record=record, replace=True)
    remember(home(), ask.analysis, _flops(module, ask, _asked(ask)) / max(seconds - loading, 1e-3))


def _read(captures: tuple, ask: Request, result) -> tuple[int, int]:
    """(tokens, sequences) that went in: of the corpus, or what the result says where the analysis brings its own inputs."""
    if ask.corpus is None:
        return int(getattr(result, "n_tokens", 0)), int(getattr(result, "n_sequences", 0))
    return captures[0].tokens.n_tokens, len(captures[0].tokens.ids)


def _asked(ask: Request) -> int:
    """Tokens that the corpus has room for: what is known before it is read, padding included, so rates are kept by it too."""
    return ask.corpus.n_sequences * ask.corpus.length if ask.corpus else 0


def _flops(module, ask: Request, n_tokens: int) -> float:
    return sum(module.cost(s, n_tokens, ask.params) for s in ([shape(v) for v in ask.variants] or [None]))


def export(v: Variant, folder: Path, device: str = "cpu", progress=None) -> str:
    """Write a variant as a Hugging Face folder, really smaller where plain transformers can load that; returns what was written and
    checked, in words. Refused where the folder would not give the same logits."""
    from models.folder import export as write

    bench = lab(home(), device)
    with _alone:
        model = bench.model(v, progress)
        return write(model, v, bench.identity(v), folder, git_commit(), bench.physical(v, progress))


def load(request: Request, label: str = "A") -> Run | None:
    """The stored result of a request, or None."""
    entry = store().get(key(request))
    return None if entry is None else read(entry, request, label)


def read(entry: Entry, request: Request, label: str) -> Run:
    module = analysis.load(request.analysis)
    return Run(label, " → ".join(v.written for v in request.variants), decode(module.Result, entry), request.params, entry.record)


def shape(v: Variant) -> Shape:
    """Sizes from the config and the file headers, nothing loaded."""
    found = checkpoints.resolve(v.root.base, home(), v.root.revision)
    c = found.config
    get = lambda *names: next((c[n] for n in names if c.get(n)), 0)
    width = get("hidden_size", "n_embd")
    return Shape(get("num_hidden_layers", "n_layer"), width, get("intermediate_size", "n_inner") or 4 * width,
                 get("num_attention_heads", "n_head"), get("vocab_size"), found.n_parameters)


@dataclass(frozen=True)
class Estimate:
    seconds: float
    bytes: float
    measured: bool  # False while the rate is a guess: nothing has run on this machine yet


def estimate(request: Request) -> Estimate:
    """Time and memory before a run, from FLOPs and the rate this machine reached last time on the same analysis, and the time that
    making the variants will take."""
    module = analysis.load(request.analysis)
    length = request.corpus.length if request.corpus else 128
    flops = _flops(module, request, _asked(request))
    known = rates(home())
    rate = known.get(request.analysis) or FIRST_GUESS
    bytes_held = sum(4.0 * s.n_parameters + 8 * length * (4.0 * s.d_mlp + 2.0 * s.vocab) * 4 for s in map(shape, request.variants))
    made = [seconds_to_make(v) for v in request.variants]
    return Estimate(flops / rate + 0.3 + sum(seconds for seconds, _ in made), bytes_held, request.analysis in known and all(sure for _, sure in made))


def seconds_to_make(v: Variant) -> tuple[float, bool]:
    """(seconds, whether measured) that deciding the steps of a recipe will take; those in the store take none."""
    bench, known = lab(home()), rates(home())
    seconds, measured = 0.0, True
    while v.steps:
        if not bench.planned(v):
            n_parameters = shape(v).n_parameters
            rate = known.get(f"operator {v.steps[-1].operator}")
            seconds += bench.work(v, n_parameters) / (rate or FIRST_GUESS)
            measured &= rate is not None
        v = v.parents[0] if v.parents and len(v.steps) == 1 else v.parent
    return seconds, measured


def command(request: Request, against: Request | None = None) -> str:
    """The one line that computes the same again, headlessly."""
    module = analysis.load(request.analysis)
    default = vars(module.Params())
    from models.variant import write_value

    first, *others = [v for r in (request, against) if r for v in r.variants] or [None]
    parts = ["python -m analysis", request.analysis, *([shlex.quote(first.written)] if first else [])]
    parts += [f"{option} {shlex.quote(v.written)}" for option, v in zip(("--against", *["--more"] * len(others)), others)]
    parts += [f"--corpus {request.corpus.written}"] if request.corpus else []
    changed = [f"{k}={write_value(v)}" for k, v in vars(request.params).items() if v != default[k]]  # display ones too: they change figures
    parts += [f"--set {shlex.quote(c)}" for c in changed]
    return " ".join([*parts, "--out DIR"])


@lru_cache(maxsize=1)
def git_commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=REPO, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


@lru_cache(maxsize=1)
def versions() -> dict:
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "numpy", "safetensors")}}
