"""Training a compressed model back towards its original: norms and biases alone, or low-rank adapters beside the matrices.

Only what is named is a parameter; the model that runs is the old one with these written in, so nothing else can move, neither by
momentum nor by decay. Weights that share their storage (blocks made one) are trained as one. The last eighth of the text is held
out: the state with the lowest loss there is kept, the start included, so healing never ends worse on it than it began.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from metrics.model_bits import removed
from metrics.removal import attention_mask, next_tokens
from metrics.stored_bits import parameter_name, split_key
from models.layout import is_conv1d
from models.loaded import Model
from models.refusal import Refused
from models.shape import Matrix

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
LOOKS = 8  # times the held-out text is looked at
UP, DOWN = "up ", "down "  # before a matrix's key: B [out, rank] and A [rank, in] of its adapter


@dataclass(frozen=True, eq=False)
class Healed:
    """`values` by name (parameter, or UP/DOWN and a matrix key); held-out loss in nats [look] at each `step`, `kept` the step taken."""

    values: dict[str, torch.Tensor]
    step: np.ndarray
    held: np.ndarray
    kept: int


def norms_and_biases(model: Model) -> dict[str, tuple[str, ...]]:
    """Every vector of the model that is still used (norm scales, biases): the names under which one storage is known, by the first."""
    groups: dict[int, list[str]] = {}
    for name, p in model.module.named_parameters(remove_duplicate=False):
        if p.dim() == 1 and not removed(model, name):
            groups.setdefault(p.data_ptr(), []).append(name)
    return {names[0]: tuple(names) for names in groups.values()}


def adapters(matrices: tuple[Matrix, ...], rank: int, seed: int) -> dict[str, torch.Tensor]:
    """A of every adapter drawn from N(0, 1/in), B zero: the product starts at exactly zero."""
    generator, out = torch.Generator().manual_seed(seed), {}
    for m in matrices:
        r = min(rank, m.n_in, m.n_out)
        out[DOWN + m.key] = torch.randn(r, m.n_in, generator=generator) / m.n_in**0.5
        out[UP + m.key] = torch.zeros(m.n_out, r)
    return out


def with_adapter(weight: torch.Tensor, up: torch.Tensor, down: torch.Tensor, masked: bool) -> torch.Tensor:
    """W + B·A [out, in]; `masked` only where W is not zero, so that every zero stays one."""
    change = (up @ down).to(weight)
    return weight + (change * (weight != 0) if masked else change)


def written(model: Model, leaves: dict[str, torch.Tensor], groups: dict[str, tuple[str, ...]], masked: bool) -> dict[str, torch.Tensor]:
    """Parameters by name as their modules store them, with the leaves written in; differentiable."""
    parameters, out = dict(model.module.named_parameters(remove_duplicate=False)), {}
    for name, leaf in leaves.items():
        if name.startswith(UP):
            layer, matrix = split_key(name.removeprefix(UP))
            whole = with_adapter(model.matrix(layer, matrix).detach(), leaf, leaves[DOWN + name.removeprefix(UP)], masked)
            module = model.blocks[layer].get_submodule(matrix)
            out[parameter_name(model, layer, matrix)] = whole.T if is_conv1d(module) else whole
        elif not name.startswith(DOWN):
            out.update({n: leaf.to(parameters[n]) for n in groups[name]})
    return out


@contextmanager
def tail_states(model: Model, last: int):
    """While open, the outputs of the last `last` blocks of each run are put into the list that is handed out, cleared by the caller."""
    seen: list[torch.Tensor] = []
    keep = lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
    handles = [model.blocks[i].register_forward_hook(keep) for i in range(model.n_layers - last, model.n_layers)] if last else []
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def loss_of(logits: torch.Tensor, states: list, teacher: torch.Tensor | None, teacher_states: list, ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Nats per kept token: KL(teacher ‖ model), or −ln p of the next token where there is no teacher; with states also, for every
    block of the tail, ‖h − h*‖² / ‖h*‖² per token, averaged over blocks and added."""
    if teacher is None:
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), next_tokens(ids, keep).flatten(), ignore_index=-1)
    p, q = teacher[keep].float().log_softmax(-1), logits[keep].float().log_softmax(-1)
    loss = (p.exp() * (p - q)).sum(-1).mean()
    for state, wanted in zip(states, teacher_states):
        a, b = state[keep].float(), wanted[keep].float()
        loss = loss + ((a - b).square().sum(-1) / b.square().sum(-1).clamp(min=1e-12)).mean() / len(states)
    return loss


def heal(model: Model, teacher: Model | None, ids: torch.Tensor, keep: torch.Tensor, leaves: dict[str, torch.Tensor], groups: dict[str, tuple[str, ...]],
         *, masked: bool, tail: int, steps: int, batch: int, rate: float, seed: int, progress) -> Healed:
    """Adam with a rate that falls to zero along a line, on batches of sequences drawn by the seed; resumable."""
    if steps == 0 or not leaves:
        return Healed(leaves, np.zeros(0, np.int64), np.zeros(0), 0)
    if len(ids) < 2:
        raise Refused("Healing holds a part of its text out; expected at least 2 sequences, found 1.")
    aside = max(1, len(ids) // 8)
    train, test = slice(0, len(ids) - aside), slice(len(ids) - aside, len(ids))
    leaves = {n: x.to(model.device) for n, x in leaves.items()}
    with tail_states(model, tail) as states, tail_states(teacher or model, tail if teacher is not None else 0) as wanted:
        def run(values, rows, length: int) -> torch.Tensor:
            part, kept = ids[rows, :length].to(model.device), keep[rows, :length].to(model.device)
            mask, target = attention_mask(kept), None
            states.clear(), wanted.clear()
            if teacher is not None:
                target = teacher.logits(part, mask)
                want = [w.clone() for w in wanted]
                states.clear()  # where both are one module
            logits = torch.func.functional_call(model.module, written(model, values, groups, masked), kwargs=dict(input_ids=part, attention_mask=mask, use_cache=False)).logits
            return loss_of(logits, list(states), None if target is None else target.clone(), [] if target is None else want, part, kept)

        def held_out(values) -> float:
            with torch.no_grad():
                rows = np.arange(len(ids))[test]
                return float(np.mean([float(run(values, rows[i : i + batch], ids.shape[1])) for i in range(0, len(rows), batch)]))

        looks = sorted({round(steps * k / LOOKS) for k in range(1, LOOKS + 1)} - {0})
        kept = progress.saved()
        if kept:
            start, held, best = int(kept["step"]), list(kept["held"]), kept["best"]
            leaves, first, second = ({n: kept[part][n].to(model.device) for n in leaves} for part in ("leaves", "first", "second"))
            best = (int(best["step"]), float(best["loss"]), best["values"])
        else:
            first, second = ({n: torch.zeros_like(x) for n, x in leaves.items()} for _ in range(2))
            start, before = 0, held_out(leaves)
            held, best = [before], (0, before, leaves)
            progress.step(0, steps, "healing", live={"held-out loss": before})
        names = list(leaves)
        for step in range(start, steps):
            rows = np.random.default_rng([seed, step]).choice(len(ids) - aside, min(batch, len(ids) - aside), replace=False)
            asked = {n: x.requires_grad_(True) for n, x in leaves.items()}
            with torch.enable_grad():
                loss = run(asked, np.arange(len(ids))[train][rows], ids.shape[1])
                slopes = dict(zip(names, torch.autograd.grad(loss, [asked[n] for n in names], allow_unused=True)))
            now, leaves = rate * (1 - step / steps), {n: x.detach() for n, x in leaves.items()}
            for n, slope in slopes.items():
                if slope is None:
                    continue
                first[n] = BETA1 * first[n] + (1 - BETA1) * slope
                second[n] = BETA2 * second[n] + (1 - BETA2) * slope.square()
                mean, spread = first[n] / (1 - BETA1 ** (step + 1)), second[n] / (1 - BETA2 ** (step + 1))
                leaves[n] = leaves[n] - now * mean / (spread.sqrt() + EPSILON)
            live = {"loss": float(loss.detach())}
            if step + 1 in looks:
                held.append(held_out(leaves))
                live["held-out loss"] = held[-1]
                if held[-1] < best[1]:
                    best = (step + 1, held[-1], leaves)
            progress.save({"step": step + 1, "leaves": leaves, "first": first, "second": second, "held": held,
                           "best": {"step": best[0], "loss": best[1], "values": best[2]}})
            progress.step(step + 1, steps, f"healing, step {step + 1} of {steps}", live=live)
    return Healed({n: x.cpu() for n, x in best[2].items()}, np.array([0, *looks], np.int64), np.array(held), best[0])
