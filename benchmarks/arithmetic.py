"""Path patching of every head at END: the fast scan against a loop of TransformerLens runs, one for each head.

    python -m benchmarks.arithmetic [--prompts 64] [--rounds 3] [--threads 1]

Both sides start from the token ids of the same correctly answered prompts and their forms without operator, and record both runs.
Loop: for every head `run_with_hooks` on the whole prompt, with hook_z of all blocks held at END and one head taken from the other
run; MLPs recompute by themselves. Scan: metrics.patching.path. Effects (log-probability of the answer, relative logit) must agree to
1e-5 in float32. Beside it, once, the same loop with hooks on transformers' model. Rounds alternate; processor seconds of this process, median ratio and range. Then the scan's time and memory from
{sizes} prompts: memory is the growth of the process's peak. Exits 1 below a ratio of 10, or where effects differ.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

from metrics.patching import hooked
from metrics.patching.end import change, measures, read_out, record
from metrics.patching.path import scan_heads
from metrics.patching.ranking import answers, states_of
from metrics.prompts.arithmetic_set import Prompt, ask
from metrics.prompts.tokenised import by_length
from models import bridge
from models.layout import layout_for
from models.loaded import Model
from models.progress import Quiet

DEMO = Path(__file__).resolve().parents[1] / "demo" / "models"
SIZES = (64, 128, 256, 512)
LEAST, TOLERANCE = 10.0, 1e-5
__doc__ = __doc__.replace("{sizes}", " to ".join((str(SIZES[0]), str(SIZES[-1]))))


def load(name: str) -> Model:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(DEMO / name, dtype=torch.float32).eval().requires_grad_(False)
    return Model(module, AutoTokenizer.from_pretrained(DEMO / name), layout_for(module.config), name)


def scan(model: Model, prompts: list[Prompt]) -> torch.Tensor:
    """[layer, head, prompt, 3]."""
    own, every = answers(model, prompts)
    reference, other = states_of(model, [p.ids for p in prompts]), states_of(model, [p.changed[0] for p in prompts])
    return scan_heads(model, reference, other, own, every, "recomputed")


def loop(model: Model, lens, prompts: list[Prompt]) -> torch.Tensor:
    """The same by TransformerLens: a full run for every head."""
    own, every = answers(model, prompts)
    n_layers, n_heads = lens.cfg.n_layers, lens.cfg.n_heads
    out = torch.zeros(n_layers, n_heads, len(prompts), 3, dtype=torch.float64)
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers)]
    with torch.no_grad():
        other = torch.empty(n_layers, len(prompts), n_heads, model.config.hidden_size // n_heads)
        for part, ids in by_length([p.changed[0] for p in prompts], 64):
            cache = lens.run_with_cache(ids, names_filter=names)[1]
            other[:, part] = torch.stack([cache[name][:, -1] for name in names])
        for part, ids in by_length([p.ids for p in prompts], 64):
            logits, cache = lens.run_with_cache(ids, names_filter=names)
            base, held = measures(logits[:, -1], own[part], every), [cache[name][:, -1].clone() for name in names]

            def holding(layer: int, head: int, at: int):
                def hook(z, hook):
                    z[:, -1] = held[layer]
                    if layer == at:
                        z[:, -1, head] = other[layer, part, head]
                    return z

                return hook

            for at in range(n_layers):
                for head in range(n_heads):
                    patched = lens.run_with_hooks(ids, fwd_hooks=[(name, holding(layer, head, at)) for layer, name in enumerate(names)])
                    out[at, head, part] = change(measures(patched[:, -1], own[part], every), base)
    return out


def hooks(model: Model, prompts: list[Prompt]) -> torch.Tensor:
    """The same loop with hooks on transformers' own model: what is saved by not running attention, TransformerLens aside."""
    own, every = answers(model, prompts)
    out = None
    for part, ids in by_length([p.ids for p in prompts], 64):
        reference, other = record(model, ids), states_of(model, [prompts[i].changed[0] for i in part])
        n_layers, _, n_heads, _ = reference.z.shape
        out = torch.zeros(n_layers, n_heads, len(prompts), 3, dtype=torch.float64) if out is None else out
        base = read_out(model, reference.post, own[part], every)
        for at in range(n_layers):
            for head in range(n_heads):
                patched = hooked.with_head(model, ids, reference, other, at, head, "recomputed")
                out[at, head, part] = change(measures(patched, own[part], every), base)
    return out


def seconds(function) -> tuple[float, torch.Tensor]:
    began = time.process_time()
    out = function()
    return time.process_time() - began, out


def compare(model: Model, prompts: list[Prompt], rounds: int) -> bool:
    lens = bridge.share(model.module)
    loop(model, lens, prompts[:2]), scan(model, prompts[:2])
    ratios, slow_times, fast_times = [], [], []
    for _ in range(rounds):
        slow, a = seconds(lambda: loop(model, lens, prompts))
        fast, b = seconds(lambda: scan(model, prompts))
        ratios.append(slow / fast), slow_times.append(slow), fast_times.append(fast)
    gap = float((a - b)[..., :2].abs().max())
    native, c = seconds(lambda: hooks(model, prompts))
    gap = max(gap, float((c - b)[..., :2].abs().max()))
    ratio = statistics.median(ratios)
    print(f"{model.written}: {len(prompts)} prompts, {a.shape[0] * a.shape[1]} heads. "
          f"Loop {statistics.median(slow_times):.2f} s, scan {statistics.median(fast_times):.3f} s, "
          f"ratio {ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f}); largest difference of effects {gap:.1e}. "
          f"With hooks on transformers' model alone, {native:.2f} s: ratio {native / statistics.median(fast_times):.1f}")
    return ratio >= LEAST and gap <= TOLERANCE


def growth(model: Model, prompts: list[Prompt]) -> None:
    """Time and peak memory against the number of prompts; the same prompts again where there are too few."""
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first = None
    for n in SIZES:
        some, before = [prompts[i % len(prompts)] for i in range(n)], peak()
        took = min(seconds(lambda: scan(model, some))[0] for _ in range(3))
        first = first or took / n
        one = states_of(model, [some[0].ids])
        held = 2 * n * sum(x.nbytes for x in (one.pre, one.z, one.attn, one.mlp, one.post)) / 1e6
        print(f"{model.written}: {n} prompts {took:.3f} s, {1000 * took / n:.2f} ms a prompt ({took / n / first:.2f} of the first); "
              f"states of both runs {held:.1f} MB, peak grew by {peak() - before:.0f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    good = True
    for name in ("storyteller-a", "storyteller-llama"):
        model = load(name)
        prompts = list(ask(model, ("plus", "minus", "times"), 96, 6, "@, nothing", 0, Quiet()).discovery)
        growth(model, prompts)
        good &= compare(model, prompts[:: max(1, len(prompts) // given.prompts)][: given.prompts], given.rounds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
