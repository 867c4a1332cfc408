"""Tiny models whose bigram subnetwork is known: data from a Markov chain, and a body in which only one block's MLP was trained."""

from functools import lru_cache

import numpy as np
import torch

from models.bigrams import Bigrams, from_table
from models.layout import layout_for
from models.loaded import Model
from tests import tiny

VOCAB, LENGTH = 32, 16


def chain(seed: int, gamma: float = 0.1) -> np.ndarray:
    """Rows P(next | previous) from a Dirichlet."""
    rows = np.random.default_rng(seed).gamma(gamma, size=(VOCAB, VOCAB)) + 1e-9
    return rows / rows.sum(1, keepdims=True)


def sample(first: np.ndarray, n: int, seed: int, second: np.ndarray | None = None) -> torch.Tensor:
    """ids [n, LENGTH]; with `second`, half of the tokens follow the token before the previous one by that table."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((n, LENGTH), np.int64)
    ids[:, 0] = rng.integers(VOCAB, size=n)
    cumulative = first.cumsum(1), None if second is None else second.cumsum(1)
    for t in range(1, LENGTH):
        by = (rng.random(n) < 0.5) & (t > 1) if second is not None else np.zeros(n, bool)
        rows = np.where(by[:, None], cumulative[1][ids[:, t - 2]], cumulative[0][ids[:, t - 1]]) if second is not None else cumulative[0][ids[:, t - 1]]
        ids[:, t] = (rng.random(n)[:, None] > rows).sum(1).clip(max=VOCAB - 1)
    return torch.from_numpy(ids)


def gpt2(seed: int, n_layers: int = 2):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(n_layer=n_layers, n_embd=32, n_head=4, n_positions=LENGTH, vocab_size=VOCAB, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
                                      bos_token_id=0, eos_token_id=1, pad_token_id=2)).eval()


def wrapped(module, name: str = "tiny/planted") -> Model:
    return Model(module.requires_grad_(False), tiny.tokenizer(), layout_for(module.config), name)


def fit(module, parameters, ids: torch.Tensor, steps: int, rate: float, rows: int = 32) -> None:
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=0.0)
    for step in range(steps):
        part = ids[torch.arange(step * rows, (step + 1) * rows) % len(ids)]
        logits = module(input_ids=part, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


PLANTED = ("0.mlp.c_fc", "0.mlp.c_proj")


@lru_cache(maxsize=2)
def planted(seed: int = 0) -> tuple[Model, Bigrams, torch.Tensor]:
    """(model, its true table, ids): only the MLP of block 0 (and embeddings, norms, biases) was trained, with every other matrix
    zero; then those were filled with random numbers that break it."""
    torch.set_num_threads(1)
    table = chain(seed)
    ids = sample(table, 4_000, seed)
    module = gpt2(seed)
    matrices = {name: p for name, p in module.named_parameters() if ".h." in name and p.dim() == 2}
    mlp = {f"transformer.h.{key}.weight" for key in PLANTED}
    with torch.no_grad():
        for name, p in matrices.items():
            p.mul_(8 if name in mlp else 0)
    distractors = [name for name in matrices if name not in mlp]
    fit(module, [p for name, p in module.named_parameters() if name not in distractors], ids, 600, 4e-3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in distractors:
            matrices[name].copy_(torch.randn(matrices[name].shape, generator=generator) * matrices[name].shape[0] ** -0.5)  # inputs' number: outputs of size 1
    return wrapped(module), from_table(table, "planted"), ids


@lru_cache(maxsize=1)
def second_order(seed: int = 0) -> tuple[Model, Bigrams, torch.Tensor]:
    """(model, exact bigram table, ids): half of the tokens follow the token before the previous one, so the model is no bigram
    model. The table comes from iterating the distribution of neighbouring pairs until it stands still."""
    torch.set_num_threads(1)
    first, second = chain(seed), chain(seed + 100, 0.03)
    ids = sample(first, 8_000, seed, second)
    module = gpt2(seed)
    fit(module, list(module.parameters()), ids, 1_200, 4e-3)
    pairs = np.full((VOCAB, VOCAB), 1 / VOCAB**2)  # of (t − 2, t − 1)
    for _ in range(200):
        pairs = 0.5 * pairs.sum(0)[:, None] * first + 0.5 * np.einsum("ab,ac->bc", pairs, second)
    return wrapped(module), from_table(pairs, "second order"), ids
