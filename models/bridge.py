"""TransformerLens's bridge on the weights of a loaded model, without a second copy of them.

The bridge rewires the module it is given, so it gets a skeleton of its own that holds the same tensors
(`load_state_dict(assign=True)`); the plain model stays untouched. Heavy import (4 s): only in a worker.
"""

from __future__ import annotations

import copy

from models import vocabulary
from models.refusal import NotApplicable, shown


def share(model):
    """A TransformerBridge over the same tensors as `model`, unprocessed: nothing folded, nothing centred.

    Give it token ids: its own tokenizer is a stand-in, because booting would reload the real one by name and change its
    special tokens.
    """
    import torch

    if any(p.is_meta for p in model.parameters()):
        raise NotApplicable("TransformerLens needs the whole model in memory, and some blocks of this one are offloaded to disk. Choose bfloat16, or a machine with more memory.")
    from transformer_lens.model_bridge import TransformerBridge

    with torch.device("meta"):
        skeleton = type(model)(copy.deepcopy(model.config))
    skeleton.load_state_dict(model.state_dict(), assign=True, strict=True)
    _adopt_buffers(skeleton, model)
    skeleton.tie_weights()
    skeleton.eval().requires_grad_(False)
    try:
        return TransformerBridge.boot_transformers(
            "local", hf_model=skeleton, tokenizer=vocabulary.numbers(1), dtype=model.dtype, device=str(next(model.parameters()).device)
        )
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise NotApplicable(f"TransformerLens has no bridge for {type(model).__name__}: {shown(str(error), 120)}.") from error

def _adopt_buffers(skeleton, model) -> None:
    """Buffers outside the state dict (rotary frequencies, masks) from the loaded model; they are meta in the skeleton."""
    for name, buffer in model.named_buffers():
        parent, _, leaf = name.rpartition(".")
        skeleton.get_submodule(parent)._buffers[leaf] = buffer
