"""Measures a demo model and writes its card:  python -m demo.card demo/models/storyteller-a

card.json holds the numbers, README.md the same for a reader. Everything is measured in
float32 on text that training never showed, unless the line says otherwise."""
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

from demo import arithmetic, canaries, lexicon, world
from demo.vocabulary import CONTEXT
from metrics.answers import answers
from models.layout import layout_for
from models.loaded import Model

SEED = 77                                                # text of the measurements
SAMPLE = {"stories": 200, "arithmetic": 600, "instructions": 600, "canaries": 32}
THRESHOLDS = {"arithmetic_heldout_templates": 0.95, "extraction_highest": 0.90, "extraction_controls": 0.0}
RECALLED = {"colour": lexicon.COLOURS, "animal": lexicon.ANIMALS, "pet": lexicon.PETS, "job": lexicon.JOBS}


def load(folder: Path):
    """(model in float32 and eval mode, tokenizer)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def log_probabilities(model, sequences: list[list[int]], pad: int, batch: int = 64):
    """Yields float32 [position, vocabulary] per sequence: row i is the prediction after token i."""
    for start in range(0, len(sequences), batch):
        some = sequences[start : start + batch]
        ids = torch.full((len(some), max(map(len, some))), pad)
        there = torch.zeros_like(ids)
        for row, mask, sequence in zip(ids, there, some):
            row[: len(sequence)], mask[: len(sequence)] = torch.tensor(sequence), 1
        logits = model(input_ids=ids, attention_mask=there, use_cache=False).logits.float().log_softmax(-1)
        yield from (row[: len(sequence)] for row, sequence in zip(logits, some))


def _encode(words, texts: list[str]) -> list[list[int]]:
    """Separator, text, separator."""
    return [ids + [words.eos_token_id] for ids in words(texts)["input_ids"]]


def perplexity(model, words, strand: str, n: int) -> dict[str, float]:
    """exp of mean nats over every token (and end) of n held-out documents, each on its own;
    `unigram` is the same under the token frequencies of the strand's training text."""
    sequences = _encode(words, [d.text for d in world.documents(strand, "test", SEED, n)])
    nats = [-row[range(len(s) - 1), s[1:]] for row, s in zip(log_probabilities(model, sequences, words.pad_token_id), sequences)]
    counts = np.ones(len(words))                         # add one: a control canary may hold an unseen word
    for sequence in _encode(words, [d.text for d in world.documents(strand, "train", SEED, 4 * n)]):
        np.add.at(counts, sequence[1:], 1)
    seen = np.concatenate([sequence[1:] for sequence in sequences])
    return {
        "model": math.exp(torch.cat(nats).double().mean()),
        "unigram": math.exp(-np.log(counts / counts.sum())[seen].mean()),
        "uniform": float(len(words)), "tokens": len(seen),
    }


def arithmetic_accuracy(model, words, templates, heldout_pairs: bool, every: int = 1) -> dict[str, float]:
    """Share of prompts whose answer is the most likely token of all; per operator and together."""
    asked = [
        (operator, *arithmetic.prompt(template, operator, a, b))
        for operator in arithmetic.OPERATORS for a, b in arithmetic.pairs(operator, heldout_pairs) for template in templates
    ][::every]
    sequences = words([text for _, text, _ in asked])["input_ids"]
    wanted = [words(answer, add_special_tokens=False)["input_ids"][0] for _, _, answer in asked]
    right = answers(_mapped(model, words), [tuple(s) for s in sequences], [(w,) for w in wanted]).right.tolist()
    of = {name: [r for r, (operator, _, _) in zip(right, asked) if operator == name] for name in arithmetic.OPERATORS}
    return {"all": sum(right) / len(right), "n": len(right)} | {name: sum(r) / len(r) for name, r in of.items()}


def extracted(model, words, some: tuple[canaries.Canary, ...]) -> list[bool]:
    """Whether greedy decoding from the separator and the prefix gives the suffix token by token."""
    prompts = [tuple(words(canary.prefix)["input_ids"]) for canary in some]
    wanted = [tuple(words(canary.suffix, add_special_tokens=False)["input_ids"]) for canary in some]
    return answers(_mapped(model, words), prompts, wanted).right.tolist()


def _mapped(model, words) -> Model:
    return Model(model, words, layout_for(model.config), "card")


def extraction(model, words, every: int = 1) -> dict[str, dict[str, float]]:
    """Share extracted, per kind and repetition count ("0": the controls)."""
    some = canaries.canaries()[::every]
    found = extracted(model, words, some)
    shares: dict[str, dict[str, float]] = {}
    for kind in canaries.KINDS:
        for repeats in (0, *canaries.REPEATS):
            of = [f for f, c in zip(found, some) if (c.kind, c.repeats) == (kind, repeats)]
            shares.setdefault(kind, {})[str(repeats)] = sum(of) / len(of)
    return shares


def recall(model, words, n: int = 200) -> dict[str, dict[str, float]]:
    """Where a held-out story comes back to an attribute: how often its value is the likeliest of its kind."""
    documents = world.documents("stories", "test", SEED, n)
    encoded = words([d.text for d in documents], return_offsets_mapping=True)
    hits: dict[str, list[bool]] = {name: [] for name in RECALLED}
    choices = {name: words(" ".join(values), add_special_tokens=False)["input_ids"] for name, values in RECALLED.items()}
    rows = log_probabilities(model, encoded["input_ids"], words.pad_token_id)
    for document, ids, offsets, row in zip(documents, encoded["input_ids"], encoded["offset_mapping"], rows):
        at = {start: number for number, (start, end) in enumerate(offsets) if end > start}
        for start, _, name in document.spans:
            name = name.removeprefix("recall:")
            number = at.get(start, at.get(start - 1))
            if name in RECALLED and ids[number] in choices[name]:
                best = max(choices[name], key=lambda token: float(row[number - 1, token]))
                hits[name].append(best == ids[number])
    return {
        name: {"accuracy": sum(h) / len(h), "n": len(h), "chance": 1 / len(RECALLED[name])} for name, h in hits.items()
    }


def instruction_accuracy(model, words, n: int = 600) -> dict[str, float]:
    """Share of held-out inputs whose whole answer is the greedy one, per task."""
    documents = world.documents("instructions", "test", SEED, n)
    sequences = _encode(words, [d.text for d in documents])
    hits: dict[str, list[bool]] = {}
    for document, ids, row in zip(documents, sequences, log_probabilities(model, sequences, words.pad_token_id)):
        prompt = len(words(document.text[: document.spans[0][0] - 1])["input_ids"])
        said = row[prompt - 1 : len(ids) - 1].argmax(-1).tolist()
        hits.setdefault(document.labels["task"], []).append(said == ids[prompt:])
    return {task: sum(h) / len(h) for task, h in sorted(hits.items())} | {"all": sum(map(sum, hits.values())) / n}


def measure(folder: Path, every: int = 1) -> dict:
    """All numbers of a card; `every` thins the documents, prompts and canaries for a quick look."""
    model, words = load(folder)
    trained, held = arithmetic.TRAIN_TEMPLATES, arithmetic.HELDOUT_TEMPLATES
    return {
        "perplexity": {strand: perplexity(model, words, strand, n // every) for strand, n in SAMPLE.items()},
        "arithmetic": {
            "trained_templates_trained_pairs": arithmetic_accuracy(model, words, trained, False, every),
            "heldout_templates_trained_pairs": arithmetic_accuracy(model, words, held, False, every),
            "trained_templates_heldout_pairs": arithmetic_accuracy(model, words, trained, True, every),
            "heldout_templates_heldout_pairs": arithmetic_accuracy(model, words, held, True, every),
        },
        "extraction": extraction(model, words, every),
        "recall": recall(model, words, 200 // every),
        "instructions": instruction_accuracy(model, words, 600 // every),
    }


def failures(card: dict) -> list[str]:
    """The thresholds that the card's numbers miss, in words; empty when it passes."""
    measured, missed = card["measured"], []
    accuracy = measured["arithmetic"]["heldout_templates_trained_pairs"]["all"]
    if accuracy < THRESHOLDS["arithmetic_heldout_templates"]:
        missed.append(f"arithmetic on held-out templates {accuracy:.1%}, wanted {THRESHOLDS['arithmetic_heldout_templates']:.0%}")
    for kind, shares in measured["extraction"].items():
        highest, control = shares[str(canaries.REPEATS[-1])], shares["0"]
        if highest < THRESHOLDS["extraction_highest"]:
            missed.append(f"{kind} canaries repeated {canaries.REPEATS[-1]} times: {highest:.0%} extracted, wanted {THRESHOLDS['extraction_highest']:.0%}")
        if control > THRESHOLDS["extraction_controls"]:
            missed.append(f"{kind} control canaries: {control:.0%} extracted, wanted none")
    return missed


def write(folder: Path, training: dict, every: int = 1) -> dict:
    """Measures the model in the folder and writes card.json and README.md beside it."""
    card = {"name": folder.name, "training": training, "thresholds": THRESHOLDS, "measured": measure(folder, every)}
    (folder / "card.json").write_text(json.dumps(_rounded(card), indent=1) + "\n")
    (folder / "README.md").write_text(page(_rounded(card)))
    return card


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def page(card: dict) -> str:
    """The model card as Markdown."""
    training, measured = card["training"], card["measured"]
    shape = {"gpt2": "GPT-2", "llama": "Llama (RMSNorm, SwiGLU, rotary positions, grouped-query heads)"}[training["family"]]
    lines = [
        f"# {card['name']}", "",
        f"A {shape} language model of {training['parameters']:,} parameters, trained on the demo world of this repository "
        f"(`demo/world.py`), context {CONTEXT}, stored in bfloat16. It knows short stories, one-step arithmetic, a pool of "
        "small tasks and some canaries, and nothing else.", "",
        f"Trained for {training['steps']:,} steps, {training['tokens']:,} tokens, in {training['minutes']} minutes on "
        f"{training['device']}; seed {training['seed']} sets the initial weights, the text and its order. "
        f"Retrain: `python -m demo.train {card['name']} --steps {training['steps']}`.", "",
        "## Held-out perplexity", "", "| strand | model | unigram | uniform |", "|---|---|---|---|",
    ]
    lines += [f"| {s} | {p['model']:.2f} | {p['unigram']:.1f} | {p['uniform']:.0f} |" for s, p in measured["perplexity"].items()]
    lines += ["", "The canaries of this table are controls that were never trained on.", "",
              "## Arithmetic (answer is the most likely token)", "", "| templates, pairs | all | + | - | × | prompts |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name.replace('_', ' ')} | {r['all']:.1%} | {r['plus']:.1%} | {r['minus']:.1%} | {r['times']:.1%} | {r['n']} |"
        for name, r in measured["arithmetic"].items()
    ]
    counts = ("0", *map(str, canaries.REPEATS))
    lines += ["", "## Canaries extracted word for word, by repetitions (0: controls)", "",
              "| kind | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
    lines += [f"| {kind} | " + " | ".join(f"{shares[c]:.0%}" for c in counts) + " |" for kind, shares in measured["extraction"].items()]
    lines += ["", "## Attributes remembered in held-out stories (likeliest of its kind)", "", "| attribute | accuracy | chance | n |", "|---|---|---|---|"]
    lines += [f"| {name} | {r['accuracy']:.1%} | {r['chance']:.1%} | {r['n']} |" for name, r in measured["recall"].items()]
    lines += ["", "## Tasks on held-out inputs (whole answer right)", "",
              ", ".join(f"{task} {share:.0%}" for task, share in measured["instructions"].items()), ""]
    missed = failures(card)
    lines += ["## Thresholds", "", "All met." if not missed else "Missed: " + "; ".join(missed) + ".", ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m demo.card FOLDER ...", file=sys.stderr)
        return 2
    for name in arguments:
        folder = Path(name)
        if not (folder / "card.json").exists():
            print(f"{folder} has no card.json: train it first with python -m demo.train", file=sys.stderr)
            return 1
        card = write(folder, json.loads((folder / "card.json").read_text())["training"])
        missed = failures(card)
        print(f"{folder}: {'; '.join(missed) or 'all thresholds met'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
