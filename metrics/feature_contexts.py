"""What a feature writes towards, and where it fires: promoted tokens of its direction, windows of text around its activations."""

from __future__ import annotations

import numpy as np
import torch

from models.loaded import Model
from models.refusal import NotApplicable
from models.saes.dictionary import Sae
from models.saes.inside import activations

BEFORE, AFTER = 8, 3  # tokens of a window around its own
WIDTH = BEFORE + 1 + AFTER


def written(model: Model, sae: Sae) -> torch.Tensor:
    """What each feature adds to the residual stream per unit of activation, [d_sae, d_model] float32: its decoder row, or, inside a
    sublayer (z, mlp_post), that row through the sublayer's output matrix."""
    inner = {"z": model.layout.attn_output, "mlp_post": model.layout.mlp_output}.get(sae.site.name)
    if inner is not None:
        return sae.W_dec @ model.matrix(sae.site.layer, inner).float().cpu().T
    if sae.site.name not in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
        raise NotApplicable(f"{sae.site.written} does not add to the residual stream directly, so its features promote no tokens by themselves.")
    return sae.W_dec


def feature_logits(model: Model, sae: Sae, features: np.ndarray) -> torch.Tensor:
    """Direct effect of features on the logits, [feature, vocab] float32, each row centred: direction · (the final norm's gain) · unembedding.
    A LayerNorm's centring is applied too; its division by the token's own scale is left out, so order and sign mean something and
    the unit does not. Later blocks, which also read the direction, are not in it."""
    direction = written(model, sae)[torch.as_tensor(np.asarray(features), dtype=torch.int64)]
    norm, unembed = (model.module.get_submodule(path) for path in (model.layout.final_norm, model.layout.unembed))
    kind = type(norm).__name__
    if kind == "LayerNorm":
        direction = direction - direction.mean(-1, keepdim=True)
    gain = norm.weight.detach().float().cpu() + (1.0 if kind.startswith("Gemma") else 0.0)
    logits = (direction * gain) @ unembed.weight.detach().float().cpu().T
    return logits - logits.mean(-1, keepdim=True)


def promoted(model: Model, sae: Sae, features: np.ndarray, n: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(tokens promoted [feature, n], their logits, tokens suppressed, their logits), strongest first."""
    logits = feature_logits(model, sae, features)
    n = min(n, logits.shape[1])
    up, down = logits.topk(n, dim=1), logits.topk(n, dim=1, largest=False)
    return up.indices.numpy(), up.values.numpy(), down.indices.numpy(), down.values.numpy()


def feature_activations(model: Model, sae: Sae, ids: torch.Tensor, features: np.ndarray, batch: int = 16) -> np.ndarray:
    """float32 [sequence, position, feature]; the first position is 0, for it is never read."""
    chosen = torch.as_tensor(np.asarray(features), dtype=torch.int64)
    out = np.zeros((*ids.shape, len(chosen)), np.float32)
    for lo in range(0, len(ids), batch):
        out[lo : lo + batch] = sae.encode(activations(model, sae.site, ids[lo : lo + batch]).cpu())[..., chosen].numpy()
    out[:, 0] = 0
    return out


def windows(ids: np.ndarray, keep: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Flat token indices [..., WIDTH] around flat positions [...] in ids [sequence, position]: BEFORE of them, the token, AFTER; −1
    outside the sequence's kept tokens and for positions −1."""
    length = ids.shape[1]
    at = positions[..., None] + np.arange(-BEFORE, AFTER + 1)
    same = (positions[..., None] >= 0) & (at >= 0) & (at // length == positions[..., None] // length)
    at = np.where(same, at, 0)
    return np.where(same & keep.reshape(-1)[at], at, -1)
