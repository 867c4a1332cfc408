"""What merges share: parents of one shape, their units put in the first one's order, task vectors, and the merged weights as a Plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from metrics.permutation.activations import activation_matching
from metrics.permutation.differentiable import mean_loss
from metrics.permutation.many import merge_many
from metrics.permutation.matching import weight_matching
from metrics.permutation.sinkhorn import sinkhorn_matching
from metrics.permutation.spec import Maps, apply as reorder, identity
from metrics.permutation.transformer import checked, folded, require_one_shape, symmetry_of
from metrics.stored_bits import dtype_bits
from models.loaded import Model
from models.outline import Outline
from models.progress import Stage
from models.refusal import Refused
from operators.contract import Storage

ALIGN = ("none", "weights", "activations", "learned", "merge_many")
LEARN_BATCH = 4  # sequences of a learning step
HOW = "as large as one parent, at the model's dtype"

State = dict[str, "torch.Tensor"]


@dataclass(frozen=True, eq=False)
class Merged:
    """Every parameter of the merged model by name, as stored; `untied` where the head has weights of its own that no parent had;
    `removed` sublayers that all parents lack."""

    tensors: dict[str, torch.Tensor]
    untied: bool
    removed: tuple


def put(model: Model, plan: Merged) -> None:
    """Turn a copy of the first parent into the merged model."""
    if plan.untied:
        head = model.module.get_submodule(model.layout.unembed)
        head.weight = torch.nn.Parameter(head.weight.detach(), requires_grad=False)
        model.config.tie_word_embeddings = False
    model.set_parameters({name: value.to(model.device) for name, value in plan.tensors.items()})
    model.bits.clear()
    model.removed = frozenset((int(layer), kind) for layer, kind in plan.removed)


def plan_of(models: tuple[Model, ...], tensors: State, untied: bool = False) -> Merged:
    """The merged weights at the parents' dtype, without names that the first parent has already with these values."""
    own = dict(models[0].module.named_parameters())
    stored = {name: value.to(own[name].dtype if name in own else next(iter(own.values())).dtype).contiguous() for name, value in tensors.items()}
    changed = {name: value for name, value in stored.items() if name not in own or not torch.equal(value, own[name])}
    return Merged(changed, untied, tuple(sorted(frozenset.intersection(*(m.removed for m in models)))))


def require_parents(models: tuple[Model, ...]) -> None:
    """Refused where the parents are not of one shape, vocabulary and dtype."""
    for other in models[1:]:
        require_one_shape(models[0], other)
        if next(other.module.parameters()).dtype != next(models[0].module.parameters()).dtype:
            raise Refused("The parents are read in different dtypes; give all of them the same one.")


def states(models: tuple[Model, ...]) -> list[State]:
    """All parameters of each parent by name, float64."""
    require_parents(models)
    return [{name: p.detach().double() for name, p in m.module.named_parameters()} for m in models]


def task_vectors(models: tuple[Model, ...]) -> tuple[State, list[State]]:
    """(base, [model − base]) of parents whose first is the base."""
    base, *others = states(models)
    return base, [{name: other[name] - base[name] for name in base} for other in others]


def flat(state: State) -> torch.Tensor:
    """One vector of all parameters, in the order of their names."""
    return torch.cat([state[name].reshape(-1) for name in state])


def unflat(vector: torch.Tensor, like: State) -> State:
    parts = vector.split([t.numel() for t in like.values()])
    return {name: part.view(t.shape) for (name, t), part in zip(like.items(), parts)}


def ordered(models: tuple[Model, ...], align: str, stream: str, steps: int, calibration, progress) -> tuple[list[State], bool]:
    """(the parents' parameters with all units in the first one's order, whether the head came apart from the embedding).

    `stream` "rotated" folds norms into the matrices and rotates the others' residual streams; with align "none" nothing is done.
    """
    require_parents(models)
    if align == "none":
        return states(models), False
    tied = bool(getattr(models[0].config, "tie_word_embeddings", False))
    if stream == "rotated":
        models = tuple(folded(m) for m in models)
    symmetry = checked(models[0], symmetry_of(models[0], rotate=stream == "rotated"))
    pieces = [symmetry.pieces(m) for m in models]
    if align == "merge_many":
        maps = merge_many(symmetry.spec, pieces, progress=progress).maps
    else:
        share = 1 / max(len(models) - 1, 1)
        maps = [identity(symmetry.spec)]
        for i, other in enumerate(models[1:]):
            maps.append(_order(models[0], other, symmetry, pieces[0], pieces[i + 1], align, steps, calibration, Stage(progress, i * share, (i + 1) * share).part(str(i))))
    moved = [symmetry.joined(reorder(symmetry.spec, p, m)) for p, m in zip(pieces, maps)]
    rest = {name: p for name, p in models[0].module.named_parameters() if name not in moved[0]}  # inside heads: never reordered
    others = [dict(m.module.named_parameters()) for m in models]
    return [{name: t.double() for name, t in s.items()} | {name: o[name].detach().double() for name in rest} for s, o in zip(moved, others)], tied and stream == "rotated"


def _order(first: Model, other: Model, symmetry, a: State, b: State, align: str, steps: int, calibration, progress) -> Maps:
    if align == "activations":
        return activation_matching(first, other, symmetry, calibration.ids, calibration.keep, progress=progress)
    found = weight_matching(symmetry.spec, a, b, progress=progress).maps
    if align == "weights":
        return found
    n = len(calibration.ids)

    def loss(merged: State, step: int) -> torch.Tensor:
        at = torch.arange(step * LEARN_BATCH, (step + 1) * LEARN_BATCH) % n
        return mean_loss(first, symmetry.joined(merged), calibration.ids[at], calibration.keep[at])

    return sinkhorn_matching(symmetry.spec, a, b, loss, start=found, steps=steps, progress=progress).maps


def shares(weights: tuple[int, ...], n: int) -> list[float]:
    """Relative weights of n parents as shares that sum to 1; none means equal ones."""
    given = weights or (1,) * n
    if len(given) != n or min(given) < 0 or sum(given) == 0:
        raise Refused(f"weights = {'.'.join(map(str, weights))} does not weigh {n} parents; expected {n} whole numbers, not all 0, such as {'.'.join(['1'] * n)}.")
    return [w / sum(given) for w in given]


def same_size(outline: Outline) -> Outline:
    """What a merge of full weights leaves: the shape of a parent, every weight at its dtype."""
    return replace(outline, bits={}, zeros={}, removed=frozenset())


def stored(model: Model) -> Storage:
    weights = sum(p.numel() for p in model.module.parameters())
    return Storage(float(weights * dtype_bits(model)), weights, False, HOW)
