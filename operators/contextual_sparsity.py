"""Let every token use only its largest MLP hidden units; the weights stay as they are, the forward changes.

Of the d_mlp values that enter a block's last MLP matrix a token keeps the share `keep` largest by size (the others count as zero), or
those above a threshold: the quantile of |value| over a calibration text, one for each block, so that a token may use more or fewer
(CATS and TEAL choose thresholds so). With `correct` every n-th token runs with all its units and leaves dense keys and values for
those after it. That is in the spirit of Sirius, which runs the full model over the last n tokens again and replaces their keys and values
too; here they are not run again.

Use it to see how few units a token needs, and what is lost when all use few. Not for a smaller file: bits do not change. Kept units
need only their columns of the last matrix, and with a predictor only their rows of the first; no dense kernel here skips the others.
Sources: Liu et al., “Deja Vu”, ICML 2023; Zhou et al., “Sirius”, NeurIPS 2024; Lee et al., “CATS”, COLM 2024. Their numbers are not ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from metrics.calibration import require_text
from metrics.stored_bits import dtype_bits
from models.layout import Site
from models.loaded import Model
from models.outline import Outline
from models.params import param
from models.refusal import NotApplicable, Refused
from models.shape import Shape
from models.stream import Request
from operators.contract import Storage

TITLE = "Contextual sparsity"
SAMPLE = 1 << 20  # values of a block that its threshold is read from, about


@dataclass(frozen=True)
class Params:
    keep: float = param(0.5, "Share of units kept", first=True, low=0.0, high=1.0)
    rule: Literal["top", "threshold"] = param("top", "Chosen by", first=True, help="The same number for every token, or a threshold from calibration text")
    correct: int = param(0, "Every n-th token dense", first=True, low=0, high=100_000, help="0: none; 1: all")
    blocks: tuple[int, ...] = param((), "Only these blocks", low=0, help="Block indices such as 2.3.4; none means all that have an MLP")


NEUTRAL = (Params(keep=1.0), 0.0)
SWEEP = ("keep=0.5", "keep=0.25", "keep=0.1")


@dataclass(frozen=True, eq=False)
class Plan:
    keep: float
    correct: int
    blocks: torch.Tensor  # int64 [block]
    threshold: torch.Tensor  # float32 [block]; empty where every token keeps as many


def calibrated(params: Params) -> bool:
    return params.rule == "threshold"


def check(params: Params, shape: Shape) -> None:
    left = {m.layer for m in shape.matrices if m.kind == "mlp"}
    missing = sorted(set(params.blocks) - left)
    if missing:
        raise Refused(f"There is no MLP left in block {missing[0]}; left are those of blocks {', '.join(map(str, sorted(left)))}.")
    if not left:
        raise NotApplicable("Every MLP has been removed, so no unit is left to be skipped.")


def foresee(params: Params, outline: Outline) -> Outline:
    """As large as before."""
    return outline


def decide(model: Model, params: Params, calibration, progress) -> Plan:
    blocks = [i for i in model.layers if (i, "mlp") not in model.removed and (not params.blocks or i in params.blocks)]
    threshold = torch.zeros(0)
    if params.rule == "threshold":
        require_text(calibration)
        n_tokens = calibration.ids.numel()
        seen = calibration.measure([Request(lambda units: _Sizes(n_tokens * units), (Site(i, "mlp_post"),)) for i in blocks], progress=progress)
        threshold = torch.stack([s.quantile(1 - params.keep) for s in seen])
    progress.step(1, 1, "")
    return Plan(params.keep, params.correct, torch.tensor(blocks, dtype=torch.int64), threshold)


class _Sizes:
    """|x| of evenly spaced values of one site, enough for a quantile."""

    def __init__(self, n_values: int):
        self.every, self.found = max(1, n_values // SAMPLE), []

    def add(self, x: torch.Tensor, keep: torch.Tensor | None = None, start: int = 0) -> None:
        x = (x if keep is None else x[keep]).float().abs().flatten()
        self.found.append(x[:: self.every].cpu())

    def quantile(self, share: float) -> torch.Tensor:
        """The smallest value that at least this share does not exceed; 0 for a share of 0."""
        values = torch.cat(self.found).sort().values
        at = round(share * len(values))
        return values[at - 1] if at else torch.zeros(())


def apply(model: Model, plan: Plan) -> None:
    if plan.keep >= 1.0 or plan.correct == 1:
        return
    place = {"start": 0}  # position of the first token of the pass that runs
    if plan.correct:
        def enter(module, args, kwargs):
            past = kwargs.get("past_key_values")
            place["start"] = past.get_seq_length() if past is not None else 0

        model.module.get_submodule(model.layout.base).register_forward_pre_hook(enter, with_kwargs=True)
    for n, block in enumerate(plan.blocks.tolist()):
        limit = plan.threshold[n] if len(plan.threshold) else None
        output = model.blocks[block].get_submodule(model.layout.mlp_output)
        output.register_forward_pre_hook(_sparsify(plan.keep, limit, plan.correct, place))
    model.forward_only = (*model.forward_only, f"each token uses {100 * plan.keep:g} % of its MLP units")


def _sparsify(keep: float, limit: torch.Tensor | None, correct: int, place: dict):
    """The hook that hands the last MLP matrix what is left of its input [..., position, unit]."""
    def hook(module, args):
        x = args[0]
        used = sparse(x, keep, limit)
        if correct:
            position = place["start"] + torch.arange(x.shape[-2], device=x.device)
            used = torch.where((position % correct == 0)[:, None], x, used)
        return (used, *args[1:])

    return hook


def sparse(x: torch.Tensor, keep: float, limit: torch.Tensor | None) -> torch.Tensor:
    """x [..., unit] with the units that a token does not keep at zero: all but the `keep` share largest, or those not above `limit`."""
    if limit is not None:
        return x * (x.abs() > limit.to(x.device))
    n = round(keep * x.shape[-1])
    chosen = x.abs().topk(n, -1).indices
    return torch.zeros_like(x).scatter(-1, chosen, x.gather(-1, chosen))


def storage(model: Model, plan: Plan) -> Storage:
    weights = sum(model.matrix(i, model.layout.mlp_output).numel() for i in plan.blocks.tolist())
    return Storage(float(weights * dtype_bits(model)), weights, False, "weights and bits unchanged; only the forward differs, and no dense kernel here runs it faster")
