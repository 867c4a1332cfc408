"""What training masks costs: a step against a plain training step, several λ together against one after another, and a useful λ point.

    python -m benchmarks.bigram [--point] [--threads 1]

Plain: forward, backward and fused AdamW on all weights with the usual next-token loss, same model, same batch. Ratios are medians
of interleaved rounds in one process; the spread is half the distance between the quartiles. `--point` trains one λ with the small
preset and judges it as the page does: r against the empty and the random-matched subnetwork.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from analysis.bigram_subnetwork.wanted import SMALL
from metrics import mask_training, subnetworks
from metrics.mask_training import Wish
from models import bigrams, checkpoints
from models.corpus import parse
from models.layout import layout_for
from models.loaded import Model
from models.progress import Quiet
from models.shape import shape_of

ROUNDS, STEPS = 9, 4
LAMBDAS = (0.0, 10.0, 100.0, 300.0)


def model_of(name: str, home: Path) -> Model:
    module, tokenizer = checkpoints.load(checkpoints.resolve(f"demo/{name}", home))
    return Model(module, tokenizer, layout_for(module.config), name)


def plain(model: Model, ids: torch.Tensor):
    """A function that makes one ordinary training step on a copy."""
    module = copy.deepcopy(model.module).requires_grad_(True)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)

    def step(i: int, rows: int) -> None:
        part = ids[i * rows : (i + 1) * rows]
        logits = module(input_ids=part, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def masked(model: Model, ids, counted, table, wishes: list[Wish], rows: int):
    """A function that makes one step of a batch of masks."""
    schedule = mask_training.replace(SMALL, rows=rows, steps=10_000, growth=1.0, settled=0.0)
    run = mask_training._Run(model, ids, counted, table, wishes, schedule)
    return run.advance


def timed(work) -> float:
    began = time.process_time()
    for i in range(STEPS):
        work(i)
    return (time.process_time() - began) / STEPS


def told(values: list[float]) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.2f} ± {(high - low) / 2:.2f}"


def steps(name: str, model: Model, ids, counted, table) -> None:
    for rows in (2, 8):
        ordinary = plain(model, ids)
        one = [masked(model, ids, counted, table, [Wish(x)], rows) for x in LAMBDAS]
        together = masked(model, ids, counted, table, [Wish(x) for x in LAMBDAS], rows)
        optimal = masked(model, ids, counted, table, [Wish(10.0, "model")], rows)
        cost, batch, own, seconds = [], [], [], []
        for _ in range(ROUNDS + 1):
            base = timed(lambda i: ordinary(i, rows))
            single = [timed(lambda i, each=each: each()) for each in one]
            cost.append(np.mean(single) / base)
            batch.append(timed(lambda i: together()) / sum(single))
            own.append(timed(lambda i: optimal()) / base)
            seconds.append(base)
        print(f"{name}, {rows} × {ids.shape[1]} tokens: plain step {1e3 * np.median(seconds[1:]):.0f} CPU ms; mask step over plain {told(cost[1:])}; "
              f"imitating the model {told(own[1:])}; {len(LAMBDAS)} λ together over one after another {told(batch[1:])}", flush=True)


def point(name: str, model: Model, home: Path, ids, counted, table) -> None:
    corpus = parse("demo/stories:32x128")
    text = torch.from_numpy(corpus.tokens_for(model.tokenizer, home).ids)
    expected = table.surprisal(text[:, 1:-1].numpy(), text[:, 2:].numpy())
    seen = np.isfinite(expected)

    def r(masks) -> float:
        log_p = subnetworks.subnetwork(model, masks).logits(text).log_softmax(-1)[:, 1:-1]
        return float(np.corrcoef(-log_p.gather(2, text[:, 2:, None])[..., 0].numpy()[seen], expected[seen])[0, 1])

    began, cpu = time.perf_counter(), time.process_time()
    (trained,) = mask_training.train(model, ids, counted, table, [Wish(100.0)], SMALL, Quiet())
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    masks = subnetworks.unpacked(trained.kept, shape_of(model))
    print(f"{name}, λ 100, small preset: {wall:.0f} s, {cpu:.0f} CPU s, {len(trained.loss)} steps, {100 * trained.active[-1]:.2f} % active; r {r(masks):.3f}, "
          f"random-matched {r(subnetworks.shuffled(masks, 0)):.3f}, empty {r(subnetworks.nothing(shape_of(model))):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bigram", description=__doc__.splitlines()[0])
    parser.add_argument("--point", action="store_true", help="also train one useful λ on each demo model")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("storyteller-a", "storyteller-llama"):
            model = model_of(name, home)
            corpus = parse("demo/stories:32x128")
            table = bigrams.of_text(corpus, model.tokenizer, model.config.vocab_size, 500_000, home)
            ids, keep = bigrams.sequences_apart(corpus, 1_000, model.tokenizer, home)
            counted = bigrams.counted_positions(corpus, model.tokenizer, keep)
            steps(name, model, ids, counted, table)
            if options.point:
                point(name, model, home, ids, counted, table)


if __name__ == "__main__":
    main()
