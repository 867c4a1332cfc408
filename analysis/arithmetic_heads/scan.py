"""The scan: prompts asked and kept, both counterfactuals of each, every head and MLP patched at END, and the faster guesses at the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from metrics.bootstrap import ratio_interval
from metrics.patching import hooked
from metrics.patching.attribution import attributed
from metrics.patching.end import MEASURES, change, measures, read_out
from metrics.patching.end_attention import PLACES, shares
from metrics.patching.one_token import scan_activations
from metrics.patching.path import CONVENTIONS, scan_heads, scan_mlps
from metrics.patching.ranking import operator_weights, states_of
from metrics.patching.roles import CURVES, mlp_cosines
from metrics.prompts.arithmetic_set import Prompt, PromptSet, ask
from metrics.prompts.wordings import CHANGES, OPERATORS
from models.layout import heads as heads_of
from models.loaded import Model

FASTER = ("activation patching", "attribution, gradient", "attribution, integrated")
CHUNK = 64  # prompts held in memory at once
CHECKED = 8  # heads of this run that are patched the slow way too, on the prompts of one batch


@dataclass(frozen=True, eq=False)
class Scan:
    """Axes: prompt runs over the kept prompts, discovery wordings first; block is the index in the unmodified checkpoint; change as
    in wordings.CHANGES, convention as in path.CONVENTIONS, measure as in end.MEASURES (relative logit as a share, log-probability and
    logit difference in nats), faster as in FASTER. NaN where a sublayer was removed or nothing was measured.

    reference [measure, prompt] of the run as it is; head_effect [change, convention, measure, prompt, block, head] and mlp_effect
    [change, convention, measure, prompt, block] of path patching; faster_effect [change, faster, measure, block, head] means over the
    discovery prompts, every operator weighing the same; attention [block, head, place, 3] share of END's attention with its 95 %
    interval; cosine [curve, block, 3]; mean_null, mean_reference [block, head, d_head] of the heads' outputs at END.
    """

    blocks: np.ndarray
    n_layers: int
    n_heads: int
    n_kv: int
    no_attention: np.ndarray  # [block] bool
    no_mlp: np.ndarray
    key: np.ndarray
    text: np.ndarray
    operator: np.ndarray  # [prompt] index into OPERATORS
    validation: np.ndarray  # [prompt] bool
    reference: np.ndarray
    head_effect: np.ndarray
    mlp_effect: np.ndarray
    faster_effect: np.ndarray
    attention: np.ndarray
    cosine: np.ndarray
    mean_null: np.ndarray
    mean_reference: np.ndarray
    asked: pa.Table
    hooked_gap: float  # largest difference to the slow way, in any measure
    n_hooked: int  # heads and MLPs compared


def scanned(capture, model: Model, params, progress) -> Scan:
    """From the store, or made now: what is shown of it, and on which prompt, never scans again."""
    wanted = {name: getattr(params, name) for name in ("prompts", "operators", "largest", "null", "faster", "integrated_steps", "resamples", "seed")}
    return capture.keep_plan("arithmetic scan", wanted, lambda part: scan(model, params, part), Scan, progress)


def scan(model: Model, params, progress) -> Scan:
    operators = OPERATORS if params.operators == "all" else (params.operators,)
    asked = ask(model, operators, params.prompts, params.largest, params.null, params.seed, progress)
    kept = asked.only(asked.known())
    prompts = [*kept.discovery, *kept.validation]
    held = _Held.empty(model, prompts, len(kept.discovery))
    saved = progress.saved()
    done = 0
    if saved:
        done, held = int(saved.pop("done")), _Held(**{name: np.array(x) for name, x in saved.items()})
    for at in range(done, len(prompts), CHUNK):
        held.add(model, prompts, at, len(kept.discovery), params, progress)
        progress.save({"done": at + CHUNK, **vars(held)})
    gap, n = _checked(model, list(kept.discovery)) if prompts else (float("nan"), 0)
    return _result(model, asked, prompts, held, params, gap, n, progress)


@dataclass(eq=False)
class _Held:
    """What the chunks have added up; plain arrays, so that it can be kept and resumed to the same bits."""

    reference: np.ndarray
    head_effect: np.ndarray
    mlp_effect: np.ndarray
    faster_effect: np.ndarray  # weighted sums, and
    faster_weight: np.ndarray  # [change, faster, measure] the weights in them
    cosine: np.ndarray  # [curve, prompt, block]
    means: np.ndarray  # [null or reference, block, head, d_head]

    @staticmethod
    def empty(model: Model, prompts: list[Prompt], n_discovery: int) -> _Held:
        shape, n, blocks = heads_of(model.config), len(prompts), len(model.layers)
        nan = lambda *axes: np.full(axes, np.nan, np.float32)
        three, two = len(MEASURES), len(CHANGES)
        return _Held(nan(three, n), nan(two, len(CONVENTIONS), three, n, blocks, shape.n_heads), nan(two, len(CONVENTIONS), three, n, blocks),
                     np.zeros((two, len(FASTER), three, blocks, shape.n_heads)), np.zeros((two, len(FASTER), three)),
                     nan(len(CURVES), n_discovery, blocks), np.zeros((2, blocks, shape.n_heads, shape.d_head)))

    def add(self, model: Model, prompts: list[Prompt], at: int, n_discovery: int, params, progress) -> None:
        """One chunk of prompts. Every operator weighs the same in the means."""
        part, here = prompts[at : at + CHUNK], slice(at, min(at + CHUNK, len(prompts)))
        every = torch.tensor(sorted({p.answer for p in prompts}), device=model.device)
        own = torch.tensor([p.answer for p in part], device=model.device)
        reference = states_of(model, [p.ids for p in part])
        self.reference[:, here] = read_out(model, reference.post, own, every).T.cpu()
        seek = max(0, min(len(part), n_discovery - at))  # prompts of the chunk that belong to discovery
        weights = operator_weights(prompts[:n_discovery])[at : at + seek].numpy()
        for c, name in enumerate(CHANGES):
            other = states_of(model, [p.changed[c] for p in part])
            for v, convention in enumerate(CONVENTIONS):
                place = f"{name}, MLPs {convention}"
                step = lambda i, place=place: progress.step(at, len(prompts), f"{place}, block {model.layers[i]}")
                self.head_effect[c, v, :, here] = _axes(scan_heads(model, reference, other, own, every, convention, step))
                self.mlp_effect[c, v, :, here] = _axes(scan_mlps(model, reference, other, own, every, convention))
            if seek:
                few, others = reference.first(seek), other.first(seek)
                step = lambda *_, name=name: progress.step(at, len(prompts), f"{name}, faster views")
                for f, effects in enumerate(_faster(model, part[:seek], few, others, own[:seek], every, params, step)):
                    effects = _axes(effects)
                    known = weights * np.isfinite(effects).all((2, 3))  # [measure, prompt]
                    self.faster_effect[c, f] += np.einsum("mpbh,mp->mbh", np.nan_to_num(effects), known)
                    self.faster_weight[c, f] += known.sum(1)
                if c == 0:
                    self.means[0] += np.einsum("bphd,p->bhd", others.z.double().cpu().numpy(), weights)
        if seek:
            self.means[1] += np.einsum("bphd,p->bhd", few.z.double().cpu().numpy(), weights)
            self.cosine[:, at : at + seek] = mlp_cosines(model, few, *_numbers(prompts, at, seek)).transpose(1, 2)


def _axes(effects: torch.Tensor) -> np.ndarray:
    """[measure, prompt, block, …] of effects [block, …, prompt, measure]."""
    return effects.movedim((-1, -2), (0, 1)).cpu().numpy()


def _faster(model: Model, prompts: list[Prompt], reference, other, own, every, params, step):
    """The three guesses, or fewer; those not asked for are NaN throughout."""
    nothing = torch.full((*other.z.shape[:1], other.z.shape[2], len(prompts), len(MEASURES)), torch.nan)
    yield scan_activations(model, [p.ids for p in prompts], other, own.cpu(), every.cpu(), step) if params.faster == "all" else nothing
    for steps in (1, params.integrated_steps):
        yield attributed(model, reference, other, own, every, steps, step) if params.faster != "none" else nothing


def _numbers(prompts: list[Prompt], at: int, n: int) -> tuple[torch.Tensor, ...]:
    """Token ids of operand A, operand B and answer of prompts at, at + 1, …, −1 where an operand is several tokens; and of a number
    that a prompt has nothing to do with: the next other answer in the set."""
    single = lambda p, where: p.ids[where[0]] if len(where) == 1 else -1
    rows = []
    for i in range(at, at + n):
        p = prompts[i]
        own = (single(p, p.a), single(p, p.b), p.answer)
        rows.append((*own, next((q.answer for q in prompts[i + 1 :] + prompts if q.answer not in own), -1)))
    return tuple(torch.tensor(column) for column in zip(*rows))


def _checked(model: Model, prompts: list[Prompt]) -> tuple[float, int]:
    """(largest difference between the fast scan and the whole model with hooks, senders compared): a few heads spread over the model
    and one MLP in each convention, on equally long prompts."""
    length = len(prompts[0].ids)
    few = [p for p in prompts if len(p.ids) == length][:CHECKED]
    ids, own = torch.tensor([p.ids for p in few]), torch.tensor([p.answer for p in few], device=model.device)
    every = own.unique()
    reference, other = states_of(model, [p.ids for p in few]), states_of(model, [p.changed[0] for p in few])
    n_blocks, n_heads = reference.z.shape[0], reference.z.shape[2]
    base, gap, n = measures(model.logits(ids)[:, -1], own, every), 0.0, 0
    for convention in CONVENTIONS:
        heads, mlps = scan_heads(model, reference, other, own, every, convention), scan_mlps(model, reference, other, own, every, convention)
        for k in range(min(CHECKED, n_blocks * n_heads)):
            i, h = divmod(k * n_blocks * n_heads // CHECKED, n_heads)
            slow = hooked.with_head(model, ids, reference, other, i, h, convention)
            gap, n = max(gap, _largest(change(measures(slow, own, every), base) - heads[i, h])), n + 1
        slow = hooked.with_mlp(model, ids, reference, other, n_blocks // 2, convention)
        gap, n = max(gap, _largest(change(measures(slow, own, every), base) - mlps[n_blocks // 2])), n + 1
    return gap, n


def _largest(x: torch.Tensor) -> float:
    return float(x.nan_to_num().abs().max())


def _result(model: Model, asked: PromptSet, prompts: list[Prompt], held: _Held, params, gap: float, n: int, progress) -> Scan:
    shape, blocks = heads_of(model.config), np.array(model.layers)
    gone = {kind: np.array([(layer, kind) in model.removed for layer in model.layers]) for kind in ("attn", "mlp")}
    with np.errstate(invalid="ignore"):
        faster = held.faster_effect / held.faster_weight[..., None, None]
    held.head_effect[..., gone["attn"], :], held.mlp_effect[..., gone["mlp"]], faster[..., gone["attn"], :] = np.nan, np.nan, np.nan
    discovery = prompts[: held.cosine.shape[1]]
    attention = np.full((len(blocks), shape.n_heads, len(PLACES), 3), np.nan)
    cosine = np.full((len(CURVES), len(blocks), 3), np.nan)
    if discovery:
        weights = operator_weights(discovery).numpy()
        looks = shares(model, discovery, lambda i, n: progress.step(len(prompts), len(prompts), f"attention of END, {i} of {n}")).permute(0, 1, 3,
                                                                                                                                          2).double().numpy()
        attention = np.stack(ratio_interval(looks * weights, weights, params.resamples, params.seed), -1)
        attention[gone["attn"]] = np.nan
        for curve in range(len(CURVES)):
            here = np.isfinite(held.cosine[curve]).all(-1)
            if here.any():
                w = weights[here]
                cosine[curve] = np.stack(ratio_interval(held.cosine[curve][here].T * w, w, params.resamples, params.seed), -1)
    return Scan(
        blocks, model.n_layers, shape.n_heads, shape.n_kv, gone["attn"], gone["mlp"], np.array([p.key for p in prompts]), np.array([p.text for p in prompts]),
        np.array([OPERATORS.index(p.problem.operator) for p in prompts], np.int64), np.arange(len(prompts)) >= len(discovery), held.reference,
        held.head_effect, held.mlp_effect, faster, attention, cosine,
        held.means[0].astype(np.float32), held.means[1].astype(np.float32), pa.Table.from_pylist([vars(a) for a in asked.asked]), gap, n,
    )
