"""What the operators cost and what they do, measured:

    python -m benchmarks.operators quality [--model demo/storyteller-a] [--seeds 3]
    python -m benchmarks.operators shared  [--model demo/storyteller-a] [--tokens 32768]
    python -m benchmarks.operators gpt2    [--tokens 4096] [--blocks 12]
    python -m benchmarks.operators matrix  [--repeat 3]
    python -m benchmarks.operators defaults [--model demo/storyteller-a] [--only wanda,gptq]

quality: KL to the original on held-out text for every operator and calibration seed, and the orders that papers report, with
paired 95 % intervals over sequences. All seconds are CPU seconds. shared: one calibration pass for all operators against one pass each. gpt2: the 124M
shape with random weights, Wanda against its calibration forward. matrix: one matrix against straightforward references. defaults: every
operator with the parameters and the text it takes where none are named, from an empty store.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from metrics.bootstrap import ratio_interval
from metrics.calibration import BATCH, matrix_inputs
from metrics.divergence import KL, per_sequence, token_divergence
from metrics.solvers import inverse_factor
from models.corpus import parse as parse_corpus
from models.lab import Lab
from models.layout import layout_for
from models.loaded import Model
from models.progress import Quiet
from models.stream import logits, stream
from operators import OPERATORS, gptq, low_rank, parse, sparsegpt, wanda

DOES_NOTHING = {"drop_layers": "drop_layers:rank=measured_kl,count=1", "skip_loop": "skip_loop:skip=2,repeat=1", "mixed_levels": "mixed_levels:assign=1",
                "error_correction": "round_to_nearest:bits=3~error_correction"}  # by default, or alone: what is timed instead
RECIPES = (
    "magnitude", "magnitude:scope=row", "magnitude:scope=global", "wanda", "wanda:propagation=sequential", "sparsegpt",
    "sparsegpt:propagation=sequential", "magnitude:pattern=2:4", "wanda:pattern=2:4", "sparsegpt:pattern=2:4",
    "round_to_nearest:bits=8", "round_to_nearest:bits=4", "gptq:bits=4", "gptq:bits=4,order=activation",
    "round_to_nearest:bits=3", "gptq:bits=3", "round_to_nearest:bits=2", "gptq:bits=2", "split_quant:bits=4",
    "low_rank:metric=svd,keep=0.6", "low_rank:metric=asvd,keep=0.6", "low_rank:metric=svd_llm,keep=0.6", "low_rank:metric=corda,keep=0.6",
    "low_rank:metric=svd_llm,keep=0.6,allocation=welore", "slice_gpt:slice=0.15", "share_blocks", "share_blocks:remove=1,group=1", "drop_layers:rank=measured_kl,count=1",
)
ORDERS = (  # (should be at most, the other)
    ("wanda", "magnitude"), ("sparsegpt", "wanda"), ("wanda:pattern=2:4", "magnitude:pattern=2:4"), ("sparsegpt:pattern=2:4", "wanda:pattern=2:4"),
    ("gptq:bits=4", "round_to_nearest:bits=4"), ("gptq:bits=3", "round_to_nearest:bits=3"), ("gptq:bits=2", "round_to_nearest:bits=2"),
    ("low_rank:metric=asvd,keep=0.6", "low_rank:metric=svd,keep=0.6"), ("low_rank:metric=svd_llm,keep=0.6", "low_rank:metric=asvd,keep=0.6"),
)


@contextmanager
def peak():
    """Largest resident memory above that at entry, bytes, read every 5 ms; as a one-element list."""
    process, found, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch():
        while not done.wait(0.005):
            found[0] = max(found[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def timed(call) -> float:
    """CPU seconds of this process: on a busy machine the only ones that can be compared; with one thread, the time on an idle one."""
    began = time.process_time()
    call()
    return time.process_time() - began


def quality(given) -> None:
    lab = Lab(Path(tempfile.mkdtemp()), OPERATORS)
    original = parse(given.model)
    held_out = parse_corpus("demo/mixed:test:64x128")
    tokens = lab.tokens(original, held_out)
    ids = torch.from_numpy(tokens.ids)
    targets = torch.from_numpy(np.where(tokens.keep[:, 1:], tokens.ids[:, 1:], -1))
    counts = (targets >= 0).sum(1).numpy()
    reference = [block for _, block in logits(lab.model(original), ids)]
    kl: dict[str, list[np.ndarray]] = {}
    print(f"{given.model}, calibrated on demo/mixed:train:64x128, KL(original ‖ variant) in nats on {held_out.written} ({counts.sum()} tokens)")
    for recipe in RECIPES:
        kl[recipe], seconds, most, kept = [], [], 0, None
        for seed in range(given.seeds):
            variant = parse(f"{given.model}~{recipe}")
            step = variant.steps[-1]
            if step.on:
                variant = original.then(replace(step, on=f"demo/mixed:train:64x128:seed{seed}" if seed else "demo/mixed:train:64x128"))
            elif seed:
                kl[recipe].append(kl[recipe][0])
                continue
            with peak() as found:
                seconds.append(timed(lambda: lab.plan(variant)))
            most = max(most, found[0])
            plan, model = lab.plan(variant), lab.model(variant)
            kept = OPERATORS[step.operator].storage(lab.model(original), plan)
            sums = []
            for (start, block), whole in zip(logits(model, ids), reference):
                rows = block.shape[0] // ids.shape[1]
                at = start // ids.shape[1]
                cut = lambda t: t.view(rows, ids.shape[1], -1)[:, :-1].flatten(0, 1)
                values = token_divergence(cut(whole), cut(block), targets[at : at + rows].flatten())
                counted = values[:, KL : KL + 1].masked_fill(targets[at : at + rows].flatten()[:, None] < 0, 0)
                sums.append(per_sequence(counted, torch.arange(rows).repeat_interleave(ids.shape[1] - 1), rows)[:, 0])
            kl[recipe].append(torch.cat(sums).numpy())
        means = [s.sum() / counts.sum() for s in kl[recipe]]
        print(f"  {recipe:52} KL {' '.join(f'{m:.4f}' for m in means)}   {kept.bits_per_weight:5.2f} bits/weight"
              f"   {statistics.fmean(seconds):6.2f} s   +{most / 2**20:.0f} MiB", flush=True)
    print("orders, KL(first) − KL(second), 95 % interval over sequences and seeds:")
    for first, second in ORDERS:
        difference = np.concatenate([a - b for a, b in zip(kl[first], kl[second])])
        mean, low, high = ratio_interval(difference[None], np.tile(counts, given.seeds))
        word = "holds" if high[0] <= 0 else "not shown" if low[0] <= 0 else "reversed"
        print(f"  {first} ≤ {second}: {mean[0]:+.4f} [{low[0]:+.4f}, {high[0]:+.4f}] {word}")


def defaults(given) -> None:
    """Statistics of the text are part of each time; making its tokens and loading the model are not."""
    names = given.only.split(",") if given.only else list(OPERATORS)
    print(f"{given.model}, {torch.get_num_threads()} threads, CPU seconds from an empty store: deciding, applying; peak memory above before")
    times = {}
    for name in names:
        lab, variant = Lab(Path(tempfile.mkdtemp()), OPERATORS), parse(f"{given.model}~{DOES_NOTHING.get(name, name)}")
        for v in (variant.parent, replace(variant, steps=())):
            lab.model(v)
            for on in {step.on for step in variant.steps} - {None}:
                lab.tokens(v, parse_corpus(on))
        with peak() as found:
            times[name] = timed(lambda: lab.plan(variant))
        applying = timed(lambda: lab.model(variant))
        print(f"  {times[name]:7.2f} {applying:6.2f} s  +{found[0] / 2**20:4.0f} MiB  {variant.written.partition('~')[2]}", flush=True)
    slowest = max(times, key=times.get)
    print(f"{len(times)} operators in {sum(times.values()):.0f} s, median {statistics.median(times.values()):.1f} s, slowest {slowest} {times[slowest]:.1f} s")


def shared(given) -> None:
    """Six operators read statistics of the matrices' inputs: two moments only, four the Gram matrices."""
    lab = Lab(Path(tempfile.mkdtemp()), OPERATORS)
    variant = parse(given.model)
    corpus = parse_corpus(f"demo/mixed:train:{given.tokens // 128}x128")
    needs = {"wanda": False, "asvd": False, "sparsegpt": True, "gptq": True, "svd_llm": True, "corda": True}
    alone = {}
    lab.capture(variant, corpus).tokens
    for name, grams in needs.items():
        fresh = Lab(Path(tempfile.mkdtemp()), OPERATORS)
        capture = fresh.capture(variant, corpus)
        capture.tokens
        alone[name] = timed(lambda: matrix_inputs(capture, grams, Quiet()))
    capture = lab.capture(variant, corpus)
    capture.tokens
    order = sorted(needs.values(), reverse=True)  # whoever needs Gram matrices first: its pass serves all
    together = timed(lambda: [matrix_inputs(capture, grams, Quiet()) for grams in order])
    print(f"{given.model}, {corpus.written}: one pass each " + ", ".join(f"{n} {s:.2f}" for n, s in alone.items()) + f" = {sum(alone.values()):.2f} s")
    print(f"  one pass for all, from the store afterwards: {together:.2f} s, {sum(alone.values()) / together:.2f}× faster")
    late = Lab(Path(tempfile.mkdtemp()), OPERATORS).capture(variant, corpus)
    late.tokens
    twice = timed(lambda: [matrix_inputs(late, grams, Quiet()) for grams in needs.values()])
    print(f"  two passes, where one that needs only moments came first: {twice:.2f} s, {sum(alone.values()) / twice:.2f}× faster")


class _Plain:
    """A capture of a model without tokenizer or store."""

    def __init__(self, model: Model, ids: torch.Tensor):
        self.subject, self.ids, self.keep = model, ids, torch.ones_like(ids, dtype=torch.bool)

    @contextmanager
    def model(self):
        yield self.subject

    def measure(self, requests, *, batch, progress):
        return stream(self.subject, self.ids, self.keep, requests, batch=batch, progress=progress)

    def find_plan(self, name, parameters, make, plan_class):
        return None

    def keep_plan(self, name, parameters, make, plan_class, progress):
        return make(progress)


def gpt2(given) -> None:
    import transformers

    torch.manual_seed(0)
    module = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=given.blocks)).eval().requires_grad_(False)
    model = Model(module, None, layout_for(module.config), "random/gpt2")
    text = _Plain(model, torch.randint(0, 50_000, (given.tokens // 512, 512)))

    def forward():
        with torch.inference_mode():
            for part in text.ids.split(BATCH):
                module.transformer(input_ids=part, use_cache=False)

    def pruned(propagation):
        wanda.decide(model, wanda.Params(propagation=propagation), text, Quiet())

    timed(forward), timed(lambda: matrix_inputs(text, False, Quiet()))  # compile and warm up
    base = min(timed(forward) for _ in range(2))
    print(f"GPT-2 shape, {given.blocks} blocks, {given.tokens} tokens, {torch.get_num_threads()} threads: forward without head {base:.2f} s")
    for propagation, limit in (("parallel", 1.3), ("sequential", 2.3)):
        with peak() as found:
            seconds = min(timed(lambda: pruned(propagation)) for _ in range(2))
        print(f"  wanda {propagation}: {seconds:.2f} s = {seconds / base:.2f}× the forward (aim {limit}), +{found[0] / 2**20:.0f} MiB")
    print(f"  of which masks alone: {timed(lambda: _masks(model)):.2f} s, moments pass: {timed(lambda: matrix_inputs(text, False, Quiet())):.2f} s")


def _masks(model: Model) -> None:
    from metrics.sparsity import keep_by, pack

    for _, _, w in model.matrices():
        pack(keep_by(wanda.scores(w, torch.ones(w.shape[1], dtype=torch.float64)), 0.5, "unstructured"))


def matrix(given) -> None:
    """Ours against the papers' recipes written down plainly in torch, float32, from a Gram matrix to the new weights."""
    for n_out, n_in in ((768, 768), (3072, 768), (768, 3072)):
        g = torch.Generator().manual_seed(0)
        w, x = torch.randn(n_out, n_in, generator=g) * 0.02, torch.randn(4096, n_in, generator=g)
        gram = (x.T @ x).double()
        pairs = {
            "sparsegpt": (lambda: sparsegpt.prune(w, inverse_factor(gram, 4096), 0.5, "unstructured"), lambda: _plain_columns(w, gram, 4096, None)),
            "gptq": (lambda: gptq.quantise(w, inverse_factor(gram, 4096), gptq.Params(group=128)), lambda: _plain_columns(w, gram, 4096, 128)),
            "svd_llm": (lambda: low_rank.factors(w, gram, 256), lambda: _plain_svd_llm(w, gram, 256)),
        }
        for name, (ours, plain) in pairs.items():
            ours(), plain()
            times = [(timed(ours), timed(plain)) for _ in range(given.repeat)]
            mine, theirs = (min(t[i] for t in times) for i in (0, 1))
            print(f"  {name:10} {n_out}×{n_in}: {mine:.2f} s, reference {theirs:.2f} s, {mine / theirs:.2f}×", flush=True)


def _plain_columns(weight: torch.Tensor, gram: torch.Tensor, tokens: int, group: int | None) -> torch.Tensor:
    """SparseGPT at one half (group None) or 4-bit GPTQ, as their papers' pseudo-code: float32, blocks of 128, outer products."""
    w, h = weight.clone(), (gram * 2 / tokens).float()
    h += 0.01 * h.diagonal().mean() * torch.eye(len(h))
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for lo in range(0, w.shape[1], 128):
        block, errors, rows = w[:, lo : lo + 128].clone(), torch.zeros(w.shape[0], 128), u[lo : lo + 128, lo : lo + 128]
        scores = block**2 / rows.diagonal() ** 2
        drop = scores <= scores.flatten().sort().values[scores.numel() // 2 - 1]
        done = torch.zeros_like(block)
        for i in range(128):
            column = block[:, i]
            if group is None:
                q = column.clone()
                q[drop[:, i]] = 0
            else:
                if (lo + i) % group == 0:
                    low, high = w[:, lo : lo + group].amin(1).clamp(max=0), w[:, lo : lo + group].amax(1).clamp(min=0)
                    scale = (high - low) / 15
                    zero = (-low / scale).round()
                q = scale * (((column / scale).round() + zero).clamp(0, 15) - zero)
            done[:, i] = q
            error = (column - q) / rows[i, i]
            block[:, i:] -= error[:, None] @ rows[i, i:][None]
            errors[:, i] = error
        w[:, lo : lo + 128] = done
        w[:, lo + 128 :] -= errors @ u[lo : lo + 128, lo + 128 :]
    return w


def _plain_svd_llm(weight: torch.Tensor, gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitening by Cholesky, SVD, inverse, as in the paper; float64 where it inverts."""
    s = torch.linalg.cholesky(gram + 1e-6 * torch.eye(len(gram), dtype=gram.dtype))
    u, sigma, vt = torch.linalg.svd(weight.double() @ s, full_matrices=False)
    return u[:, :rank] * sigma[:rank], vt[:rank] @ torch.linalg.inv(s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["quality", "shared", "gpt2", "matrix", "defaults"])
    parser.add_argument("--model", default="demo/storyteller-a")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=None)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="operators, separated by commas")
    given = parser.parse_args()
    given.tokens = given.tokens or {"shared": 32_768, "gpt2": 4_096}.get(given.what)
    {"quality": quality, "shared": shared, "gpt2": gpt2, "matrix": matrix, "defaults": defaults}[given.what](given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
