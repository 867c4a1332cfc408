"""How much a model wants each block: learnable gates on the blocks, with the weights frozen.

y = x + g·(Block(x) − x), g = φ² / (φ² + ε), φ starts at 1 and ε falls from 1 to 0.001, which drives gates from one half towards
0 or 1 (started near 1, gates read the slope at the whole model, which says little about a removal); only φ is trained, on
CE + strength · |mean g − target|. This is a reading of FoldGPT (arXiv 2407.00928) with the gate of
Guo et al. 2021: the paper's own equations were not at hand, so do not quote it as FoldGPT's ranking.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.loaded import Model

EPSILON = (1.0, 0.001)


@contextmanager
def gated(model: Model, gates: torch.Tensor) -> Iterator[None]:
    """Every block that is left adds gates[i] times what it would add; gates [n_layers]. Hooks are removed at the end."""
    def hook_for(layer: int):
        def hook(module, args, kwargs, output):
            x = args[0] if args else kwargs["hidden_states"]
            y = output[0] if isinstance(output, tuple) else output
            mixed = x + gates[layer] * (y - x)
            return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

        return hook

    handles = [model.blocks[i].register_forward_hook(hook_for(i), with_kwargs=True) for i in model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gate_importance(model: Model, ids: torch.Tensor, keep: torch.Tensor, target: float, *, steps: int = 80, rows: int = 8,
                    rate: float = 0.03, strength: float = 1.0, progress=None) -> torch.Tensor:
    """Gates over training, [steps + 1, n_layers] float64; the last row ranks the blocks (blocks removed before stay 0).

    target: mean gate aimed at, the share of blocks to keep. Deterministic: sequences are taken in order, `rows` at a time.
    """
    phi = torch.ones(model.n_layers, device=model.device, requires_grad=True)
    left = torch.zeros(model.n_layers, device=model.device)
    left[list(model.layers)] = 1
    history = []
    for step in range(steps + 1):
        epsilon = EPSILON[0] * (EPSILON[1] / EPSILON[0]) ** (step / steps)
        gates = phi.square() / (phi.square() + epsilon) * left
        history.append(gates.detach().double().cpu())
        if step == steps:
            break
        part = torch.arange(step * rows, (step + 1) * rows) % len(ids)
        with torch.enable_grad(), gated(model, gates):
            logits = model.module(input_ids=ids[part].to(model.device), use_cache=False).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), ids[part][:, 1:].to(model.device), reduction="none")
            counted = keep[part][:, 1:].to(losses)
            loss = (losses * counted).sum() / counted.sum().clamp(min=1) + strength * (gates.sum() / left.sum() - target).abs()
            (slope,) = torch.autograd.grad(loss, [phi])
        with torch.no_grad():  # one step size for all: Adam's own scale per gate would move a useless block no faster than a needed one
            phi -= rate * slope / slope.abs().max().clamp(min=1e-12)
        if progress is not None:
            progress.step(step + 1, steps, "training gates", live={"loss": float(loss.detach())})
    return torch.stack(history)
