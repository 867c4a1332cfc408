"""Data selection: what coding a pool costs beside its forward, what scoring it costs, and what memory a longer pool takes.

    python -m benchmarks.selection [--rounds 7] [--samples 512]

Code: the forward up to the hook with every token encoded, its top k kept and pooled by sample (kernels.sae_pool), over the same
forward with nothing but the encoder's bare matrix product at the hook. Each round runs bare, coded, bare: the ratio is coded /
mean(bare, bare), the noise bare / bare.
Score: generalised Jaccard of 100,000 sparse samples of 200 features out of 131,072 (MONA's SAE) with a prototype; the first time
(nothing warm) and again.
Memory: the peak of a process that passes over a pool as the analysis does (reading, coding, five targets), at one length and at ten times
that, beside what the longer pool's codes would take in memory.
Processor seconds of this process, one thread. Exits 1 above 1.3 times, above 1 second, or where the peak grows by more than a fifth of
the codes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from kernels.sae_pool import SaePool
from kernels.timing import bracketed, cpu_seconds
from metrics import selection
from models.corpus import Tokens
from models.layout import Site, layout_for
from models.loaded import Model
from models.stream import Request, stream

DEMO = Path(__file__).resolve().parents[1] / "demo" / "models" / "storyteller-a"
MOST, SECONDS, SHARE = 1.3, 1.0, 0.2
LENGTH, PIECE, DRAWS, EXAMPLES = 64, 64, 5, 10


class Product:
    """The encoder's matrix product and nothing else, a batch at a time as it comes."""

    def __init__(self, weight: torch.Tensor):
        self.weight = weight

    def add(self, x: torch.Tensor, keep=None, start: int = 0) -> None:
        x @ self.weight


def demo() -> Model:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval().requires_grad_(False)
    return Model(module, None, layout_for(module.config), "demo/storyteller-a")


def models() -> dict[str, tuple[Model, int, int]]:
    """Name -> (model, block after which it is read, latents): a random one, and the demo model at its SAE's size."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    wide = GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=512, n_head=8, n_positions=LENGTH, vocab_size=1024, bos_token_id=0, eos_token_id=0)).eval().requires_grad_(False)
    small = demo()
    return {"random GPT-2, 512 wide, after block 4 of 0–5, 4,096 latents": (Model(wide, None, layout_for(wide.config), "wide"), 4, 8 * 512),
            "demo/storyteller-a, 160 wide, after block 4 of 0–5, 1,280 latents": (small, 4, 8 * small.config.hidden_size)}


def code_ratio(model: Model, layer: int, latents: int, rounds: int) -> tuple[float, float]:
    """(coded over bare, quartile spread of bare over bare)."""
    d, generator = model.config.hidden_size, torch.Generator().manual_seed(1)
    ids = torch.randint(0, 500, (PIECE, LENGTH), generator=generator)
    weight, site = torch.randn(d, latents, generator=generator) / d**0.5, (Site(layer, "resid_post"),)
    pool = SaePool(weight, torch.zeros(latents), torch.zeros(d), k=32, length=LENGTH)
    coded = lambda: stream(model, ids, None, [Request(pool.empty(LENGTH), site)])
    bare = lambda: stream(model, ids, None, [Request(Product(weight), site)])
    return bracketed(bare, coded, repeats=rounds)[2:]


def score_seconds() -> list[float]:
    """The first call and two more."""
    from scipy.sparse import csr_matrix

    rng, n, features, each = np.random.default_rng(0), 100_000, 131_072, 200
    codes = csr_matrix((rng.random(n * each, np.float32), rng.integers(0, features, n * each, np.int32), np.arange(0, n * each + 1, each)), shape=(n, features))
    p = np.where(rng.random(features) < 0.02, rng.random(features), 0.0)
    return [cpu_seconds(lambda: selection.jaccard(codes, p)) for _ in range(3)]


class Endless:
    """A pool of n samples of random tokens, made as they are read: a capture's part that passing over one needs."""

    def __init__(self, n: int):
        self.corpus = SimpleNamespace(n_sequences=n)

    def pieces(self, size: int):
        for lo in range(0, self.corpus.n_sequences, size):
            n = min(size, self.corpus.n_sequences - lo)
            ids = np.random.default_rng([0, lo]).integers(2, 900, (n, LENGTH))
            yield Tokens(ids, np.ones(ids.shape, bool), {"task": np.full(n, "a")}, {}), [""] * n


def peak_of(n: int) -> None:
    """Pass over n samples; prints the process's peak in MB and the codes' size in MB."""
    from analysis import data_selection
    from analysis.data_selection import passing
    from models.progress import Quiet
    from models.saes import Sae

    model, params, capture = demo(), data_selection.Params(), Endless(n)
    d, latents = model.config.hidden_size, 64 * model.config.hidden_size
    weight = torch.randn(d, latents, generator=torch.Generator().manual_seed(0)) / d**0.5
    sae = Sae(weight, torch.zeros(latents), weight.T.contiguous(), torch.zeros(d), "topk", Site(4, "resid_post"), k=64)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        pool = passing.survey(capture, passing.vocabulary(model), params, Quiet())
        rows = np.arange(DRAWS * EXAMPLES)
        aim = passing.read(model, sae, passing.rows_of(capture, rows), params)
        targets = [passing.target(aim, at, at, pool.words) for at in np.split(rows, DRAWS)]
        passed = passing.over(capture, model, sae, targets, n, params, Quiet(), Path(scratch))
    print(peak(), 12 * passed.codes.indptr[-1] / 1e6)


def peak() -> float:
    """MB resident at most so far; pages of mapped files that were read count too."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak_of:
        peak_of(given.peak_of)
        return 0
    failed = []
    seconds = score_seconds()
    print(f"100,000 samples of 200 features against a prototype: {seconds[0]:.2f} s the first time, then {seconds[1]:.2f} and {seconds[2]:.2f} s; wanted {SECONDS:g}", flush=True)
    failed += ["score"] * (seconds[0] > SECONDS)
    for name, (model, layer, latents) in models().items():
        ratio, noise = code_ratio(model, layer, latents, given.rounds)
        print(f"{name}: encoded, top 32 kept and pooled {ratio:.2f} times the forward with the bare product, median of {given.rounds}; wanted {MOST}; quartiles of bare over bare "
              f"{noise:.2f} apart", flush=True)
        failed += [name] * (ratio > MOST)
    (one, _), (ten, codes) = (map(float, subprocess.run([sys.executable, "-m", "benchmarks.selection", "--peak-of", str(n)], capture_output=True, text=True, check=True).stdout.split())
                              for n in (given.samples, 10 * given.samples))
    print(f"peak of the process {one:.0f} MB at {given.samples:,} samples, {ten:.0f} MB at {10 * given.samples:,}: {ten - one:+.0f} MB; the codes alone would be {codes:.0f} MB in memory")
    failed += ["memory"] * (ten - one > SHARE * codes)
    print(f"missed: {', '.join(failed)}" if failed else "all met")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
