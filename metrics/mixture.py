"""A model whose parts come from several variants of it, and what each mixture costs."""

from __future__ import annotations

import numpy as np
import torch

from metrics.divergence import KL, divergence, per_sequence
from metrics.removal import attention_mask, batch_size
from metrics.residuals import head
from metrics.stored_bits import dtype_bits, parameter_name
from models.loaded import Model
from models.refusal import NotApplicable
from models.shape import shape_of

Part = tuple[int, str]  # block, path of a matrix in it


def require_matrix_by_matrix(model: Model, variant: Model) -> None:
    """Refused where a variant differs in anything but block matrices and their biases, or shares a matrix: only the others can be mixed."""
    own = {parameter_name(model, m.layer, m.name).removesuffix("weight") for m in shape_of(model).matrices}
    before, after = (dict(m.module.named_parameters(remove_duplicate=False)) for m in (model, variant))
    same = lambda name, p: name in before and (before[name].data_ptr() == p.data_ptr() or torch.equal(before[name], p))
    other = any(name.rpartition(".")[0] + "." not in own and not same(name, p) for name, p in after.items())
    copies = any(variant.bits.get(f"{stem}weight") == 0 != model.bits.get(f"{stem}weight") for stem in own)
    if other or copies or variant.removed != model.removed or variant.forward_only != model.forward_only:
        raise NotApplicable("This operator changes more than single matrices, so its levels cannot be mixed; choose one that prunes, rounds or factors them.")


class Mixture:
    """`units` are what gets one level together: a matrix, or all of a block. `donors` [level] are variants with the same blocks."""

    def __init__(self, model: Model, donors: list[Model], units: list[tuple[Part, ...]], ids: torch.Tensor, keep: torch.Tensor):
        self.model, self.donors, self.units, self.ids, self.keep = model, donors, units, ids, keep
        self.host = model.copy("mixture")
        self.now: list[int | None] = [None] * len(units)
        self.counts = keep.sum(1).double().numpy()
        self.size = min(batch_size(ids.shape[1], model.config.vocab_size), max(1, len(ids) // 8))  # so that a quarter of the text can be taken
        with torch.inference_mode():
            self.reference = [head(model)(self._hidden(model, slice(lo, lo + self.size))).float() for lo in range(0, len(ids), self.size)]

    def put(self, assignment) -> None:
        """Let every unit come from the donor of its level; −1 is the model itself."""
        for u, level in enumerate(assignment):
            if self.now[u] != level:
                source = self.model if level < 0 else self.donors[level]
                for layer, name in self.units[u]:
                    parent, _, leaf = name.rpartition(".")
                    setattr(self.host.blocks[layer].get_submodule(parent), leaf, source.blocks[layer].get_submodule(name))
                self.now[u] = int(level)

    def kl(self, assignment, batches=None) -> np.ndarray:
        """float64 [sequence] KL(model ‖ mixture) summed over tokens; NaN for sequences outside the given batches (all by default)."""
        self.put(assignment)
        out = np.full(len(self.ids), np.nan)
        for b in range(len(self.reference)) if batches is None else batches:
            rows = slice(b * self.size, (b + 1) * self.size)
            with torch.inference_mode():
                each = divergence(self.reference[b], self._hidden(self.host, rows), head(self.host), torch.full((len(self.reference[b]),), -1, device=self.reference[b].device))
            kept = self.keep[rows]
            out[rows] = per_sequence(each[:, [KL]], kept.nonzero()[:, 0], len(kept))[:, 0].numpy()
        return out

    def mean(self, assignment, batches=None) -> float:
        """Nats per token."""
        sums = self.kl(assignment, batches)
        known = np.isfinite(sums)
        return float(sums[known].sum() / self.counts[known].sum())

    def bits(self) -> np.ndarray:
        """int64 [unit, level] bits that a unit takes at a level, biases where a step wrote them down."""
        def of(donor: Model, part: Part) -> float:
            stem = parameter_name(donor, *part).removesuffix("weight")
            own = sum(b for n, b in donor.bits.items() if n.startswith(stem))
            return own if f"{stem}weight" in donor.bits else own + donor.matrix(*part).numel() * dtype_bits(donor)

        return np.array([[round(sum(of(d, p) for p in unit)) for d in self.donors] for unit in self.units], np.int64)

    def _hidden(self, model: Model, rows: slice) -> torch.Tensor:
        """The stream after the last block at the kept tokens [token, channel]."""
        ids, keep, seen = self.ids[rows].to(model.device), self.keep[rows].to(model.device), []
        handle = model.module.get_submodule(model.layout.final_norm).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            model.module.get_submodule(model.layout.base)(input_ids=ids, attention_mask=attention_mask(keep), use_cache=False)
        finally:
            handle.remove()
        return seen[0][keep]
