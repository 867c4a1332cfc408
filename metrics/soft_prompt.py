"""Can a few free vectors in front of a passage bring its suffix back? What was only suppressed returns within some tens of steps.

After “Finding DoRI” (arXiv 2507.16880), carried from image to language models: for each passage `n_vectors` vectors are put before
its embeddings and trained by Adam on the suffix's loss, the model frozen. Never-trained strings of the same shape are the control:
past about a hundred steps the vectors themselves begin to carry the answer.
"""

from __future__ import annotations

import torch

from metrics.extraction import Passages, scored, suffix_nats
from models.loaded import Model
from models.refusal import Refused


def recovery(model: Model, p: Passages, steps: tuple[int, ...], seed: int = 0, n_vectors: int = 4, rate: float = 0.1, progress=None, title: str = "recovery") -> torch.Tensor:
    """Whether each passage is exactly extracted after each number of `steps` (ascending, may begin with 0), bool [steps, passage].

    `rate` is Adam's, in standard deviations of the model's embeddings, so that it means the same for every model. Passages are
    trained together and independently: each has vectors of its own.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context and p.ids.shape[1] + n_vectors > context:
        raise Refused(f"The soft prompt needs {n_vectors} positions before passages of {p.ids.shape[1]} tokens, and the context is {context}; take shorter passages.")
    words = model.module.get_input_embeddings()(p.ids.to(model.device)).detach()
    size = words.std()
    free = torch.nn.Parameter(torch.randn(len(p), n_vectors, words.shape[-1], generator=torch.Generator().manual_seed(seed)).to(words) * size * 0.1)
    optimiser = torch.optim.Adam([free], lr=rate * float(size))
    found = []
    for step in range(max(steps) + 1):
        logits = model.module(inputs_embeds=torch.cat([free, words], 1), use_cache=False).logits[:, n_vectors:]
        if step in steps:
            found.append(scored(logits.detach(), p)[0])
        if step == max(steps):
            break
        loss = suffix_nats(logits[:, :-1], p).sum()
        (slope,) = torch.autograd.grad(loss, [free])
        free.grad = slope
        optimiser.step()
        if progress is not None:
            progress.step(step + 1, max(steps), title, {title: float(loss.detach()) / len(p)})
    return torch.stack(found)
