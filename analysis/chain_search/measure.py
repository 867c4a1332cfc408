"""The numbers: the tree search and the random one on one half of the text, what was found and its controls on the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metrics.bootstrap import ratio_interval
from metrics.chain_tree import EDITS, Searched, random_of_length, random_search, tree_search
from metrics.chains import Chain, Runner
from models.loaded import Model
from models.progress import Stage
from models.refusal import NotApplicable, Refused


@dataclass(frozen=True, eq=False)
class Result:
    """Chains are written 0.1.1.3; `3` is value, 95 % low and high over sequences (NaN for one prompt). Losses in nats per token.

    chain, loss, cost [chain] in the order of the search; random, random_loss, random_cost of the random search
    found: the cheapest; found_loss [3], whole_loss [3], control_loss [control] and best_random_loss on held-out text
    edit_change, edit_count [edit, block]: mean change of cost when the edit was opened at that block, and how often
    """

    blocks: tuple
    chain: np.ndarray
    loss: np.ndarray
    cost: np.ndarray
    random: np.ndarray
    random_loss: np.ndarray
    random_cost: np.ndarray
    found: str
    found_loss: np.ndarray
    whole_loss: np.ndarray
    control: np.ndarray
    control_loss: np.ndarray
    best_random: str
    best_random_loss: np.ndarray
    edit_change: np.ndarray
    edit_count: np.ndarray
    price: float
    n_tokens: int
    n_sequences: int
    n_held: int
    prompt: str


def written(chain: Chain) -> str:
    return ".".join(map(str, chain))


def read(text: str) -> Chain:
    return tuple(map(int, text.split(".")))


def compute(captures, params, progress) -> Result:
    (capture,) = captures
    with capture.model() as model:
        if len(model.layers) < 2:
            raise NotApplicable("Only one block is left, so there is no chain to choose.")
        search, held = _prompt(model, params.prompt) if params.prompt else _halves(capture)
        return _searched(model, search, held, params, progress)


def _halves(capture) -> tuple[tuple, tuple]:
    if len(capture.ids) < 4:
        raise Refused(f"The text has {len(capture.ids)} sequences; the search needs at least 4, half of them held out.")
    return tuple((capture.ids[k::2], capture.keep[k::2]) for k in (0, 1))


def _prompt(model: Model, prompt: str) -> tuple[tuple, tuple]:
    bos = model.tokenizer.bos_token_id
    ids = torch.tensor([([] if bos is None else [bos]) + model.tokenizer(prompt, add_special_tokens=False)["input_ids"]], dtype=torch.long)
    most = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    if not 3 <= ids.shape[1] <= most:
        raise Refused(f"The prompt has {ids.shape[1]} tokens; expected 3 to {most}.")
    both = (ids, torch.ones_like(ids, dtype=torch.bool))
    return both, both


def _searched(model: Model, search: tuple, held: tuple, params, progress) -> Result:
    row = 0 if params.loss == "kl" else 1
    runner = Runner(model, *search)
    counts = lambda r: r.tokens if row == 0 else r.targets
    before = progress.saved()
    losses: dict[Chain, float] = {read(c): float(x) for c, x in zip(before["chains"], before["losses"])} if before else {}
    whole, most = model.layers, len(model.layers)

    def loss(chain: Chain) -> float:
        if chain not in losses:
            losses[chain] = float(runner.cost(chain)[row].sum() / counts(runner).sum())
        return losses[chain]

    price = lambda chain: loss(chain) + params.price * len(chain) / most

    def tell(stage, n: int, name: str):
        def step(i: int, found: Searched) -> None:
            progress.save({"chains": [written(c) for c in losses], "losses": np.array(list(losses.values()))})
            stage.step(i, n, f"{name}, {len(found.costs)} chains measured", live={f"cheapest, {name}": found.costs[found.cheapest]})

        return step

    tree = tree_search(whole, most, price, simulations=params.simulations, depth=params.depth, explore=params.explore, seed=params.seed,
                       step=tell(Stage(progress, 0.0, 0.6), params.simulations, "tree search"))
    blind = random_search(whole, most, price, chains=len(tree.costs), depth=params.depth, seed=params.seed, step=tell(Stage(progress, 0.6, 0.9), len(tree.costs), "random search"))
    there = runner if held is search else Runner(model, *held)
    interval = lambda chain: np.array(ratio_interval(there.cost(chain)[row], counts(there), params.resamples, params.seed) if there.n > 1
                                      else [float(there.cost(chain)[row].sum() / counts(there).sum()), np.nan, np.nan], np.float64)
    found = tree.cheapest
    same = random_of_length(whole, most, len(found), params.controls, params.depth, params.seed, found)
    last, control = Stage(progress, 0.9, 1.0), []
    for i, chain in enumerate(same):
        last.step(i, len(same), f"random chains of length {len(found)}")
        control.append(there.cost(chain)[row].sum() / counts(there).sum())
    change, count = _edits(tree, model.layers)
    of = lambda searched: (np.array([written(c) for c in searched.costs]), np.array([losses[c] for c in searched.costs]), np.array(list(searched.costs.values())))
    return Result(model.layers, *of(tree), *of(blind), written(found), interval(found), interval(whole), np.array([written(c) for c in same], dtype=str), np.array(control),
                  written(blind.cheapest), interval(blind.cheapest), change, count, params.price, int(search[1].sum() + (0 if held is search else held[1].sum())),
                  len(search[0]) + (0 if held is search else len(held[0])), 0 if params.prompt else len(held[0]), params.prompt)


def _edits(tree: Searched, layers: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    total, count = np.zeros((len(EDITS), len(layers))), np.zeros((len(EDITS), len(layers)), np.int64)
    for kind, block, change in tree.edits:
        at = EDITS.index(kind), layers.index(block)
        total[at] += change
        count[at] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count
