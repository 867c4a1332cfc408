"""Planted memories, to test what locates them: a passage written into chosen feed-forward neurons, and single passages deleted.

INJ: a random share of all feed-forward neurons is drawn; only their columns of the output projections are trained, on one passage
that the model never saw, until its nats per token fall below a target. Which neurons hold it is then known.
DEL: one passage is located and its neurons are zeroed, never those of the first block; what that does to it, to the other passages
and to natural text. After Chang, Thomason & Jia (NAACL 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metrics import memorized
from metrics.attribution import Scores, blocks_of
from metrics.extraction import Passages, suffix_nats
from models.loaded import Model
from models.progress import Quiet


@dataclass(frozen=True, eq=False)
class Injected:
    """`model` knows the passage; `gold` are the neurons that were trained, bool [d_mlp] by block; `nats` before and after."""

    model: Model
    gold: dict[int, torch.Tensor]
    before: float
    after: float
    steps: int


def inject(model: Model, p: Passages, share: float = 0.01, seed: int = 0, steps: int = 200, rate: float = 0.01, target: float = 0.05, progress=None) -> Injected:
    """Train `share` of all neurons' output columns on the suffixes of `p`, Adam, at most `steps`, until the mean nats ≤ target."""
    progress, generator = progress or Quiet(), torch.Generator().manual_seed(seed)
    matrices = {i: memorized.output_matrix(model, i) for i in blocks_of(model)}
    sizes = [w.shape[1] for w in matrices.values()]
    drawn = torch.zeros(sum(sizes), dtype=torch.bool)
    drawn[torch.randperm(len(drawn), generator=generator)[: max(1, round(share * len(drawn)))]] = True
    gold = dict(zip(matrices, drawn.split(sizes)))
    change = {i: torch.zeros(w.shape[0], int(gold[i].sum()), device=model.device, requires_grad=True) for i, w in matrices.items() if gold[i].any()}
    handles = [model.site(i, "mlp_post")[0].register_forward_hook(
        lambda _, args, out, d=d, at=gold[i].to(model.device): out + (args[0][..., at].float() @ d.T).to(out)) for i, d in change.items()]
    optimiser = torch.optim.Adam(change.values(), lr=rate)
    nats = []
    try:
        for step in range(steps + 1):
            loss = suffix_nats(model.module(input_ids=p.ids.to(model.device), use_cache=False).logits[:, :-1], p).mean()
            nats.append(float(loss.detach()))
            if step == steps or nats[-1] <= target:
                break
            for d, slope in zip(change.values(), torch.autograd.grad(loss, list(change.values()))):
                d.grad = slope
            optimiser.step()
            progress.step(step + 1, steps, "writing a passage into neurons", {"nats": nats[-1]})
    finally:
        for handle in handles:
            handle.remove()
    variant = model.copy(f"{model.written} with a passage written in")
    for i, d in change.items():
        w = matrices[i].clone()
        w[:, gold[i].to(w.device)] += d.detach().to(w)
        variant.set_matrix(i, model.layout.mlp_output, w)
    return Injected(variant, gold, nats[0], nats[-1], len(nats) - 1)


def recall(scores: Scores, gold: dict[int, torch.Tensor], share: float) -> float:
    """Share of the gold neurons among the top round(share · d_mlp), at least one, of every block; `share` is what chance gives."""
    hits = sum(int(gold[i][s.topk(max(1, round(share * len(s)))).indices].sum()) for i, s in scores.items())
    return hits / max(sum(int(g.sum()) for g in gold.values()), 1)


def without_first(masks: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """DEL's masks: the first block's neurons hold what every text needs, and are left alone."""
    return {i: mask for n, (i, mask) in enumerate(masks.items()) if n}
