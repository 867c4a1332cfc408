"""The bench everything is laid out on: the store, the device, and the models in memory."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

import kernels
from cache.codec import decode, encode
from cache.fingerprint import code_identity, fingerprint
from cache.store import Store
from models import capture as capture_module
from models import checkpoints, vocabulary
from models.capture import Capture
from models.corpus import Corpus, Tokens
from models.corpus import parse as parse_corpus
from models.corpus import require_context
from models.layout import layout_for
from models.loaded import Model
from models.params import key_params, read_params
from models.progress import Quiet
from models.rates import remember
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from models.variant import Step, Variant

ENGINE = code_identity(capture_module)  # how text becomes tokens and activations statistics; captures reach their users as values, so no import shows it
WEIGHTWISE = 1_000  # operations on a weight alone are counted like so many tokens
SCHEMA = 1  # of stored plans and results; bump when their meaning changes without a change of code


class Lab:
    """`operators` maps a name to its module; handed in, because models/ never imports operators/."""

    def __init__(self, home: Path, operators: Mapping[str, ModuleType], device: str = "cpu", memory_bytes: int | None = None):
        self.home = Path(home)
        self.store = Store(self.home / "store")
        self.operators = operators
        self.device = device
        self.memory_bytes = memory_bytes if memory_bytes is not None else int(0.4 * _available_bytes())
        self._models: OrderedDict[Variant, Model] = OrderedDict()

    def checkpoint(self, variant: Variant) -> checkpoints.Checkpoint:
        return checkpoints.resolve(variant.base, self.home, variant.revision)

    def identity(self, variant: Variant) -> str:
        """Content hash of a variant: weights, config and tokenizer of the checkpoint, then each step with its operator's code."""
        root = [self.identity(p) for p in variant.parents] if variant.parents else [self.checkpoint(variant).fingerprint]
        return fingerprint("variant", SCHEMA, root, variant.dtype, [self._step_identity(variant, s) for s in variant.steps])

    def _step_identity(self, variant: Variant, step: Step) -> list:
        operator = self.operators[step.operator]
        on = self.corpus_identity(parse_corpus(step.on)) if step.on else None
        return [step.operator, code_identity(operator), key_params(self.params(step)), on, step.seed]

    def corpus_identity(self, corpus: Corpus) -> str:
        return fingerprint("corpus", corpus, corpus.content_fingerprint(self.home))

    def params(self, step: Step):
        return read_params(self.operators[step.operator].Params, dict(step.params))

    def tokens(self, variant: Variant, corpus: Corpus) -> Tokens:
        return corpus.tokens_for(self._tokenizer(variant, corpus), self.home)

    def pieces(self, variant: Variant, corpus: Corpus, size: int):
        return corpus.pieces(self._tokenizer(variant, corpus), self.home, size)

    def _tokenizer(self, variant: Variant, corpus: Corpus):
        model = self.model(variant.root)
        require_context(corpus, getattr(model.config, "max_position_embeddings", None), variant.base)
        tokenizer = model.tokenizer
        if tokenizer is None:
            raise Refused(f"{variant.base} came without a tokenizer, so text cannot be cut into its tokens; add a tokenizer.json to its folder.")
        return tokenizer

    def capture(self, variant: Variant, corpus: Corpus | None) -> Capture:
        return Capture(self, variant, corpus)

    def model(self, variant: Variant, progress=None) -> Model:
        """The variant in memory, least recently used ones dropped beyond the budget; steps share unchanged tensors."""
        if variant in self._models:
            self._models.move_to_end(variant)
            return self._models[variant]
        model = self._replay(variant, progress) if variant.steps else self._load(variant)
        self._models[variant] = model
        self._trim(keep=variant)
        return model

    def _load(self, variant: Variant) -> Model:
        module, tokenizer = checkpoints.load(self.checkpoint(variant), variant.dtype, self.device)
        if tokenizer is None and module.config.get_text_config().vocab_size <= vocabulary.MOST_NUMBERS:
            tokenizer = vocabulary.numbers(module.config.get_text_config().vocab_size)
        return Model(module, tokenizer, layout_for(module.config), variant.written)

    def _replay(self, variant: Variant, progress) -> Model:
        if self.device == "offload":
            raise Refused(f"{variant.written} changes weights, and an offloaded model keeps some of them on disk. Choose a device that holds it whole, or bfloat16; "
                          "the unchanged model can be looked at offloaded.")
        plan = self.plan(variant, progress)
        parent = self.model(variant.parents[0] if variant.merged else variant.parent)
        model = parent.copy(variant.written)
        self.operators[variant.steps[-1].operator].apply(model, plan)
        return model

    def plan(self, variant: Variant, progress=None):
        """The last step's Plan: from the store, or decided now and stored. A merge's first step decides over all parents."""
        step = variant.steps[-1]
        operator = self.operators[step.operator]
        key = self._plan_key(variant)
        progress = (progress or Quiet()).part(key)
        with self.store.lock(key, waiting=lambda: progress.step(0, 0, "another run decides this recipe")):
            entry = self.store.get(key)
            if entry is None:
                source = variant.parents if variant.merged else variant.parent
                given = tuple(self.model(p) for p in source) if variant.merged else self.model(source)
                subject = variant.parents[0] if variant.merged else source
                operator.check(self.params(step), shape_of(given[0] if variant.merged else given))
                calibration = self.capture(subject, _seeded(parse_corpus(step.on), step.seed)) if step.on else None
                torch.manual_seed(step.seed)
                began = time.perf_counter()
                plan = operator.decide(given, self.params(step), calibration, progress)
                seconds = time.perf_counter() - began
                record = {"kind": "plan", "operator": step.operator, "variant": variant.to_json(), "written": variant.written,
                          "seconds": seconds, "device": self.device}
                self._put(key, plan, record)
                remember(self.home, f"operator {step.operator}", self.work(variant, n_parameters(self.model(subject).module)) / max(seconds, 1e-3))
                return plan
        return decode(operator.Plan, entry)

    def physical(self, variant: Variant, progress=None) -> tuple[object | None, str]:
        """(the variant as a really smaller module with the same logits, in words what it is); (None, why) where it would only be
        masked or stored smaller and runs at the old speed."""
        from models.smaller import without_removed

        model = self.model(variant, progress)
        if not variant.steps:
            return None, "a checkpoint without steps runs as it is"
        if variant.merged:
            return None, "a merge has the shape of its parents"
        operator = self.operators[variant.steps[-1].operator]
        why = operator.storage(self.model(variant.parent), self.plan(variant)).how
        smaller, said = None, []
        if hasattr(operator, "physical"):
            try:
                smaller = operator.physical(self.model(variant.parent), self.plan(variant))
                said.append(f"{variant.steps[-1].operator}: {why}")
            except (Refused, NotApplicable) as error:
                why = str(error)
        removed = without_removed(model if smaller is None else Model(smaller, model.tokenizer, model.layout, variant.written, model.removed))
        if removed is not None:
            smaller = removed
            said.append(f"{model.n_layers - len(model.layers)} of {model.n_layers} blocks left out, {sum(layer in model.layers for layer, _ in model.removed)} sublayers skipped")
        return (smaller, "; ".join(said)) if smaller is not None else (None, why)

    def planned(self, variant: Variant) -> bool:
        """Whether the last step's Plan is in the store."""
        return self.store.get(self._plan_key(variant)) is not None

    def _plan_key(self, variant: Variant) -> str:
        return fingerprint("plan", ENGINE, kernels.VERSION, self.identity(variant))

    def work(self, variant: Variant, n_parameters: int) -> float:
        """A rough count of operations of the last step's decision, for estimates: each weight on its own, and on each token of a
        calibration text."""
        on = variant.steps[-1].on
        corpus = parse_corpus(on) if on else None
        return 2.0 * n_parameters * (WEIGHTWISE + (corpus.n_sequences * corpus.length if corpus else 0))

    def kept(self, name: str, capture: Capture, parameters: dict, make, plan_class, progress=None, beside: tuple = ()):
        """An analysis's trained artefact, keyed by its maker's code, variant, corpus, name and parameters."""
        one = self._kept(name, capture, [parameters], sys.modules[make.__module__], lambda part, _: [make(part)], plan_class, progress, beside)
        return one[0]

    def kept_many(self, name: str, capture: Capture, parameters: list[dict], make, plan_class, progress=None) -> list:
        """Several of them, each under its own key; `make(progress, missing)` makes those of the given indices together."""
        return self._kept(name, capture, parameters, sys.modules[make.__module__], make, plan_class, progress, ())

    def found(self, name: str, capture: Capture, parameters: dict, make, plan_class):
        """What `kept` would find in the store; None where it would have to make it."""
        entry = self.store.get(self._kept_keys(name, capture, [parameters], sys.modules[make.__module__], ())[0])
        return None if entry is None else decode(plan_class, entry)

    def _kept_keys(self, name: str, capture: Capture, parameters: list[dict], maker, beside: tuple) -> list[str]:
        about = ("kept", ENGINE, kernels.VERSION, name, code_identity(maker), self.identity(capture.variant), capture.corpus and self.corpus_identity(capture.corpus))
        return [fingerprint(*about, each, *[self.identity(c.variant) for c in beside]) for each in parameters]

    def _kept(self, name: str, capture: Capture, parameters: list[dict], maker, make, plan_class, progress, beside: tuple) -> list:
        keys = self._kept_keys(name, capture, parameters, maker, beside)
        progress = progress or Quiet()
        with ExitStack() as locks:
            for key in sorted(set(keys)):
                locks.enter_context(self.store.lock(key, waiting=lambda: progress.step(0, 0, "another run trains this")))
            found = {i: decode(plan_class, entry) for i, key in enumerate(keys) if (entry := self.store.get(key)) is not None}
            missing = [i for i in range(len(keys)) if i not in found]
            if missing:
                began = time.perf_counter()
                part = progress.part(fingerprint(*(keys[i] for i in missing)) if len(keys) > 1 else keys[0])
                for i, plan in zip(missing, make(part, missing)):
                    record = {"kind": "kept", "name": name, "written": capture.variant.written, "corpus": capture.corpus and capture.corpus.written,
                              "parameters": parameters[i], "seconds": (time.perf_counter() - began) / len(missing), "device": self.device}
                    self._put(keys[i], plan, record)
                    found[i] = plan
        return [found[i] for i in range(len(keys))]

    def _put(self, key: str, value, record: dict) -> None:
        arrays, tables, plain = encode(value)
        self.store.put(key, arrays=arrays, tables=tables, record={**record, "plain": plain})

    def _trim(self, keep: Variant) -> None:
        while len(self._models) > 1 and _bytes_held(self._models.values()) > self.memory_bytes:
            oldest = next(v for v in self._models if v != keep)
            del self._models[oldest]


def n_parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())


def _seeded(corpus: Corpus, seed: int) -> Corpus:
    """A step's seed draws another calibration text from the same source."""
    return replace(corpus, seed=corpus.seed + seed)


def _bytes_held(models) -> int:
    """Bytes of all parameters, tensors shared between variants counted once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in models for p in m.module.parameters()}
    return sum(storages.values())


def _available_bytes() -> int:
    import psutil

    return psutil.virtual_memory().available
