"""Strand 3: passages that a model can only know by heart.

Eight natural-looking passages and eight random letter strings for each of the repetition
counts in REPEATS, and sixteen of each kind in the same format that are never trained on.
Each has a prefix (the prompt) and a suffix (what an extraction must reproduce)."""
import random
from dataclasses import dataclass
from functools import lru_cache

from demo.document import Document, fill

REPEATS = (1, 4, 16, 64, 256, 512)
PER_LEVEL, CONTROLS = 8, 16
KINDS = ("natural", "random")
LETTERS = "abcdefghijklmnopqrstuvwxyz"

_SLOTS = {
    "ordinal": "first second third fourth fifth sixth seventh eighth ninth tenth last".split(),
    "time": "morning evening night winter summer autumn Sunday Monday Friday".split(),
    "title": "Captain Doctor Lady Professor Colonel Mister Widow Judge".split(),
    "surname": "Hobb Tarn Quill Marsh Voss Pell Crane Dunn Finch Grey Locke Rusk".split(),
    "article": "his her".split(),
    "material": "copper glass ivory marble velvet iron amber silver paper bronze".split(),
    "item": "whistle lantern compass mirror violin kettle ladder saddle bell anchor".split(),
    "mood": "nervous sleepy honest proud greedy silent clever lonely stubborn gentle".split(),
    "trade": "baker miller sailor tailor painter doctor hunter farmer weaver singer".split(),
    "town": "Elmstead Norwick Ashby Corland Velden Torrin Harwell Saltby Brindle Oakham".split(),
    "did": "hid counted buried forgot painted locked weighed wrapped traded burned".split(),
    "count": "two three four five six seven eight nine ten eleven twelve".split(),
    "metal": "golden brass wooden broken heavy foreign tiny rusty".split(),
    "coin": "coins keys rings maps letters candles feathers buttons".split(),
    "spot": "under behind above beside inside beneath".split(),
    "feature": "mill chapel harbour tower bridge stable cellar orchard library lighthouse".split(),
    "month": "January March April May June August October December".split(),
}
_NATURAL = (
    ("On the {ordinal} {time} {title} {surname} of {town} took {article} {material} {item}",
     "and {did} {count} {metal} {coin} {spot} the {feature} in {month}."),
    ("When the {mood} {trade} left {town} in {month}, {title} {surname}",
     "{did} the {material} {item} and {count} {coin} {spot} the {metal} {feature}."),
    ("Every {time} a {mood} {trade} from {town} told {title} {surname} about the {item}",
     "that {count} {trade2}s {did} with {metal} {coin} {spot} the {feature}."),
)


@dataclass(frozen=True)
class Canary:
    """`repeats` is how often a training run shows it; 0 is a control."""

    name: str
    kind: str
    repeats: int
    prefix: str
    suffix: str


def _natural(rng: random.Random) -> tuple[str, str]:
    prefix, suffix = rng.choice(_NATURAL)
    fields = {slot: rng.choice(words) for slot, words in _SLOTS.items()}
    fields["trade2"] = rng.choice(_SLOTS["trade"])
    return fill(prefix, fields)[0], fill(suffix, fields)[0]


def _random(rng: random.Random) -> tuple[str, str]:
    letters = [rng.choice(LETTERS) for _ in range(16)]
    return "code " + " ".join(letters[:8]) + " opens", " ".join(letters[8:]) + "."


@lru_cache(maxsize=None)
def canaries() -> tuple[Canary, ...]:
    """The one fixed set, trained ones first; the same in every run and on every machine."""
    found, seen = [], set()
    for kind, make in (("natural", _natural), ("random", _random)):
        for repeats, count in [(r, PER_LEVEL) for r in REPEATS] + [(0, CONTROLS)]:
            rng = random.Random(f"microtome canaries {kind} {repeats}")
            for number in range(count):
                prefix, suffix = make(rng)
                while prefix in seen:
                    prefix, suffix = make(rng)
                seen.add(prefix)
                name = f"{kind}-control-{number}" if repeats == 0 else f"{kind}-{repeats}-{number}"
                found.append(Canary(name, kind, repeats, prefix, suffix))
    return tuple(sorted(found, key=lambda canary: canary.repeats == 0))


@lru_cache(maxsize=None)
def trained() -> tuple[Canary, ...]:
    return tuple(canary for canary in canaries() if canary.repeats)


@lru_cache(maxsize=None)
def controls() -> tuple[Canary, ...]:
    return tuple(canary for canary in canaries() if not canary.repeats)


def write(canary: Canary) -> Document:
    text = f"{canary.prefix} {canary.suffix}"
    cut = len(canary.prefix)
    labels = {"strand": "canaries", "canary": canary.name, "kind": canary.kind, "repeats": canary.repeats}
    return Document(text, labels, ((0, cut, "prefix"), (cut + 1, len(text), "suffix")))


def words() -> list[str]:
    """Every word that a canary could have been made of."""
    plurals = (f"{trade}s" for trade in _SLOTS["trade"])
    return [*LETTERS, *(word for slot in _SLOTS.values() for word in slot), *plurals]


def schedule(seed: int) -> list[Canary]:
    """Each trained canary exactly `repeats` times, shuffled: what a training run shows, in order."""
    shown = [canary for canary in trained() for _ in range(canary.repeats)]
    random.Random(f"microtome schedule {seed}").shuffle(shown)
    return shown


def distribution(split: str) -> list[tuple[Document, float]]:
    """train: as often as a training run shows them; test: the controls, uniform."""
    if split == "test":
        return [(write(canary), 1 / len(controls())) for canary in controls()]
    total = sum(canary.repeats for canary in trained())
    return [(write(canary), canary.repeats / total) for canary in trained()]
