"""Data selection: what coding a pool costs beside its forward, what scoring it costs, and what memory a longer pool takes.

    python -m benchmarks.selection [--rounds 5] [--threads 1]

Code: the forward up to the hook with every token encoded, its top k kept and pooled by sample (kernels.sae_pool), over the same
forward with nothing but the encoder's bare matrix product at the hook. Rounds alternate; the median ratio and its range are printed.
Score: generalised Jaccard of 100,000 sparse samples of 200 features out of 131,072 (MONA's SAE) with a prototype.
Memory: a pool that is coded and scored in pieces, which keeps one score a sample, at one length and at eight times that.
Times are processor seconds of this process. Exits 1 above 1.3 times, above 1 second, or where memory grows with the pool.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from kernels.sae_pool import SaePool
from metrics import selection
from models.layout import Site, layout_for
from models.loaded import Model
from models.stream import Request, stream

DEMO = Path(__file__).resolve().parents[1] / "demo" / "models" / "storyteller-a"
MOST, SECONDS, GROWTH = 1.3, 1.0, 16.0  # times, seconds, MB
LENGTH, PIECE = 64, 64


class Product:
    """The encoder's matrix product and nothing else."""

    def __init__(self, weight: torch.Tensor):
        self.weight = weight

    def add(self, x: torch.Tensor, keep=None, start: int = 0) -> None:
        x @ self.weight


def models() -> dict[str, tuple[Model, int, int]]:
    """Name -> (model, layer read, latents): random ones, and the demo model at its SAE's size where it is there."""
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    made = {"random GPT-2, block 5 of 6, 512 wide, 8,192 latents": (GPT2LMHeadModel(GPT2Config(
        n_layer=6, n_embd=512, n_head=8, n_positions=LENGTH, vocab_size=1024, bos_token_id=0, eos_token_id=0)), 4, 8192)}
    if (DEMO / "model.safetensors").is_file():
        demo = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
        made["demo/storyteller-a after block 4, eight latents a channel"] = demo, 4, 8 * demo.config.hidden_size
    return {name: (Model(m.eval().requires_grad_(False), None, layout_for(m.config), name), layer, n) for name, (m, layer, n) in made.items()}


def encoder(model: Model, latents: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    d = model.config.hidden_size
    return torch.randn(d, latents, generator=torch.Generator().manual_seed(1)) / d**0.5, torch.zeros(latents), torch.zeros(d)


def code_ratio(model: Model, layer: int, latents: int, rounds: int) -> list[float]:
    """Coded over bare, one a round."""
    ids = torch.randint(0, 500, (PIECE, LENGTH), generator=torch.Generator().manual_seed(0))
    made, site = encoder(model, latents), (Site(layer, "resid_post"),)
    coded = lambda: stream(model, ids, None, [Request(SaePool(*made, k=32, length=LENGTH), site)])
    bare = lambda: stream(model, ids, None, [Request(Product(made[0]), site)])
    coded(), bare()  # compiled and warm before anything is timed
    return [timed(coded) / timed(bare) for _ in range(rounds)]


def score_seconds() -> float:
    from scipy.sparse import csr_matrix

    rng, n, features, each = np.random.default_rng(0), 100_000, 131_072, 200
    codes = csr_matrix((rng.random(n * each, np.float32), rng.integers(0, features, n * each, np.int32), np.arange(0, n * each + 1, each)), shape=(n, features))
    p = np.where(rng.random(features) < 0.02, rng.random(features), 0.0)
    return timed(lambda: selection.jaccard(codes, p))


def peak_growth(model: Model, layer: int, latents: int, pieces: int) -> tuple[float, float]:
    """MB by which the process's peak rose over `pieces` pieces, and then over seven times as many more."""
    from scipy.sparse import csr_matrix

    made, generator = encoder(model, latents), torch.Generator().manual_seed(2)
    p = np.random.default_rng(3).random(latents)

    def score(n: int) -> np.ndarray:
        out = []
        for _ in range(n):
            ids = torch.randint(0, 500, (PIECE, LENGTH), generator=generator)
            (pooled,) = stream(model, ids, None, [Request(SaePool(*made, k=32, length=LENGTH), (Site(layer, "resid_post"),))])
            indptr, features, values = pooled.matrix()
            out.append(selection.jaccard(csr_matrix((values, features, indptr), shape=(PIECE, latents)), p))
        return np.concatenate(out)

    peaks = [peak()]
    for n in (pieces, 7 * pieces):
        score(n)
        peaks.append(peak())
    return peaks[1] - peaks[0], peaks[2] - peaks[1]


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    held, worst = models(), 0.0
    for name, (model, layer, latents) in held.items():
        first, more = peak_growth(model, layer, latents, 4)
        print(f"{name}: {4 * PIECE} samples raised the peak by {first:.1f} MB, {7 * 4 * PIECE} more by {more:.1f} MB (allowed {GROWTH:.0f})", flush=True)
        ratios = code_ratio(model, layer, latents, given.rounds)
        print(f"{name}: coded and pooled {statistics.median(ratios):.2f} times ({min(ratios):.2f}–{max(ratios):.2f} over {given.rounds} rounds) "
              f"the forward to the hook with the bare product, wanted {MOST}", flush=True)
        worst = max(worst, statistics.median(ratios) / MOST, more / GROWTH)
    seconds = score_seconds()
    print(f"100,000 samples of 200 features against a prototype: {seconds:.2f} s, wanted {SECONDS:.0f}")
    return 0 if max(worst, seconds / SECONDS) <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
