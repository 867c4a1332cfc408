"""The numbers: table and masks from the store or trained, then every model that the masks make, scored on the measured text."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from analysis.bigram_subnetwork import controls, generation, imported, training
from analysis.bigram_subnetwork.result import CURVES, LENS, ROLES, Result
from analysis.bigram_subnetwork.scores import Score, Yardstick, depth, score
from analysis.bigram_subnetwork.wanted import numbers, schedule_of
from metrics import subnetworks
from metrics.mask_training import Trained, Wish
from metrics.subnetworks import Masks
from models.loaded import Model
from models.progress import Stage
from models.refusal import Refused
from models.shape import shape_of

__all__ = ["Result", "compute"]


@dataclass(frozen=True, eq=False)
class Named:
    """A mask and where it comes from, as in Result.kind."""

    kind: str
    penalty: float
    masks: Masks
    trained: Trained | None = None


def compute(captures, params, progress) -> Result:
    subject, *others = captures
    before = others.pop(0) if subject.variant.steps and not subject.variant.parents else None
    with subject.model() as model:
        progress.step(0, 0, "counting bigrams")
        text = training.text_of(subject, model, params, progress)
        return study(subject, model, text, params, progress, before, others)


def study(capture, model: Model, text: training.Text, params, progress, before=None, along=()) -> Result:
    """Everything but the reading of text; `before` and `along` are captures of other variants."""
    shape_of(model).chosen("all")
    schedule, wishes = schedule_of(params), [Wish(x) for x in numbers(params.penalties)]
    wanted = wishes + [Wish(x, "model") for x in numbers(params.optimal)]
    if not wishes and not params.masks:
        raise Refused("There is no λ to train a mask with and no imported mask; give at least one number, such as 0 10 100.")
    brought = [Named("imported", float("nan"), imported.read(params.masks, capture.lab.home, model))] if params.masks else []  # refused before anything is trained
    stages = _Stages(progress, schedule, text, max(len(wanted), 1))
    stages.plan(len(wanted) + len(wishes) * ((before is not None) + len(along)) + 2 * params.controls, len(wanted) + len(wishes) * (before is not None), params)
    found = _masks(capture, model, text, wanted, schedule, stages, "bigram") + brought
    moved = {}
    if before is not None:
        with before.model() as original:
            old = _masks(before, original, text, wishes, schedule, stages, "before")
            moved = {len(found) + i: _kept(original, model, named.masks) for i, named in enumerate(old)}
            found += old
    yardstick = Yardstick.of(text, params)
    scored = _scores(model, found, yardstick, params, stages)
    return Result(
        **_about(found, model, schedule), **scored, **_pairs(found), **_depths(model, found, yardstick, params, stages),
        pruned=np.array([moved[i][:3] if i in moved else [np.nan] * 3 for i in range(len(found))]).reshape(-1, 3),
        moved=np.array([moved[i][3:] if i in moved else [np.nan] * 2 for i in range(len(found))]).reshape(-1, 2),
        **_texts(model, found, text, params, stages), **_along(along, model, text, wishes, schedule, yardstick, stages),
        **controls.measured(capture, model, text, params, schedule, yardstick, stages), **_text_facts(text, yardstick, params),
    )


class _Stages:
    """One scale for the whole run, in training steps of the first batch of masks; a scored forward counts by its tokens."""

    def __init__(self, progress, schedule, text: training.Text, together: int):
        self.whole, self.together, self.steps = progress, together, schedule.steps
        self.tokens_of_step = 3 * schedule.rows * text.train_ids.shape[1] * together
        self.tokens = text.ids.numel()
        self.done = self.total = 0.0

    def plan(self, n_masks: int, n_scored: int, params) -> None:
        self.total = n_masks / self.together * self.steps + (2 + n_scored * (2 + 2 * params.draws)) * self.tokens / self.tokens_of_step

    def train(self, n_masks: int) -> Stage:
        return self._stage(n_masks / self.together * self.steps)

    def passed(self, message: str) -> None:
        """One forward over the measured text."""
        self._stage(self.tokens / self.tokens_of_step).step(1, 1, message)

    def still(self, message: str) -> None:
        """Something too short to move the bar."""
        Stage(self.whole, self.done / self.total, self.done / self.total).step(1, 1, message)

    def _stage(self, length: float) -> Stage:
        begin, self.done = self.done, min(self.done + length, self.total)
        return Stage(self.whole, begin / self.total, self.done / self.total)


def _masks(capture, model: Model, text: training.Text, wishes: list[Wish], schedule, stages: _Stages, kind: str) -> list[Named]:
    trained = training.masks(capture, model, text, wishes, schedule, stages.train(len(wishes)))
    shape = shape_of(model)
    return [Named("optimal" if wish.target == "model" else kind, wish.penalty, subnetworks.unpacked(t.kept, shape), t) for wish, t in zip(wishes, trained)]


def _kept(original: Model, model: Model, masks: Masks) -> tuple[float, ...]:
    """What compression did to the weights of a mask trained before it: (share zero now, of all weights, z; change, of all)."""
    gone = inside = n = 0
    change, size = np.zeros(2), np.zeros(2)
    expected = variance = 0.0
    for m in shape_of(original).matrices:
        mask, old = masks[m.key], original.matrix(m.layer, m.name).float().cpu()
        new = torch.zeros_like(old) if (m.layer, m.kind) in model.removed else model.matrix(m.layer, m.name).float().cpu()
        zero = (new == 0) & (old != 0)
        k, l, total = int(mask.sum()), int(zero.sum()), mask.numel()
        gone, inside, n = gone + l, inside + int((zero & mask).sum()), n + total
        expected += k * l / total
        variance += k * l * (total - k) * (total - l) / (total**2 * max(total - 1, 1))
        for i, chosen in enumerate((mask & ~zero, ~zero)):
            change[i] += float(((new - old) * chosen).square().sum())
            size[i] += float((old * chosen).square().sum())
    active = subnetworks.n_active(masks)
    z = (inside - expected) / variance**0.5 if variance > 0 else 0.0
    return (inside / max(active, 1), gone / n, z, *np.sqrt(change / np.maximum(size, 1e-30)))


def _about(found: list[Named], model: Model, schedule) -> dict:
    counts = [subnetworks.where(model, named.masks) for named in found]
    everything = subnetworks.where(model, {key: torch.ones_like(mask) for key, mask in subnetworks.nothing(shape_of(model)).items()})
    trained = [named.trained for named in found]
    steps = max((len(t.loss) for t in trained if t), default=0)
    curves = np.full((len(CURVES), len(found), steps), np.nan)
    for i, t in enumerate(trained):
        if t:
            curves[:, i, : len(t.loss)] = t.loss, t.active, t.r, t.undecided
    of = lambda name, missing: np.array([getattr(t, name) if t else missing for t in trained])
    return dict(
        kind=np.array([named.kind for named in found]), penalty=np.array([named.penalty for named in found]),
        active=np.array([subnetworks.n_active(named.masks) for named in found]), n_weights=int(everything.layer.sum()), n_layers=model.n_layers,
        components=subnetworks.components(model), n_heads=shape_of(model).heads.n_heads, n_kv=shape_of(model).heads.n_kv,
        layer=np.stack([c.layer for c in counts]), layer_total=everything.layer, head=np.stack([c.head for c in counts]), head_total=everything.head,
        curves=curves, gap=np.array([t.hard_loss - t.loss[-1] if t else np.nan for t in trained]),
        settled=of("settled", True), stable=of("stable", True), attempt=of("attempt", 0), schedule=asdict(schedule),
    )


def _scores(model: Model, found: list[Named], yardstick: Yardstick, params, stages: _Stages) -> dict:
    shape = shape_of(model)
    whole = score(model, yardstick)
    stages.passed("scoring the whole model")
    empty = score(subnetworks.subnetwork(model, subnetworks.nothing(shape)), yardstick, whole)
    stages.passed("scoring the empty subnetwork")
    there = _there(model)
    n = len(found)
    r, loss, excess, to_model = np.full((2, n, 4, 3), np.nan), np.full((n, 4, 3), np.nan), np.full((n, 4, 3), np.nan), np.full((n, 3), np.nan)
    for i, named in enumerate(found):
        draws = [named.masks] + ([subnetworks.shuffled(named.masks, params.seed + d, there) for d in range(params.draws)] if named.kind != "optimal" else [])
        scores: dict[int, list[Score]] = {role: [] for role in range(4)}
        for d, masks in enumerate(draws):
            for role, shown in ((0, masks), (2, subnetworks.complement(masks))):
                scores[role + (d > 0)].append(score(subnetworks.subnetwork(model, shown), yardstick, whole))
                stages.passed(f"scoring mask {i + 1} of {n}, {ROLES[role + (d > 0)]}")
        to_model[i] = scores[0][0].to_model
        for role, each in scores.items():
            if each:
                r[:, i, role] = np.stack([_pooled([s.r[rule] for s in each], role) for rule in range(2)])
                loss[i, role], excess[i, role] = (_pooled([getattr(s, name) for s in each], role) for name in ("loss", "excess"))
    pair = (whole, empty)
    return dict(r=r, loss=loss, excess=excess, to_model=to_model, base_r=np.stack([s.r for s in pair], 1), base_loss=np.stack([s.loss for s in pair]),
                base_excess=np.stack([s.excess for s in pair]))


def _there(model: Model) -> Masks:
    """Where a random-matched mask may lie: weights that are not zero already."""
    return {m.key: model.matrix(m.layer, m.name).cpu() != 0 for m in shape_of(model).matrices}


def _pooled(values: list[np.ndarray], role: int) -> np.ndarray:
    """(value, low, high) of one model, or mean and range of the draws."""
    if role in (0, 2):
        return values[0]
    each = np.array([v[0] for v in values])
    return np.array([each.mean(), each.min(), each.max()])


def _pairs(found: list[Named]) -> dict:
    pairs = [(i, j) for j in range(len(found)) for i in range(j) if found[i].kind != found[j].kind]
    shared = [subnetworks.overlap(found[i].masks, found[j].masks) for i, j in pairs]
    return dict(pair=np.array(pairs, int).reshape(-1, 2), shared=np.array([list(asdict(s).values()) for s in shared], float).reshape(-1, 7))


def _depths(model: Model, found: list[Named], yardstick: Yardstick, params, stages: _Stages) -> dict:
    views, there = [(-1, "full", model)], _there(model)
    for i, named in enumerate(found):
        if named.kind in ("bigram", "imported"):
            views += [(i, "alone", named.masks), (i, "random alone", subnetworks.shuffled(named.masks, params.seed, there))]
    out = []
    for i, (_, role, what) in enumerate(views):
        out.append(depth(what if role == "full" else subnetworks.subnetwork(model, what), yardstick, params.geometry_sequences))
        stages.passed(f"rotations and lens, {i + 1} of {len(views)}")
    return dict(view_mask=np.array([v[0] for v in views]), view_role=np.array([v[1] for v in views]), rotation=np.stack([d.rotation for d in out]),
                covariance=np.stack([d.covariance for d in out]), lens=np.stack([d.lens for d in out]).reshape(len(out), -1, len(LENS)),
                linear=np.array([d.linear for d in out]))


def _texts(model: Model, found: list[Named], text: training.Text, params, stages: _Stages) -> dict:
    prompt = generation.prompt_ids(model, params.prompt, text.ids)
    write = lambda m: generation.written(m, prompt, params.new_tokens, params.heat, params.seed)
    rows, there = [(-1, "full", write(model))], _there(model)
    for i, named in enumerate(found):
        if named.kind in ("bigram", "imported"):
            random = subnetworks.shuffled(named.masks, params.seed, there)
            for role, masks in (("alone", named.masks), ("ablated", subnetworks.complement(named.masks)), ("random ablated", subnetworks.complement(random))):
                rows.append((i, role, write(subnetworks.subnetwork(model, masks))))
                stages.still(f"writing on, {len(rows)} of {1 + 3 * sum(n.kind in ('bigram', 'imported') for n in found)}")
    return dict(prompt=model.tokenizer.decode(prompt.tolist()), text_mask=np.array([r[0] for r in rows]), text_role=tuple(r[1] for r in rows),
                texts=tuple(r[2] for r in rows))


def _along(captures, model: Model, text: training.Text, wishes: list[Wish], schedule, yardstick: Yardstick, stages: _Stages) -> dict:
    """The same masks at each checkpoint: r with the table, of the subnetworks and of the whole and the empty model."""
    n, k = len(captures), len(wishes)
    active, r, base = np.zeros((n, k)), np.full((2, n, k, 3), np.nan), np.full((2, n, 2, 3), np.nan)
    layer = np.zeros((n, k, model.n_layers, len(subnetworks.components(model))))
    for c, capture in enumerate(captures):
        with capture.model() as checkpoint:
            if checkpoint.config.vocab_size != model.config.vocab_size or checkpoint.n_layers != model.n_layers:
                raise Refused(f"{checkpoint.written} is not a checkpoint of the same run: it has another vocabulary or depth than {model.written}.")
            base[:, c, 0] = score(checkpoint, yardstick).r
            base[:, c, 1] = score(subnetworks.subnetwork(checkpoint, subnetworks.nothing(shape_of(checkpoint))), yardstick).r
            for i, named in enumerate(_masks(capture, checkpoint, text, wishes, schedule, stages, "bigram")):
                active[c, i], layer[c, i] = subnetworks.n_active(named.masks), subnetworks.where(checkpoint, named.masks).layer
                r[:, c, i] = score(subnetworks.subnetwork(checkpoint, named.masks), yardstick).r
    return dict(along=tuple(c.variant.written for c in captures), along_active=active, along_r=r, along_base=base, along_layer=layer)


def _text_facts(text: training.Text, y: Yardstick, params) -> dict:
    return dict(table=text.table.source, n_pairs=text.table.n_pairs, n_unseen=text.table.n_unseen, table_loss=float(y.surprisal[y.seen].mean()),
                table_entropy=float(y.entropy[y.here].mean()), n_scored=int(y.here.sum()), n_dropped=int(y.here.sum() - y.seen.sum()),
                n_train=len(text.train_ids), n_geometry=int(y.here[: params.geometry_sequences].sum()), draws=params.draws)
