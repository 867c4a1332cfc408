"""Text that a model writes on, whole or masked."""

from __future__ import annotations

import torch

from models.loaded import Model
from models.refusal import Refused


def prompt_ids(model: Model, prompt: str, ids: torch.Tensor, n_words: int = 6) -> torch.Tensor:
    """Token ids [n] of the prompt, a BOS first where the tokenizer has one; an empty prompt takes the first words of the text."""
    if not prompt.strip():
        return ids[0, : n_words + 1]
    found = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    bos = model.tokenizer.bos_token_id
    found = ([bos] if bos is not None else []) + found
    room = getattr(model.config, "max_position_embeddings", None)
    if room and len(found) >= room:
        raise Refused(f"The prompt has {len(found)} tokens and the model's context {room}; shorten it.")
    return torch.tensor(found)


def written(model: Model, prompt: torch.Tensor, n: int, temperature: float, seed: int) -> str:
    """n tokens after the prompt, or up to the end of the context; temperature 0 takes the likeliest token."""
    generator = torch.Generator().manual_seed(seed)
    room = getattr(model.config, "max_position_embeddings", None) or len(prompt) + n
    out = prompt.tolist()
    for _ in range(min(n, room - len(out))):
        last = model.logits(torch.tensor([out]))[0, -1].float().cpu()
        chosen = last.argmax() if temperature == 0 else torch.multinomial((last / temperature).softmax(-1), 1, generator=generator)[0]
        out.append(int(chosen))
    return model.tokenizer.decode(out[len(prompt) :])
