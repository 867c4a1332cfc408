"""Which chain of blocks does the same work?

A chain runs the model's blocks in another order: some skipped, some twice, some exchanged with their neighbours; no weight is changed.

**Cost.** Of a chain: its loss in nats per token plus price × (its length / the model's number of blocks). The loss is KL(whole model ‖
chain), or −ln p of the text's next token; the price is what running all blocks may cost, so a skipped block must hurt less than its
share of the price. Chains are at most as long as the model has blocks.

**Search.** A small Monte Carlo tree search (UCT), described in metrics/chain_tree.py: a node is a chain, a child is one edit away. It is
after CoLa, whose own rewards and rollouts were not at hand. For the model it reads every second sequence of the text; with a prompt it
searches for that prompt alone.

**Held out.** The chain that was found is measured on the other sequences; that is the number in the answer. For one prompt nothing can be
held out: its number is optimistic, and so are those of its controls.

**Controls.** Random chains of the same length, and a random search that measured as many chains: grey.

**Edits.** The map is the mean change of cost when an edit of one block was opened in the tree, over all chains in which it was.

**What this does not show.** A chain that is close on this text may lose what the text does not use; the tree is small and finds a good
chain, not the best one. Operations fall with the length, memory with the number of different blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.chain_search.measure import Result, compute
from analysis.contract import Shape
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Chains of layers"
QUESTION = "Which chain of blocks does the same work?"
MODELS = (1, 1)
not_in_report = "It searches for chains and measures no compression that was made."
CORPUS = "demo/mixed:32x64"


@dataclass(frozen=True)
class Params:
    loss: Literal["kl", "next token"] = param("kl", "loss: {}", first=True, help="KL to the whole model, or how well the text itself is predicted")
    price: float = param(0.5, "price {} nats", first=True, low=0.0, high=100.0, help="What running all blocks may cost, in nats per token; 0 makes length free")
    simulations: int = param(150, "{} simulations", first=True, low=1, high=100_000)
    prompt: str = param("", "For one prompt", first=True, help="Empty: for the model, on the text. Else the chain is sought for this prompt alone.")
    depth: int = param(4, "Edits in a chain, at most", low=1, high=64)
    explore: float = param(0.5, "Exploration constant of UCT", low=0.0, high=100.0)
    controls: int = param(40, "Random chains of the same length", low=1, high=10_000)
    resamples: int = param(1000, "Bootstrap resamples", low=100, high=100_000)
    seed: int = param(0, "Seed of search, controls and resampling", low=0, high=10**9)


def answer(runs) -> str:
    from analysis.chain_search import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.chain_search import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.chain_search import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: about three chains a simulation (tree, walk, random search) on half of the text, and the controls on the other half."""
    return n_tokens / 2 * shape.forward_flops * (3 * params.simulations + params.controls)
