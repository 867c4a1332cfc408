"""Zero the feed-forward weights that fire for memorized passages and less for other text.

Per block and output row of the feed-forward output projection: the top `ratio` of |W_ij| · ‖X_j‖ over the positions that predict a
memorized suffix, kept where ‖X_j‖ is larger there than on the base text. `neurons` takes whole columns by ‖w_j‖ (mem − base)
instead. The calibration text is the list of passages; those that greedy decoding really gives back are located, no others. The
base: natural text of the demo world, the same passages with their tokens shuffled (same format, never trained), or the empty
prompt. `ratio` is an upper bound: the real density is in the plan.

Use it to suppress passages, and then ask the memorization page whether they come back. Not to delete them: some tens of steps of a
soft prompt usually bring them back. Not on text that the model does not know by heart: nothing is located then.
Source: Chavhan et al., arXiv 2406.18566 (diffusion models), carried to language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics import memorized
from metrics.extraction import Passages, extract, passages, shuffled
from metrics.sparsity import mask_bits, pack, unpack
from metrics.stored_bits import note_bits, split_key, total_bits, value_bits
from models.loaded import Model
from models.params import param
from models.refusal import Refused
from models.shape import Shape, shape_of
from operators.contract import Storage, sparse_storage

TITLE = "Cut the memorized"
CALIBRATION = "demo/canaries:train:96x64:padded"  # where a recipe names no text
NATURAL = "demo/stories:train:64x64"
FEWEST = 4  # extracted passages; fewer say nothing about a common subspace


@dataclass(frozen=True)
class Params:
    ratio: float = param(0.01, "Share located", first=True, low=0.0, high=0.5, help="Of every output row (or of the neurons of a block); an upper bound")
    unit: Literal["weights", "neurons"] = param("weights", "Unit", first=True)
    base: Literal["natural", "shuffled", "empty"] = param("natural", "Contrasted with", first=True, help="Stories, the passages with shuffled tokens, or the empty prompt")
    located: Literal["extracted", "all"] = param("extracted", "Located on", help="Only passages that greedy decoding gives back, or all of the text")
    prefix: int = param(0, "Prefix", low=0, high=1024, unit="tokens", help="0: what the text marks as prefix, else half of each passage")
    normalised: bool = param(False, "Scale every token to length 1", help="As the paper's code does")


NEUTRAL = (Params(ratio=0.0), 0.0)


@dataclass(frozen=True, eq=False)
class Plan:
    kept: dict[str, torch.Tensor]  # packed masks of what stays, uint8 [out, ceil(in/8)]
    bits: dict[str, torch.Tensor]
    density: float  # share of weights cut, of the matrices looked at
    n_located: int  # passages it was located on


def calibrated(params: Params) -> bool:
    return True


def check(params: Params, shape: Shape) -> None:
    shape.chosen("mlp")


def base_sizes(model: Model, params: Params, p: Passages, calibration) -> memorized.Sizes:
    """Sizes on the base text that `params` names."""
    if params.base == "natural":
        other = calibration.beside(NATURAL)
        keep = other.keep.clone()
        keep[:, 0] = False
        return memorized.sizes(model, other.ids, keep, params.normalised)
    if params.base == "empty":
        first = p.ids[:1, :1]
        return memorized.sizes(model, first, torch.ones_like(first, dtype=torch.bool), params.normalised)
    return memorized.of_passages(model, shuffled(p), params.normalised)


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    chosen = [m for m in shape_of(model).chosen("mlp") if m.name == model.layout.mlp_output]
    if params.ratio == 0:
        return _plan(model, chosen, {m.layer: torch.zeros(m.n_out, m.n_in, dtype=torch.bool) for m in chosen}, 0)
    p = passages(calibration.tokens, params.prefix)
    known = extract(model, p).exact if params.located == "extracted" else torch.ones(len(p), dtype=torch.bool)
    if int(known.sum()) < FEWEST:
        raise Refused(f"The model gives back {int(known.sum())} of these {len(p)} passages from their prefixes; at least {FEWEST} are needed to locate what it knows by heart.")
    mem = memorized.of_passages(model, p[known], params.normalised, progress)
    masks = memorized.masks(model, mem, base_sizes(model, params, p[known], calibration), params.ratio, params.unit)
    return _plan(model, chosen, masks, int(known.sum()))


def _plan(model: Model, chosen, masks: dict[int, torch.Tensor], n_located: int) -> Plan:
    kept = {m.key: ~masks[m.layer] for m in chosen}
    bits = {m.key: torch.tensor(float(mask_bits(kept[m.key], value_bits(model, m), "unstructured"))) for m in chosen if bool(masks[m.layer].any())}
    return Plan({key: pack(k) for key, k in kept.items()}, bits, memorized.density(masks), n_located)


def apply(model: Model, plan: Plan) -> None:
    for key, packed in plan.kept.items():
        weight = model.matrix(*split_key(key))
        model.set_matrix(*split_key(key), weight * unpack(packed.to(weight.device), weight.shape[1]))
    note_bits(model, plan.bits)


def storage(model: Model, plan: Plan) -> Storage:
    return sparse_storage(total_bits(plan.bits), sum(model.matrix(*split_key(key)).numel() for key in plan.bits) or 1, "unstructured")
