"""The shipped SAEs, trained again: python -m demo.train_saes [NAME …]  (a few minutes of one core each)"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from metrics.bootstrap import ratio_interval
from metrics.sae_quality import Quality, quality, recovered
from models.corpus import parse
from models.home import home
from models.lab import Lab
from models.layout import Site
from models.progress import Quiet
from models.saes import reading, shelf
from models.saes.dictionary import Sae
from models.saes.training import Recipe, train
from models.variant import parse as parse_variant

TEXT, HELD_OUT = "demo/mixed:train:1024x128", "demo/mixed:128x128"
RECIPE = Recipe("topk", width=768, k=16, tokens=400_000, batch=1024, rate=1e-3, seed=0)
SAES = {  # a middle and a late site
    "storyteller-a.resid_post.2": ("demo/storyteller-a", Site(2, "resid_post")),
    "storyteller-a.resid_post.4": ("demo/storyteller-a", Site(4, "resid_post")),
    "storyteller-llama.resid_post.3": ("demo/storyteller-llama", Site(3, "resid_post")),
}


class Said(Quiet):
    def step(self, i: int, n: int, message: str = "", live=None) -> None:
        if live and i % 50 == 0:
            print(message, {name: round(value, 4) for name, value in live.items()}, flush=True)


def make(name: str) -> None:
    model_name, site = SAES[name]
    lab = Lab(home(), {})
    variant = parse_variant(model_name)
    text, held_out = (lab.capture(variant, parse(written)) for written in (TEXT, HELD_OUT))
    with text.model() as model:
        trained = train(model, site, text.ids, text.keep, RECIPE, Said())
        folder = shelf.DEMO / name
        shutil.rmtree(folder, ignore_errors=True)
        reading.write(replace(trained.sae, model=model_name), folder, half=True, notes={"recipe": asdict(RECIPE), "text": TEXT})
        sae = reading.read(folder, f"demo/saes/{name}")  # as shipped: float16 numbers
        measured = quality(model, sae, held_out.ids, held_out.keep)
    card(folder, sae, measured)


def card(folder: Path, sae: Sae, q: Quality) -> None:
    """README.md and card.json of a shipped SAE."""
    explained, low, high = _interval(1, -1, q.error, q.spread)
    again = _recovered(q)
    per_token = lambda sums: float(sums.sum() / q.predicted.sum())
    numbers = {
        "l0": q.l0, "explained_variance": [explained, low, high], "cross_entropy_recovered": again, "dead_features": q.dead,
        "loss_clean": per_token(q.clean), "loss_spliced": per_token(q.spliced), "loss_zeroed": per_token(q.zeroed),
        "held_out": HELD_OUT, "tokens": int(q.tokens.sum()), "trained_on": TEXT, "recipe": asdict(RECIPE),
    }
    (folder / "card.json").write_text(json.dumps(numbers, indent=2) + "\n")
    (folder / "README.md").write_text(
        f"# {sae.name}\n\nA {sae.architecture} SAE (k = {sae.k}) of {sae.d_sae} features on {sae.site.written} ({sae.d_in} channels) of {sae.model}, trained by "
        f"`make demo-saes` on {RECIPE.tokens:,} tokens of `{TEXT}` with sae-lens's training class, seed {RECIPE.seed}; float16.\n\n"
        f"On {int(q.tokens.sum()):,} held-out tokens (`{HELD_OUT}`, first tokens left out; 95 % bootstrap intervals over sequences):\n\n"
        "| measure | value |\n|---|---|\n"
        f"| features active per token (L0) | {q.l0:.2f} |\n| explained variance | {explained:.4f} ({low:.4f}–{high:.4f}) |\n"
        f"| cross-entropy recovered, against zeroing the site | {again[0]:.4f} ({again[1]:.4f}–{again[2]:.4f}) |\n"
        f"| loss, nats per token: clean, spliced, zeroed | {per_token(q.clean):.4f}, {per_token(q.spliced):.4f}, {per_token(q.zeroed):.4f} |\n"
        f"| features that never fire there | {100 * q.dead:.1f} % |\n\n"
        "A folder as sae-lens 6 writes it: `SAE.load_from_disk` opens it too. Features are directions that were useful for rebuilding activations, "
        "not proven units of meaning; another seed finds others.\n"
    )
    print(folder.name, json.dumps({k: v for k, v in numbers.items() if k != "recipe"}), flush=True)


def _interval(offset: float, sign: float, sums: np.ndarray, counts: np.ndarray) -> tuple[float, float, float]:
    mean, low, high = (offset + sign * float(x) for x in ratio_interval(sums, counts))
    return mean, min(low, high), max(low, high)


def _recovered(q: Quality, resamples: int = 2000) -> tuple[float, float, float]:
    n = len(q.clean)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), resamples)
    low, high = np.nanquantile(recovered(drawn @ q.clean, drawn @ q.spliced, drawn @ q.zeroed), [0.025, 0.975])
    return float(q.recovered), float(low), float(high)


if __name__ == "__main__":
    for each in sys.argv[1:] or SAES:
        make(each)
