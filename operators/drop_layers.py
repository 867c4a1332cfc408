"""Remove whole blocks, attention or MLP sublayers.

Which ones is given (`blocks=3.4`, `attn=2`, `mlp=5`) or decided on a calibration text: the `count` lowest of a ranking.

    block_influence, attention, mlp   1 − cos of the stream without and with the block (ShortGPT, arXiv 2403.03853), attention or MLP
    joint                             attention and MLP in one list (What Matters in Transformers, arXiv 2406.15786)
    angular_span                      the `count` neighbouring blocks that turn the last token's stream least (arXiv 2403.17887)
    measured_kl, measured_kl_joint    blocks, or attention and MLP in one list, whose removal, one at a time, costs least KL
    last                              the deepest blocks but the final one (the baseline of 2403.17887); needs no text

One shot: nothing is measured again after a removal, so damages of several need not add up. A removed sublayer is masked: its
last matrix and bias are zero, so it adds exactly nothing to the stream, which in a pre-norm model equals taking it out; names
and indices stay, and it can be undone. Use it for speed on any hardware where some loss is acceptable. Not where similarity
alone chooses: measured damage disagrees with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from metrics.redundancy import best_spans
from metrics.removal import KINDS, batch_size, sweep, units
from metrics.similarity import similarities
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import Refused
from models.shape import Shape
from operators.contract import Storage

TITLE = "Drop layers"


@dataclass(frozen=True)
class Params:
    blocks: tuple[int, ...] = param((), "Blocks", first=True, low=0, help="Indices in the unmodified checkpoint, such as 3.4")
    attn: tuple[int, ...] = param((), "Attention of blocks", low=0)
    mlp: tuple[int, ...] = param((), "MLP of blocks", low=0)
    rank: Literal["given", "block_influence", "attention", "mlp", "joint", "angular_span", "measured_kl", "measured_kl_joint", "last"] = param(
        "given", "Chosen by", first=True, help="Given indices, or the lowest of a ranking on the calibration text")
    count: int = param(0, "How many", first=True, low=0, high=1024, help="Blocks, or sublayers where the ranking is of those. Only with a ranking.")


RANKED = {  # what a ranking ranks
    "block_influence": ("block",), "angular_span": ("block",), "measured_kl": ("block",), "last": ("block",),
    "attention": ("attn",), "mlp": ("mlp",), "joint": ("attn", "mlp"), "measured_kl_joint": ("attn", "mlp"),
}
NEUTRAL = (Params(), 0.0)
SWEEP = ("rank=measured_kl,count=1", "rank=measured_kl,count=2", "rank=measured_kl_joint,count=2")


@dataclass(frozen=True, eq=False)
class Plan:
    """What goes, and the ranking it was read from: `score` [candidate], its `layer` and `kind` (empty where nothing was ranked)."""

    attn: tuple[int, ...]
    mlp: tuple[int, ...]
    score: np.ndarray
    layer: np.ndarray
    kind: tuple[str, ...]


def calibrated(params: Params) -> bool:
    return params.rank not in ("given", "last")


def check(params: Params, shape: Shape) -> None:
    if params.rank == "given":
        return _check_given(params, shape)
    if params.blocks or params.attn or params.mlp:
        raise Refused(f"drop_layers got both indices and rank={params.rank}; give one of the two.")
    left = {(m.layer, m.kind) for m in shape.matrices}
    kinds = RANKED[params.rank]
    n = len(shape.layers) if kinds == ("block",) else sum(kind in kinds for _, kind in left)
    most = n if len(kinds) == 1 and kinds != ("block",) and len(left) > n else n - 1  # all of one kind may go while others stay
    if params.count > most:
        what = "block" if kinds == ("block",) else " and ".join({"attn": "attention", "mlp": "MLP"}[k] for k in kinds) + " sublayer"
        raise Refused(f"count={params.count} is too many: this model has {n} {what}{'s' * (n != 1)} left, and at most {most} can go.")


def foresee(params: Params, outline: Outline) -> Outline:
    """Exact where the indices are given; a ranking removes as many, here the last ones."""
    if params.rank == "given":
        return outline.without(frozenset(_sublayers(params)))
    kinds, layers = RANKED[params.rank], outline.shape.layers
    if kinds == ("block",):
        chosen = [layers[i] for i in (*range(len(layers) - 2, -1, -1), len(layers) - 1)][: params.count]
        return outline.without(frozenset((i, kind) for i in chosen for kind in ("attn", "mlp")), sure=params.rank == "last")
    left = sorted({(m.layer, m.kind) for m in outline.shape.matrices if m.kind in kinds}, reverse=True)
    return outline.without(frozenset(left[: params.count]), sure=len(kinds) == 1)


def _check_given(params: Params, shape: Shape) -> None:
    if params.count:
        raise Refused(f"count={params.count} needs a ranking; add rank= one of {', '.join(RANKED)}.")
    for name in ("blocks", "attn", "mlp"):
        layers = getattr(params, name)
        beyond = [i for i in layers if i >= shape.n_layers]
        if beyond:
            raise Refused(f"{name}={'.'.join(map(str, layers))}: there is no block {beyond[0]}; the model has blocks 0–{shape.n_layers - 1}.")
    left = {(m.layer, m.kind) for m in shape.matrices}
    if left and left <= _sublayers(params):
        raise Refused("This removes every block that is left; leave at least one sublayer.")


def _sublayers(params: Params) -> set[tuple[int, str]]:
    whole = {(i, kind) for i in params.blocks for kind in ("attn", "mlp")}
    return whole | {(i, "attn") for i in params.attn} | {(i, "mlp") for i in params.mlp}


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    if params.rank == "given":
        return _plan(_sublayers(params))
    if params.count == 0:
        return _plan(())
    if params.rank == "last":
        order = [*model.layers[-2::-1], model.layers[-1]]
        return _lowest(np.arange(len(order)), [(i, "block") for i in order], params.count)
    kinds = RANKED[params.rank]
    if params.rank.startswith("measured_kl"):
        return _by_damage(model, kinds, params.count, calibration, progress)
    found = similarities(model, calibration.ids, calibration.keep, progress)
    if params.rank == "angular_span":
        starts = range(len(model.layers) - params.count + 1)
        start = dict(best_spans(found.angular))[params.count]
        plan = _plan((i, kind) for i in model.layers[start : start + params.count] for kind in ("attn", "mlp"))
        scores = np.array([found.angular[i, i + params.count] for i in starts])
        return Plan(plan.attn, plan.mlp, scores, np.array([model.layers[i] for i in starts]), ("span",) * len(scores))
    scores = [(found.scores[KINDS.index(kind), i, 0], (layer, kind)) for kind in kinds for i, layer in enumerate(model.layers)]
    left = [(score, unit) for score, unit in scores if not np.isnan(score)]
    return _lowest(np.array([score for score, _ in left]), [unit for _, unit in left], params.count)


def _by_damage(model: Model, kinds: tuple[str, ...], count: int, calibration, progress) -> Plan:
    wanted = units(model, kinds)
    n_batches = -(-len(calibration.ids) // batch_size(calibration.ids.shape[1], model.config.vocab_size))
    done = 0

    def step(unit) -> None:
        nonlocal done
        progress.step(done, n_batches * len(wanted), f"removing {unit.written}")
        done += 1

    sums = sweep(model, calibration.ids, calibration.keep, wanted, step)
    return _lowest(sums.kl[:, 0].sum(-1) / sums.tokens[0].sum(), [(unit.layer, unit.kind) for unit in wanted], count)


def _lowest(scores: np.ndarray, candidates: list[tuple[int, str]], count: int) -> Plan:
    """The `count` lowest; ties to the first in the list."""
    chosen = [candidates[i] for i in np.argsort(scores, kind="stable")[:count]]
    plan = _plan((i, k) for i, kind in chosen for k in (("attn", "mlp") if kind == "block" else (kind,)))
    return Plan(plan.attn, plan.mlp, np.asarray(scores, float), np.array([i for i, _ in candidates]), tuple(kind for _, kind in candidates))


def _plan(sublayers) -> Plan:
    sublayers = set(sublayers)
    pick = lambda kind: tuple(sorted(i for i, k in sublayers if k == kind))
    return Plan(pick("attn"), pick("mlp"), np.zeros(0), np.zeros(0, int), ())


def apply(model: Model, plan: Plan) -> None:
    model.remove(frozenset([(i, "attn") for i in plan.attn] + [(i, "mlp") for i in plan.mlp]))


def storage(model: Model, plan: Plan) -> Storage:
    """Nothing of what was removed is kept once the model is exported; `model` is the original or the variant."""
    names = {"attn": (*model.layout.attn_inputs, model.layout.attn_output)}
    names["mlp"] = tuple(n for n in model.layout.matrices() if n not in names["attn"])
    weights = sum(model.matrix(i, n).numel() for kind in ("attn", "mlp") for i in getattr(plan, kind) for n in names[kind])
    return Storage(0.0, weights, True, "removed weights are not stored; faster everywhere once exported")
