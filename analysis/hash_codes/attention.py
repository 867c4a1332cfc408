"""Attention by Hamming distance: how many of the k keys with the largest q · k are among the k nearest codes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from models.layout import heads
from models.loaded import Model
from models.refusal import NotApplicable

BITS = (8, 16, 32, 64, 128, 256)
METHODS = ("random projections", "random projections, keys centred", "signs of the coordinates")


@contextmanager
def seeing(model: Model, see):
    """While open, see(layer, q [batch, head, token, d_head], k) is called for every attention, after rotary embedding, keys of a
    shared group repeated for each of its heads. NotApplicable where the model does not use torch's fused attention."""
    if getattr(model.config, "_attn_implementation", "") != "sdpa":
        raise NotApplicable("Queries and keys are read where torch's fused attention is called, and this model computes attention in another way.")
    fused, now = torch.nn.functional.scaled_dot_product_attention, [0]

    def attention(query, key, value, *args, **kwargs):
        groups = query.shape[1] // key.shape[1]
        see(now[0], query, key.repeat_interleave(groups, 1) if groups > 1 else key)
        return fused(query, key, value, *args, **kwargs)

    with ExitStack() as stack:
        for i in range(model.n_layers):
            hook = lambda module, args, kwargs, i=i: now.__setitem__(0, i)
            stack.callback(model.blocks[i].get_submodule(model.layout.attn).register_forward_pre_hook(hook, with_kwargs=True).remove)
        torch.nn.functional.scaled_dot_product_attention = attention
        stack.callback(setattr, torch.nn.functional, "scaled_dot_product_attention", fused)
        yield


def hamming(q: torch.Tensor, k: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """Bits [..., query, key] in which the codes of q [..., query, d] and k [..., key, d] under planes [d, bits] differ."""
    a, b = ((v @ planes > 0).float() * 2 - 1 for v in (q, k))
    return (planes.shape[1] - a @ b.transpose(-1, -2)) / 2


def top(scores: torch.Tensor, k: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """bool [..., query, key]: the k largest among the keys up to the query; ties, of whole numbers, by lot."""
    if generator is not None:
        scores = scores + 0.5 * torch.rand(scores.shape, generator=generator).to(scores)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    chosen = scores.masked_fill(future, -torch.inf).topk(k, -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True) & ~future


def recall(model: Model, ids: torch.Tensor, keep: torch.Tensor, k: int, seed: int, progress) -> dict[str, np.ndarray]:
    """recall and mass float64 [method, bits, layer, head], chance float, true_mass [layer, head], by_sequence [method, bits, sequence].

    Recall is the share of the true k found, mean over queries that see at least 2k keys; mass the attention weight on the keys found.
    Coordinates have d_head bits only, so they fill one column. Tokens outside `keep` ask nothing; they stand on the right. Resumes
    after the last sequence that was finished.
    """
    h, length = heads(model.config), ids.shape[1]
    n, asks = len(METHODS), torch.arange(length) >= 2 * k - 1
    if not bool((asks & keep).any()):
        raise NotApplicable(f"No token of the text sees {2 * k} keys, so {k} of them cannot be chosen; ask for fewer keys or longer sequences.")
    found = np.zeros((2, n, len(BITS), model.n_layers, h.n_heads))
    true_mass, by_sequence = np.zeros((model.n_layers, h.n_heads)), np.full((n, len(BITS), len(ids)), np.nan)
    total, chance, at, first = 0, 0.0, [0], 0
    if kept := progress.saved():
        first, total, chance = int(kept["done"]), int(kept["total"]), float(kept["chance"])
        found, true_mass, by_sequence = (np.array(kept[name]) for name in ("found", "true_mass", "by_sequence"))

    def see(layer: int, q: torch.Tensor, key: torch.Tensor) -> None:
        q, key = q[0].float(), key[0].float()
        here = (asks & keep[at[0]]).to(q.device)
        scores = q @ key.transpose(1, 2)
        weights = (scores * q.shape[-1] ** -0.5).masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
        true = top(scores, k)
        mass = lambda chosen: (weights * chosen).sum(-1)[:, here].sum(1).cpu().numpy()
        true_mass[layer] += mass(true)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + at[0] * 1009 + layer)
        centred = key - key[:, keep[at[0]].to(key.device)].mean(1, keepdim=True)
        for m, method in enumerate(METHODS):
            for b, bits in enumerate(BITS if m < 2 else BITS[:1]):
                planes = torch.eye(q.shape[-1]) if m == 2 else torch.randn(q.shape[-1], bits, generator=torch.Generator().manual_seed(seed * 7919 + 101 * layer + bits))
                chosen = top(-hamming(q, centred if m == 1 else key, planes.to(q)), k, generator)
                hits = (chosen & true).sum(-1)[:, here].float() / k
                found[0, m, b, layer] += hits.sum(1).cpu().numpy()
                found[1, m, b, layer] += mass(chosen)
                by_sequence[m, b, at[0]] = np.nansum([by_sequence[m, b, at[0]], float(hits.mean()) / model.n_layers])

    with seeing(model, see), torch.inference_mode():
        for s in range(first, len(ids)):
            progress.step(s, len(ids), f"attention, sequence {s + 1} of {len(ids)}")
            here = asks & keep[s]
            if bool(here.any()):
                at[0] = s
                total += int(here.sum())
                chance += float((k / (torch.nonzero(here)[:, 0] + 1)).sum())
                model.module.get_submodule(model.layout.base)(input_ids=ids[s : s + 1].to(model.device), use_cache=False)
            progress.save(dict(done=s + 1, total=total, chance=chance, found=found, true_mass=true_mass, by_sequence=by_sequence))
    return dict(recall=found[0] / total, mass=found[1] / total, true_mass=true_mass / total, chance=np.float64(chance / total), by_sequence=by_sequence, n_queries=total)
