"""The order of B's units in which they fire most like A's on the same text: one assignment per space, no iteration.

The statistic of a pair of units is E[a b] over tokens (Git Re-Basin's activation matching) or Pearson's r, signed (Li et al. 2016; Verma &
Elbayad 2024). MLP units are compared after the activation, heads by q, k and z (what enters the output matrix), the residual stream
before every block and after the last, averaged. A stream that may be rotated is compared normalised as its norms see it, and
Procrustes takes the place of the assignment. A unit that never changes has r = 0 with all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import torch

from metrics.permutation.matching import best
from metrics.permutation.spec import Maps, identity
from metrics.permutation.transformer import RESID, Symmetry
from metrics.removal import attention_mask, batch_size
from models.layout import SITES, Site
from models.loaded import Model
from models.progress import Quiet
from models.shape import Matrix, row_parts, shape_of


class CrossMoments:
    """Σ a bᵀ, Σ a, Σ b, Σ a², Σ b² over tokens, float64, of a [token, n] and b [token, m]."""

    def __init__(self):
        self.n = 0
        self.product = self.a = self.b = self.aa = self.bb = 0.0

    def add(self, a: torch.Tensor, b: torch.Tensor) -> None:
        a, b = a.double(), b.double()
        self.n += len(a)
        self.product = self.product + a.T @ b
        self.a, self.b, self.aa, self.bb = self.a + a.sum(0), self.b + b.sum(0), self.aa + a.square().sum(0), self.bb + b.square().sum(0)

    def inner(self) -> torch.Tensor:
        """E[a bᵀ] [n, m]."""
        return self.product / self.n

    def covariance(self) -> torch.Tensor:
        """Population covariance [n, m]."""
        return self.product / self.n - torch.outer(self.a, self.b) / self.n**2

    def correlation(self) -> torch.Tensor:
        """Pearson's r [n, m]; 0 where one side never changes."""
        covariance = self.covariance()
        sizes = [(square / self.n - (total / self.n) ** 2).clamp(min=0).sqrt() for square, total in ((self.aa, self.a), (self.bb, self.b))]
        still = [s <= 1e-9 * (square / self.n).sqrt().clamp(min=1e-300) for s, square in zip(sizes, (self.aa, self.bb))]
        r = covariance / torch.outer(*(s.clamp(min=1e-300) for s in sizes))
        return r.masked_fill(still[0][:, None] | still[1][None, :], 0.0)


def unit_activations(model: Model, ids: torch.Tensor, keep: torch.Tensor, which: tuple[str, ...] = ("resid", "mlp", "q", "k", "z")) -> Iterator[dict]:
    """Batch by batch {(kind, index): [token, units] float32} of the kept tokens: resid i before block i (after the last block at
    n_layers), mlp (after the activation), q, k, v of block i, or any site of models.layout."""
    places = _places(model, which)
    size = batch_size(ids.shape[1], model.config.vocab_size)
    base = model.module.get_submodule(model.layout.base)
    for at in range(0, len(ids), size):
        kept = keep[at : at + size].to(model.device)
        seen: dict = {}
        with ExitStack() as hooks, torch.inference_mode():
            for module, side, takes in places:
                hooks.callback(_listen(module, side, takes, kept, seen))
            mask = attention_mask(kept)
            base(input_ids=ids[at : at + size].to(model.device), attention_mask=mask, use_cache=False)
        yield seen


def _places(model: Model, which: tuple[str, ...]) -> list:
    """(module, side, [(key, rows or None)]) of everything to listen to."""
    shape, layout, out = shape_of(model), model.layout, []
    for layer in range(model.n_layers):
        sites = {"resid": "resid_pre", "mlp": "mlp_post"} | {s: s for s in SITES if s != "mlp_up" or layout.mlp_gated}
        out += [(*model.site(layer, sites[kind]), [((kind, layer), None)]) for kind in which if kind in sites]
        for name in layout.attn_inputs:
            rows = row_parts(shape, Matrix(layer, name, "attn", *model.matrix(layer, name).shape, Site(layer, "attn_in")))
            letters = {part or name.rpartition(".")[2][0]: r if part else None for part, r in rows.items()}
            wanted = [((letter, layer), r) for letter, r in letters.items() if letter in which]
            if wanted:
                out.append((model.blocks[layer].get_submodule(name), "output", wanted))
    if "resid" in which:
        out.append((*model.site(model.n_layers - 1, "resid_post"), [(("resid", model.n_layers), None)]))
    return out


def _listen(module: torch.nn.Module, side: str, takes: list, keep: torch.Tensor, seen: dict):
    def see(x: torch.Tensor) -> None:
        flat = x[keep].float()
        for key, rows in takes:
            seen[key] = flat if rows is None else flat[:, rows.to(flat.device)]

    if side == "input":
        return module.register_forward_pre_hook(lambda _, args, kwargs: see(args[0] if args else kwargs["hidden_states"]), with_kwargs=True).remove
    return module.register_forward_hook(lambda _, args, output: see(output[0] if isinstance(output, tuple) else output)).remove


def normalised(x: torch.Tensor, centred: bool) -> torch.Tensor:
    """A stream [token, channel] as a norm without scale and shift passes it on."""
    x = x.double()
    if centred:
        x = x - x.mean(1, keepdim=True)
    return x / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)


def cross_moments(a: Model, b: Model, symmetry: Symmetry, ids: torch.Tensor, keep: torch.Tensor, progress=None) -> dict:
    """{(kind, index): CrossMoments} of A's units with B's, in one pass of both models."""
    progress, moments, done = progress or Quiet(), {}, 0
    rotates = symmetry.spec.rotates.get(RESID)
    for seen_a, seen_b in zip(unit_activations(a, ids, keep), unit_activations(b, ids, keep)):
        progress.step(done, int(keep.sum()), "activations of both models")
        for key, x in seen_a.items():
            y = seen_b[key]
            if key[0] == "resid" and rotates is not None:
                x, y = normalised(x, rotates), normalised(y, rotates)
            moments.setdefault(key, CrossMoments()).add(x, y)
        done += len(next(iter(seen_a.values())))
    return moments


def activation_matching(a: Model, b: Model, symmetry: Symmetry, ids: torch.Tensor, keep: torch.Tensor, statistic: str = "correlation", fixed: frozenset[str] = frozenset(),
                        progress=None) -> Maps:
    """Maps of B's spaces; `statistic` is "correlation" or "inner product"."""
    spec, maps = symmetry.spec, identity(symmetry.spec)
    moments = cross_moments(a, b, symmetry, ids, keep, progress)
    value = lambda key: (moments[key].inner() if statistic == "inner product" else moments[key].correlation()).cpu()
    stream = [moments[key] for key in moments if key[0] == "resid"]
    if RESID not in fixed:
        rotates = RESID in spec.rotates
        gain = sum((m.inner() if rotates or statistic == "inner product" else m.correlation()).cpu() for m in stream) / len(stream)
        maps |= best(spec, RESID, {RESID: gain}, maps)[0]
    for layer, attention in enumerate(spec.attention):
        gain = {attention.q: value(("q", layer)), attention.k: value(("k", layer)), attention.z: value(("z", layer))}
        gain[attention.v] = torch.zeros(spec.sizes[attention.v], spec.sizes[attention.v], dtype=torch.float64)
        maps |= best(spec, attention, gain, maps)[0]
        maps |= best(spec, f"mlp.{layer}", {f"mlp.{layer}": value(("mlp", layer))}, maps)[0]
    return maps
