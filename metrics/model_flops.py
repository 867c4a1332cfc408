"""How many operations a forward pass takes: 2 for every weight that a token is multiplied with, and the attention scores.

Counted on the module that would really run. A masked block is counted as long as its matrices are multiplied; zeros of a mask are
counted like other weights, because dense kernels multiply them.
"""

from __future__ import annotations

import torch

from models.layout import is_conv1d


def flops_per_token(module: torch.nn.Module, length: int) -> float:
    """Mean over the tokens of a sequence of `length`: matrices and head 2 each weight, attention 4 · width · length / 2 a block."""
    matrices = [m for m in module.modules() if isinstance(m, torch.nn.Linear) or is_conv1d(m)]
    thin = sum(p.numel() for m in module.modules() if type(m).__name__ == "Thin" for p in m.parameters(recurse=False) if p.dim() == 2)
    width = sum(_width(m, module.config.get_text_config()) for m in module.modules() if type(m).__name__.endswith("Attention"))
    return 2.0 * (sum(m.weight.numel() for m in matrices) + thin) + 2.0 * width * length


def _width(attention: torch.nn.Module, config) -> int:
    """Channels of all heads: what the output matrix reads, which may be fewer than the config says once heads are cut out."""
    out = next((getattr(attention, name) for name in ("c_proj", "o_proj", "dense", "out_proj") if hasattr(attention, name)), None)
    if out is None:
        return config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if type(out).__name__ == "Thin":
        return getattr(out, "part0_1", out.part0_0).shape[1]
    return out.weight.shape[0 if is_conv1d(out) else 1]
