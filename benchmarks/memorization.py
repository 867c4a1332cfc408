"""How long locating takes, what its statistics cost beside the forward passes they need, and what the method's claims come to.

    python -m benchmarks.memorization [--model demo/storyteller-a] [--claims] [--planted SEED ...]

Targets: locating on a demo model in under 30 s; statistics at most 1.1 times the forward passes. Every turn runs the forward passes,
the same with statistics, and the forward passes again, one thread, CPU seconds. `--claims` prints what the method's claims come to on the
three demo models (three splits each, a minute each) and `--planted 0 1 2 3 4 5` on the byte models of tests/planted_canaries.py, with mean
and range over them (seeds 0 to 2 are kept, others are trained first: 90 CPU s each).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import torch

from kernels.timing import bracketed
from metrics import memorized
from metrics.extraction import exact_share, extract, passages
from metrics.soft_prompt import recovery

STEPS, VECTORS, RATE = (0, 10, 30), 8, 0.05  # the soft prompt of the design; the embeddings have standard deviation 1
SHARES = (0.01, 0.02, 0.05)


def cost(model, ids: torch.Tensor, keep: torch.Tensor) -> tuple[float, float, float, float]:
    """(CPU s of the forward passes alone, the same with the sizes of every block's feed-forward input, ratio, noise), by kernels.timing."""
    base = model.module.get_submodule(model.layout.base)

    def plain() -> None:
        with torch.inference_mode():
            for lo in range(0, len(ids), 8):
                base(input_ids=ids[lo : lo + 8], use_cache=False)

    return bracketed(plain, lambda: memorized.sizes(model, ids, keep), repeats=15)


def measured(trained, share: float, seed: int) -> dict[str, float]:
    """The design's numbers for one model of tests/planted_canaries.py: half of its strings locates, the other half is held out."""
    from analysis.memorization_subspace.finding import perplexity

    model, first, second, fresh = trained.model, trained.canaries[:8], trained.canaries[8:], trained.fresh
    mem, other = (memorized.of_passages(model, half) for half in (first, second))
    natural, form = memorized.sizes(model, trained.natural, trained.counted), memorized.of_passages(model, fresh)
    masks = {base: [memorized.masks(model, x, b, share) for x in (mem, other)] for base, b in (("natural", natural), ("format", form), ("none", None))}
    cut, random, plain = (memorized.cut(model, m) for m in (masks["natural"][0], memorized.random_like(masks["natural"][0], "weights", seed), masks["none"][0]))
    whole, ppl = perplexity(model, trained.natural, trained.counted), lambda m: perplexity(m, trained.natural, trained.counted)
    iou = lambda pair: statistics.mean(memorized.iou(pair[0][i], pair[1][i]) for i in pair[0])
    back, control = (recovery(cut, q, STEPS, seed, VECTORS, RATE).double().mean(1) for q in (first, fresh))
    return {
        "whole perplexity": whole, "known": exact_share(model, trained.canaries), "fresh": exact_share(model, fresh), "density": memorized.density(masks["natural"][0]),
        "M1": exact_share(cut, first), "M2": exact_share(cut, second), "perplexity": ppl(cut) / whole,
        "random M1": exact_share(random, first), "random perplexity": ppl(random) / whole, "no contrast density": memorized.density(masks["none"][0]), "no contrast perplexity": ppl(plain) / whole,
        "IoU natural": iou(masks["natural"]), "IoU format": iou(masks["format"]),
        "IoU chance": statistics.mean(memorized.chance_iou(*(m[i] for m in masks["natural"])) for i in mem.rms),
        "recovered": float(back[-1]), "recovered fresh": float(control[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo/storyteller-a")
    parser.add_argument("--claims", action="store_true")
    parser.add_argument("--planted", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--folder", type=Path, help="where kept models are looked for, if not in tests/planted")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.claims or arguments.planted:
        if arguments.claims:
            claims()
        return planted(arguments.planted, arguments.folder) if arguments.planted else None
    from analysis import run
    from models.home import home

    capture = run.lab(home()).capture(run.variant(arguments.model), run.parse_corpus("demo/canaries:train:96x64:padded"))
    text = capture.beside("demo/stories:64x64")
    with capture.model() as model:
        began, wall = time.process_time(), time.perf_counter()
        p = passages(capture.tokens)
        known = p[extract(model, p).exact]
        masks = memorized.masks(model, memorized.of_passages(model, known), memorized.sizes(model, text.ids, text.keep), 0.1)
        print(f"{arguments.model}: {len(known)} passages located in {100 * memorized.density(masks):.1f} % of the weights: {time.process_time() - began:.1f} CPU s, {time.perf_counter() - wall:.1f} s (target 30)")
        bare, seen, ratio, noise = cost(model, text.ids, text.keep)
    print(f"statistics over {text.tokens.n_tokens} tokens: × {ratio:.3f} of the forward passes (target 1.1; {seen:.2f} and {bare:.2f} CPU s, 15 turns; noise: quartiles of bare / bare {noise:.3f} apart; "
          f"load {os.getloadavg()[0]:.1f})")


def claims() -> None:
    from models.shelf import demo_models

    for model in (e.source for e in demo_models() if "/step-" not in e.source):
        demo_claims(model)


def planted(seeds: list[int], folder: Path | None) -> None:
    from tests.planted_canaries import KEPT, trained

    rows: dict[float, list[dict[str, float]]] = {share: [] for share in SHARES}
    for seed in seeds:
        model = trained(seed, folder or KEPT)
        for share in SHARES:
            rows[share].append(measured(model, share, seed))
            print(f"seed {seed}, share {share:.1%}: " + ", ".join(f"{name} {value:.3f}" for name, value in rows[share][-1].items()), flush=True)
    for share, found in rows.items():
        spread = {name: [r[name] for r in found] for name in found[0]}
        print(f"{len(seeds)} seeds, share {share:.1%}: " + ", ".join(f"{name} {statistics.mean(x):.3f} ({min(x):.3f}–{max(x):.3f})" for name, x in spread.items()))


def demo_claims(name: str) -> None:
    """The page's own result of a demo model: what is left of both halves, mean and range over three splits, by share; recovery."""
    from analysis import run
    from analysis.memorization_subspace import words

    asked = run.request("memorization_subspace", (name,), None, {})
    began = time.process_time()
    run.execute(asked.to_json())
    found = run.load(asked)
    r = found.result
    print(f"{name}: {r.n_memorized} of {len(r.exact)} extracted, {int(r.control_exact.sum())} of {len(r.control_exact)} controls; {time.process_time() - began:.0f} CPU s")
    for j, share in enumerate(r.shares):
        left = [words.mean_range(r.extracted[:, 0, j, half]) for half in (0, 1)]
        print(f"  share {share:.0%}, density {r.density[0, j]:.1%}: located {left[0]}, held out {left[1]}, perplexity × {r.ratio[:, 0, j].mean():.3f}; "
              f"random {r.extracted[0, 2, j, 0]:.0%}, × {r.ratio[0, 2, j]:.3f}; no contrast × {r.ratio[0, 1, j]:.3f}")
    print(f"  IoU {', '.join(f'{n} {x:.2f}' for n, x in zip(('natural base', 'format base', 'no contrast', 'shuffled'), r.overlap.mean((0, 2))))}, chance {r.chance.mean():.2f}. {words.verdict(r)[1]}", flush=True)


if __name__ == "__main__":
    main()
