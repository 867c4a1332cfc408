"""What coding a text costs: sign codes of every MLP's pre-activations, packed to files, against the bare forward; and searching them.

    python -m benchmarks.hash_codes [--repeats 9]

GPT-2 of 6 blocks × 512 with random weights (and gated, Llama-shaped: gate and up), 8 sequences of 256 tokens, one thread. Bare is
the model without its head, in inference mode. Every repeat runs bare, coding, bare: the ratio is coding / mean(bare, bare), the noise
bare / bare. CPU seconds of this process. Target: ≤ 1.06. The codes are compared with the signs of stored activations before
anything is timed. The phase chart's grid is in benchmarks/small_nets.py, the search alone in kernels/bench.py.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from analysis.hash_codes import coding
from benchmarks.capture import LENGTH, SEQUENCES, TARGET, bare, random_gpt2
from kernels import hamming
from kernels.timing import bracketed
from models.layout import layout_for
from models.loaded import Model
from models.stream import stream


def random_llama(blocks: int = 6, width: int = 512, vocabulary: int = 8192) -> Model:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(num_hidden_layers=blocks, hidden_size=width, intermediate_size=1376, num_attention_heads=8, max_position_embeddings=LENGTH, vocab_size=vocabulary)
    module = LlamaForCausalLM(config).eval()
    return Model(module, None, layout_for(module.config), f"Llama shaped, {blocks} × {width}, random")


def code(model: Model, ids: torch.Tensor, folder: Path) -> list:
    requests = coding.sign_requests(tuple(range(model.n_layers)), coding.planes_of(model, True), 0.0, folder)
    return stream(model, ids, None, requests, batch=SEQUENCES)


def check(model: Model, ids: torch.Tensor, folder: Path) -> list:
    """AssertionError unless the codes of the first block are the signs of its pre-activations."""
    seen = []
    handle = model.site(0, "mlp_pre")[0].register_forward_hook(lambda m, a, out: seen.append(out))
    bare(model, ids)
    handle.remove()
    found = code(model, ids, folder)
    assert (found[0].bits() == (seen[0].flatten(0, 1) > 0).numpy()).all()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"{SEQUENCES} × {LENGTH} tokens, one thread, CPU seconds, median of {repeats}, load {os.getloadavg()[0]:.1f}\n| model | bare s | coding s | coding / bare | spread of bare / bare (quartiles) |\n|---|---|---|---|---|")
    for model in (random_gpt2(), random_llama()):
        ids = torch.randint(0, model.config.vocab_size, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
        with tempfile.TemporaryDirectory() as held, torch.no_grad():
            found = check(model, ids, Path(held))
            base, way, ratio, noise = bracketed(lambda: bare(model, ids), lambda: code(model, ids, Path(held)), repeats=repeats)
            print(f"| {model.written} | {base:.3f} | {way:.3f} | {ratio:.3f} (target ≤ {TARGET['cpu']}: {'met' if ratio <= TARGET['cpu'] else 'NOT met'}) | {noise:.3f} |", flush=True)
            codes = np.concatenate([s.codes() for s in found], 1)
            nearest = lambda: hamming.nearest(codes, codes[:256], 10)
            unpacked = torch.from_numpy(np.unpackbits(codes, axis=1)).float() * 2 - 1
            product = lambda: (unpacked[:256] @ unpacked.T).topk(10)
            assert (nearest()[1][:, 1] == ((unpacked.shape[1] - product().values[:, 1]) / 2).numpy()).all()
            slow, fast, over, _ = bracketed(product, nearest, repeats=3)
            print(f"  search of 256 codes of {codes.shape[1] * 8:,} bits in {len(codes):,}: {fast:.3f} s, by float32 product of unpacked bits {slow:.3f} s ({1 / over:.1f} × faster, 32 × less memory)", flush=True)


if __name__ == "__main__":
    main()
