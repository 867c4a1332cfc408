"""Does a run that is cut off and resumed end where an uninterrupted one ends?

Twenty steps of Adam on a linear read-out with dropout: weights, optimiser, random state and cursor are all kept.
"""

from dataclasses import dataclass

import numpy as np
import torch

TITLE, QUESTION, MODELS, CORPUS = "Trainer", "Does a resumed run end where an uninterrupted one ends?", (1, 1), "demo/stories:4x32"
STEPS = 20


@dataclass(frozen=True)
class Params:
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Result:
    weight: np.ndarray
    losses: np.ndarray


def compute(captures, params, progress):
    ids = captures[0].ids.float()
    torch.manual_seed(params.seed)
    layer = torch.nn.Linear(ids.shape[1], 3)
    optimiser = torch.optim.Adam(layer.parameters(), 0.01)
    losses = torch.zeros(STEPS)
    start, state = 0, progress.saved()
    if state is not None:
        start = state["step"]
        losses[:] = state["losses"]
        layer.load_state_dict({"weight": state["weight"], "bias": state["bias"]})
        for i, p in enumerate(layer.parameters()):
            optimiser.state[p] = {"step": state[f"step{i}"], "exp_avg": state[f"avg{i}"], "exp_avg_sq": state[f"sq{i}"]}
        torch.set_rng_state(state["random"])
    for i in range(start, STEPS):
        x = torch.nn.functional.dropout(ids / 100, 0.5)
        loss = (layer(x) - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses[i] = loss.detach()
        moments = {f"{n}{j}": optimiser.state[p][k] for j, p in enumerate(layer.parameters()) for n, k in (("step", "step"), ("avg", "exp_avg"), ("sq", "exp_avg_sq"))}
        progress.save({"step": i + 1, "losses": losses, "weight": layer.weight.detach(), "bias": layer.bias.detach(), "random": torch.get_rng_state(), **moments}, force=True)
        progress.step(i + 1, STEPS, "training", {"loss": float(losses[i])})
    return Result(layer.weight.detach().numpy(), losses.numpy())


def answer(runs):
    return f"Final loss {runs[0].result.losses[-1]:.4f}."


def headlines(runs):
    return ()


def figures(runs):
    return []


def cost(shape, n_tokens, params):
    return float(n_tokens * STEPS)
