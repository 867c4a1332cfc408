"""Which feed-forward neurons hold a passage? The known ways to ask, each a score per neuron of every block, float64 [d_mlp].

    contrast        ‖w_j‖ (rms_j on the suffix − rms_j on the base text)             Chavhan et al. 2024, whole neurons
    size            ‖w_j‖ rms_j on the suffix: the same without contrast
    activation      ‖w_j‖ |mean h_j over the suffix|
    zero_out        rise of the suffix's nats when neuron j alone is zeroed
    gradients       integrated gradients of the mean p(suffix token), from a block of zeros to the block as it is, 20 steps
    slimming        a coefficient in [0, 1] per neuron, learned on the suffix's nats plus a price on the coefficients
    hard_concrete   a stochastic gate per neuron, learned on the suffix's nats plus the expected number of open gates

w_j is the neuron's column of the output projection, h_j its activation, “the suffix” the positions that predict one. The last five
are carried from Chang, Thomason & Jia (NAACL 2024), where the two learned ones did best; prices and step sizes are this program's
own. Gradients are taken with all neurons and positions of a block scaled together, so that they sum to the block's effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metrics import memorized
from metrics.extraction import Passages, suffix_nats
from metrics.residuals import head, record, run_on
from models.loaded import Model
from models.progress import Quiet

LOCATORS = ("contrast", "size", "activation", "zero_out", "gradients", "slimming", "hard_concrete")
Scores = dict[int, "torch.Tensor"]
INTEGRATION = 20
SLIMMING = dict(steps=100, rate=0.02, price=100.0)  # a price of 2 leaves hundreds of coefficients at 1, whatever the neurons hold
HARD_CONCRETE = dict(steps=100, rate=0.05, price=100.0)  # at 2 the noise of the draws outweighs the price, and larger steps follow that noise
LOW, HIGH, HEAT = -0.1, 1.1, 2 / 3  # of the stretched concrete distribution (Louizos et al. 2018)


def locate(by: str, model: Model, p: Passages, base: memorized.Sizes, seed: int = 0, progress=None) -> Scores:
    """Scores of one locator on these passages together; `base` is read by the contrast only."""
    progress = progress or Quiet()
    if by in ("contrast", "size"):
        mem = memorized.of_passages(model, p)
        return {i: memorized.neuron_scores(memorized.output_matrix(model, i), x, base.rms[i] if by == "contrast" else None) for i, x in mem.rms.items()}
    if by in ("slimming", "hard_concrete"):
        return {"slimming": slimming, "hard_concrete": hard_concrete}[by](model, p, seed=seed, progress=progress)
    return {"activation": activation, "zero_out": zero_out, "gradients": gradients}[by](model, p, progress)


def blocks_of(model: Model) -> tuple[int, ...]:
    """Blocks whose feed-forward part is left."""
    return tuple(i for i in model.layers if (i, "mlp") not in model.removed)


@contextmanager
def scaled(model: Model, gates: dict[int, torch.Tensor]) -> Iterator[None]:
    """While open, what enters block i's output projection is multiplied by gates[i], broadcast over [sequence, position, neuron]."""
    handles = []
    for i, gate in gates.items():
        module, _ = model.site(i, "mlp_post")
        handles.append(module.register_forward_pre_hook(lambda _, args, gate=gate: (args[0] * gate.to(args[0].dtype), *args[1:])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def activations(model: Model, p: Passages) -> dict[int, torch.Tensor]:
    """What enters every output projection, [passage, position, neuron] by block; for a few passages."""
    seen, handles = {}, []
    for i in blocks_of(model):
        module, _ = model.site(i, "mlp_post")
        handles.append(module.register_forward_pre_hook(lambda _, args, i=i: seen.update({i: args[0]})))
    try:
        model.logits(p.ids)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def activation(model: Model, p: Passages, progress=None) -> Scores:
    counted = p.predicting.to(model.device)
    share = (counted / counted.sum(1, keepdim=True)).double()
    return {i: torch.einsum("pt,ptj->pj", share, h.double()).abs().mean(0).cpu() * memorized.output_matrix(model, i).double().norm(dim=0).cpu()
            for i, h in activations(model, p).items()}


def zero_out(model: Model, p: Passages, progress=None, batch: int = 128) -> Scores:
    """Exact, one neuron at a time: what it wrote, h_j w_j, is taken out of the stream after its block and only the later blocks run
    again. Blocks with a norm after the MLP are run again themselves."""
    progress, at = progress or Quiet(), {layer: i for i, layer in enumerate(model.layers)}
    scores = {i: torch.zeros(memorized.output_matrix(model, i).shape[1], dtype=torch.float64) for i in blocks_of(model)}
    done, total, to_logits = 0, len(p) * sum(map(len, scores.values())), head(model)
    simple = not model.layout.mlp_post_norm
    for k in range(len(p)):
        one = p[k : k + 1]
        ids = one.ids[:, : int(one.end[0])]
        one = Passages(ids, one.start, one.end, one.row)
        seen, fired = record(model, ids), activations(model, one)
        with torch.inference_mode():
            whole = float(suffix_nats(to_logits(seen.post), one)[0])
            for i, score in scores.items():
                w, after = memorized.output_matrix(model, i), seen.states[at[i] + 1]
                for lo in range(0, len(score), batch):
                    n = min(batch, len(score) - lo)
                    many = Passages(ids.expand(n, -1), one.start.expand(n), one.end.expand(n), one.row.expand(n))
                    if simple:
                        written = fired[i][0, :, lo : lo + n].T[:, :, None] * w[:, lo : lo + n].T[:, None, :]
                        stream = run_on(model, seen, at[i] + 1, (after - written).to(after.dtype))
                    else:
                        gate = torch.ones(n, 1, len(score), device=model.device)
                        gate[torch.arange(n), 0, lo + torch.arange(n)] = 0
                        with scaled(model, {i: gate}):
                            stream = run_on(model, seen, at[i], seen.pre[at[i]].expand(n, -1, -1))
                    score[lo : lo + n] += (suffix_nats(to_logits(stream), many).double().cpu() - whole) / len(p)
                    done += n
                    progress.step(done, total, f"zeroing neurons one by one, block {i}")
    return scores


def gradients(model: Model, p: Passages, progress=None, steps: int = INTEGRATION) -> Scores:
    """Σ over positions of h_j · ∫ ∂p/∂h_j dα at α h, midpoint rule; p is the mean probability of the suffix's tokens."""
    progress, scores = progress or Quiet(), {}
    blocks = blocks_of(model)
    for n, i in enumerate(blocks):
        total = 0.0
        for step in range(steps):
            alpha = torch.full((memorized.output_matrix(model, i).shape[1],), (step + 0.5) / steps, device=model.device, requires_grad=True)
            with scaled(model, {i: alpha}):
                share = suffix_probability(model, p).mean()
            total = total + torch.autograd.grad(share, [alpha])[0].double().cpu() / steps
        scores[i] = total
        progress.step(n + 1, len(blocks), "integrated gradients")
    return scores


def suffix_probability(model: Model, p: Passages) -> torch.Tensor:
    """Mean p of each passage's suffix tokens, [passage], with gradient."""
    logits = model.module(input_ids=p.ids.to(model.device), use_cache=False).logits[:, :-1].float()
    counted, target = p.predicting[:, :-1].to(logits.device), p.ids[:, 1:].to(logits.device)
    chosen = logits.softmax(-1).gather(2, target[:, :, None])[..., 0]
    return (chosen * counted).sum(1) / counted.sum(1)


def _nats(model: Model, p: Passages) -> torch.Tensor:
    return suffix_nats(model.module(input_ids=p.ids.to(model.device), use_cache=False).logits[:, :-1], p).mean()


def slimming(model: Model, p: Passages, seed: int = 0, progress=None, steps: int = SLIMMING["steps"], rate: float = SLIMMING["rate"], price: float = SLIMMING["price"]) -> Scores:
    """Coefficients that start at 1 and pay `price` / (number of neurons) nats each; what is not needed for the suffix falls to 0."""
    progress = progress or Quiet()
    gates = {i: torch.ones(memorized.output_matrix(model, i).shape[1], device=model.device, requires_grad=True) for i in blocks_of(model)}
    n = sum(map(len, gates.values()))
    optimiser = torch.optim.Adam(gates.values(), lr=rate)
    mean = {i: torch.zeros(len(g), dtype=torch.float64) for i, g in gates.items()}
    for step in range(steps):
        with scaled(model, gates):
            nats = _nats(model, p)
        _descend(optimiser, nats + price * sum(g.sum() for g in gates.values()) / n)
        with torch.no_grad():
            for i, g in gates.items():
                g.clamp_(0, 1)
                mean[i] += g.double().cpu() / steps  # over the whole descent: how long a neuron held out orders those that end at the same value
        progress.step(step + 1, steps, "slimming", {"nats": float(nats.detach())})
    return mean


def hard_concrete(model: Model, p: Passages, seed: int = 0, progress=None, steps: int = HARD_CONCRETE["steps"], rate: float = HARD_CONCRETE["rate"], price: float = HARD_CONCRETE["price"]) -> Scores:
    """Gates clamp(s (HIGH − LOW) + LOW, 0, 1), s = σ((ln u − ln(1−u) + a) / HEAT); the score is P(open) = σ(a − HEAT ln(−LOW / HIGH)), which starts at ½."""
    progress, generator = progress or Quiet(), torch.Generator().manual_seed(seed)
    half = HEAT * torch.log(torch.tensor(-LOW / HIGH))  # P(open) = σ(a − half)
    logs = {i: (torch.zeros(memorized.output_matrix(model, i).shape[1]) + half).to(model.device).requires_grad_() for i in blocks_of(model)}
    n = sum(map(len, logs.values()))
    optimiser = torch.optim.Adam(logs.values(), lr=rate)
    for step in range(steps):
        gates = {}
        for i, a in logs.items():
            u = torch.rand(len(p), 1, len(a), generator=generator).clamp(1e-6, 1 - 1e-6).to(a)
            gates[i] = (torch.sigmoid((u.log() - (1 - u).log() + a) / HEAT) * (HIGH - LOW) + LOW).clamp(0, 1)
        with scaled(model, gates):
            nats = _nats(model, p)
        _descend(optimiser, nats + price * sum(torch.sigmoid(a - half).sum() for a in logs.values()) / n)
        progress.step(step + 1, steps, "hard concrete gates", {"nats": float(nats.detach())})
    return {i: torch.sigmoid(a.detach() - half).double().cpu() for i, a in logs.items()}


def _descend(optimiser, loss: torch.Tensor) -> None:
    """One step on the optimiser's own tensors; the model's parameters are left without gradients."""
    tensors = [t for group in optimiser.param_groups for t in group["params"]]
    for t, slope in zip(tensors, torch.autograd.grad(loss, tensors)):
        t.grad = slope
    optimiser.step()
