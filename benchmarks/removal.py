"""The removal sweep against the naive loop, with the ceiling that measured block, head and KL times allow.

    python -m benchmarks.removal [--rounds 7] [--threads 1]

Naive: the reference pass, then for each of n blocks a whole forward of the model with that block skipped, its head, its KL.
Sweep: the reference pass recorded, then for each block only the blocks after it, its head, its KL. Both sides include the
reference. With block, head and KL times b, h, k the most that reuse can give is

    (n·b + h + n·((n − 1)·b + h + k)) / (n·b + h + n(n − 1)/2·b + n·(h + k))

which is 1.71 at 6 blocks when head and KL cost nothing. Rounds alternate; the median ratio and its range are printed. On the
CPU times are processor seconds of this process, so that other programs disturb them less. Exits 1 below 0.93 of the ceiling.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from metrics.divergence import KL, divergence
from metrics.removal import Sums, next_tokens, removed_stream, sweep_batch, units
from metrics.residuals import head, record
from models.layout import layout_for
from models.loaded import Model

DEMO = Path(__file__).resolve().parents[1] / "demo" / "models" / "storyteller-a"
LEAST = 0.93


def models() -> dict[str, Model]:
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    made = {
        "random GPT-2, 6 blocks of 160, 1,024 tokens": GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=160, n_head=8, n_positions=256, vocab_size=1024, bos_token_id=0, eos_token_id=0)),
        "random GPT-2, 12 blocks of 256, 16,384 tokens": GPT2LMHeadModel(GPT2Config(n_layer=12, n_embd=256, n_head=8, n_positions=256, vocab_size=16_384, bos_token_id=0, eos_token_id=0)),
    }
    if (DEMO / "model.safetensors").is_file():
        made = {"demo/storyteller-a": AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32), **made}
    return {name: Model(module.eval().requires_grad_(False), None, layout_for(module.config), name) for name, module in made.items()}


def naive(model: Model, ids: torch.Tensor, keep: torch.Tensor) -> list[float]:
    """Mean KL of each block's removal, by whole forwards."""
    to_logits, targets = head(model), next_tokens(ids, keep).flatten()
    with torch.inference_mode():
        reference = to_logits(stream(model, ids)).float()
        out = []
        for i in model.layers:
            block = model.blocks[i]
            forward, block.forward = block.forward, lambda hidden, *args, **kwargs: hidden
            try:
                hidden = stream(model, ids)
            finally:
                block.forward = forward
            out.append(float(divergence(reference, hidden, to_logits, targets)[:, KL].double().mean()))
    return out


def stream(model: Model, ids: torch.Tensor) -> torch.Tensor:
    """The stream before the final norm, flat; read by a hook so that the head is applied by the same code on both sides."""
    seen = []
    hook = model.module.get_submodule(model.layout.final_norm).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.module.get_submodule(model.layout.base)(input_ids=ids, use_cache=False)
    hook.remove()
    return seen[0].flatten(0, 1)


def reusing(model: Model, ids: torch.Tensor, keep: torch.Tensor) -> list[float]:
    wanted = units(model, ("block",))
    sums = Sums.empty(len(wanted), len(ids))
    sweep_batch(model, record(model, ids), ids, keep, wanted, sums, 0)
    return (sums.kl[:, 0].sum(-1) / sums.tokens[0].sum()).tolist()


def parts(model: Model, ids: torch.Tensor, keep: torch.Tensor, repeats: int, clock) -> tuple[float, float, float]:
    """Median seconds of one block, one head and one KL on this batch."""
    to_logits, targets = head(model), next_tokens(ids, keep).flatten()
    with torch.inference_mode():
        seen = record(model, ids)
        unit = units(model, ("block",))[-1]
        hidden = removed_stream(model, seen, unit).flatten(0, 1)
        reference, logits = to_logits(seen.post.flatten(0, 1)).float(), to_logits(hidden)
        args, kwargs = seen.calls[0]
        times = [(timed(clock, lambda: model.blocks[0](seen.pre[0], *args, **kwargs)), timed(clock, lambda: to_logits(hidden)),
                  timed(clock, lambda: divergence(reference, logits, lambda rows: rows, targets))) for _ in range(repeats)]
    return tuple(statistics.median(column) for column in zip(*times))


def timed(clock, work) -> float:
    start = clock()
    work()
    return clock() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock, worst = time.process_time, float("inf")
    for name, model in models().items():
        ids = torch.randint(0, min(500, model.config.vocab_size), (8, 128), generator=torch.Generator().manual_seed(0))
        keep = torch.ones_like(ids, dtype=torch.bool)
        one, two = naive(model, ids, keep), reusing(model, ids, keep)  # warm, and equal before anything is timed
        assert max(abs(a - b) for a, b in zip(one, two)) < 1e-5, f"{name}: the two sides disagree"
        ratios, ceilings = [], []
        for _ in range(given.rounds):
            slow = timed(clock, lambda: naive(model, ids, keep))
            b, h, k = parts(model, ids, keep, 5, clock)
            fast = timed(clock, lambda: reusing(model, ids, keep))
            n = len(model.layers)
            ratios.append(slow / fast)
            ceilings.append((n * b + h + n * ((n - 1) * b + h + k)) / (n * b + h + n * (n - 1) / 2 * b + n * (h + k)))
        ratio, ceiling = statistics.median(ratios), statistics.median(ceilings)
        worst = min(worst, ratio / ceiling)
        print(f"{name}: {ratio:.2f}× faster ({min(ratios):.2f}–{max(ratios):.2f} over {given.rounds} rounds), ceiling {ceiling:.2f}×, "
              f"{ratio / ceiling:.2f} of it; block {1e3 * b:.2f} ms, head {1e3 * h:.2f} ms, KL {1e3 * k:.2f} ms", flush=True)
    print(f"worst: {worst:.2f} of the ceiling, wanted {LEAST}")
    return 0 if worst >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
