"""A model as a recipe: which checkpoint, and what was done to it.

A Variant is a frozen value without weights. Everyone speaks its written form — sidebar, link, command line, key:

    demo/storyteller-a                                   a checkpoint
    demo/storyteller-a@8f3c…                             a checkpoint at a revision
    demo/storyteller-a~drop_layers:blocks=3.4            one step; lists are joined by dots
    demo/storyteller-a~wanda:sparsity=0.5,on=demo/stories:train:64x128,seed=1~drop_layers:blocks=3
    demo/storyteller-a!bfloat16                          run in another dtype than float32
    (demo/storyteller-a+demo/storyteller-b)~average      several parents, merged by the first step; parents may have steps and parents
    v/3f2a9c01d7e4                                       a merge too long to be written out: resolved from the store

Only parameters that differ from the operator's defaults are kept, in the operator's order, so that one recipe has one
written form. `operators.parse` checks names and types; here only the grammar is checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace

from models.refusal import Refused

Value = bool | int | float | str | tuple[int, ...]

DTYPES = ("float32", "bfloat16", "float16")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/\-]*\Z")
_WORD = re.compile(r"[a-z][a-z0-9_]*\Z")
BETWEEN = "+"  # stands between the parents of a merge
DEEPEST = 20  # merges inside each other
LONGEST = 2_000  # characters of a written form; anything longer is not a recipe a person made


@dataclass(frozen=True)
class Step:
    """One operator with the parameters that differ from its defaults, its calibration corpus and its seed."""

    operator: str
    params: tuple[tuple[str, Value], ...] = ()
    on: str | None = None  # written form of the calibration corpus, None where the operator needs none
    seed: int = 0

    @property
    def written(self) -> str:
        fields = [f"{name}={write_value(value)}" for name, value in self.params]
        if self.on is not None:
            fields.append(f"on={self.on}")
        if self.seed:
            fields.append(f"seed={self.seed}")
        return self.operator + (":" + ",".join(fields) if fields else "")


@dataclass(frozen=True)
class Variant:
    """A checkpoint followed by steps; with `parents`, the first step merges them and `base` is "merge"."""

    base: str
    revision: str | None = None
    dtype: str = "float32"
    steps: tuple[Step, ...] = ()
    parents: tuple[Variant, ...] = ()

    @property
    def written(self) -> str:
        if self.parents:
            text = "~".join([f"({BETWEEN.join(p.written for p in self.parents)})", *(step.written for step in self.steps)])
            return text if len(text) <= LONGEST else f"v/{self.digest[:12]}"
        head = self.base + (f"@{self.revision}" if self.revision else "")
        head += f"!{self.dtype}" if self.dtype != "float32" else ""
        return "~".join([head, *(step.written for step in self.steps)])

    @property
    def label(self) -> str:
        """Short form for legends: `storyteller-a · drop_layers(3.4)`."""
        steps = [f"{s.operator}({', '.join(write_value(v) for _, v in s.params)})" for s in self.steps]
        return " · ".join([" + ".join(p.label for p in self.parents) or self.base.rsplit("/", 1)[-1], *steps])

    @property
    def root(self) -> Variant:
        """The unmodified checkpoint that the steps start from; of a merge the first parent's, whose tokenizer it has."""
        return self.parents[0].root if self.parents else replace(self, steps=())

    @property
    def origin(self) -> str:
        """Written form of what was trained or merged before anything was done to it: the base, or the merge of the parents."""
        return replace(self, steps=self.steps[:1]).written if self.parents else self.base

    @property
    def parent(self) -> Variant | None:
        """The variant before the last step; None for a checkpoint and for a merge of parents."""
        return None if self.merged else replace(self, steps=self.steps[:-1]) if self.steps else None

    @property
    def merged(self) -> bool:
        """Whether the last step is the one that merges the parents."""
        return bool(self.parents) and len(self.steps) == 1

    def then(self, step: Step) -> Variant:
        return replace(self, steps=(*self.steps, step))

    def to_json(self) -> dict:
        """Canonical JSON form, parents embedded whole; `from_json` reads it back equal."""
        return {
            "base": self.base,
            "revision": self.revision,
            "dtype": self.dtype,
            "steps": [
                {"operator": s.operator, "params": [[n, list(v) if isinstance(v, tuple) else v] for n, v in s.params],
                 "on": s.on, "seed": s.seed}
                for s in self.steps
            ],
            "parents": [parent.to_json() for parent in self.parents],
        }

    @staticmethod
    def from_json(data: dict) -> Variant:
        steps = tuple(
            Step(s["operator"], tuple((n, tuple(v) if isinstance(v, list) else v) for n, v in s["params"]), s["on"], s["seed"])
            for s in data["steps"]
        )
        parents = tuple(Variant.from_json(parent) for parent in data["parents"])
        return Variant(data["base"], data["revision"], data["dtype"], steps, parents)

    @property
    def digest(self) -> str:
        """Hash of the whole recipe, 64 hex: `v/<first 12>` stands for it where the short form cannot carry it."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def parse(text: str) -> Variant:
    """Read a written form; raises Refused in words. Values stay text: `operators.parse` gives them their types."""
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise Refused("A model is written like demo/storyteller-a or demo/storyteller-a~drop_layers:blocks=3; this is empty or too long.")
    if text.strip().startswith("("):
        return _merge(text.strip())
    head, *steps = text.strip().split("~")
    head, _, dtype = head.partition("!")
    base, _, revision = head.partition("@")
    if not _NAME.match(base) or ".." in base or (revision and not _NAME.match(revision)):
        raise Refused(f"“{head[:80]}” is not a model's name; expected demo/<name>, shelf/<name> or owner/name of a hub.")
    if dtype and dtype not in DTYPES:
        raise Refused(f"“{dtype[:20]}” is not a dtype this app runs; expected one of {', '.join(DTYPES)}.")
    return Variant(base, revision or None, dtype or "float32", tuple(_step(step) for step in steps))


def _merge(text: str) -> Variant:
    """(parent+parent)~step~…; a + may have become a space on its way through a link."""
    parts, level, start = [], 0, 1
    for i, sign in enumerate(text):
        level += (sign == "(") - (sign == ")")
        if level == 0 or (level == 1 and sign in f"{BETWEEN} "):
            parts.append(text[start:i])
            start = i + 1
        if level == 0:
            break
    rest = text[start:]
    if level or len(parts) < 2 or not rest.startswith("~") or rest == "~" or text.count("(") > DEEPEST:
        raise Refused(f"“{text[:80]}” is not a merge; expected (model+model)~operator with at least two models and one step.")
    return Variant("merge", steps=tuple(_step(step) for step in rest[1:].split("~")), parents=tuple(parse(part) for part in parts))


def _step(text: str) -> Step:
    operator, _, rest = text.partition(":")
    if not _WORD.match(operator):
        raise Refused(f"“{text[:60]}” is not a step; expected operator:name=value,name=value.")
    params, on, seed = [], None, 0
    for field in filter(None, rest.split(",")):
        name, equals, value = field.partition("=")
        if not equals or not _WORD.match(name):
            raise Refused(f"“{field[:60]}” in step “{operator}” is not name=value.")
        if name == "on":
            on = value
        elif name == "seed":
            if not re.fullmatch(r"\d{1,9}", value):
                raise Refused(f"seed={value[:20]} in step “{operator}” is not a whole number.")
            seed = int(value)
        elif name in dict(params):
            raise Refused(f"“{name}” is given twice in step “{operator}”.")
        else:
            params.append((name, value))
    return Step(operator, tuple(params), on, seed)


def write_value(value: Value) -> str:
    """bool as true/false, lists joined by dots, floats as short as they read back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ".".join(map(str, value)) or "none"
    return repr(value) if isinstance(value, float) else str(value)
