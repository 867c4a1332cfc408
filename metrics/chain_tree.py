"""A small Monte Carlo tree search over chains of layers, and the random search that it has to beat.

A node is a chain; its children are the chains one edit away: one or two neighbouring blocks skipped, run again, or two neighbours
exchanged. Selection is UCT (Kocsis & Szepesvári 2006) on exp(cost of the whole model − cost of the chain), at most 2; a node opens a new
child only while it has fewer than 1 + 2 √visits of them. From the new child a random walk of edits goes on, and the better of both ends
is what the path is worth. Costs are remembered, so a chain is measured once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from metrics.chains import Chain

EDITS = ("skip", "repeat", "swap")
SPANS = (1, 2)


def edited(chain: Chain, most: int) -> list[tuple[str, int, Chain]]:
    """(edit, the first block it concerns, the chain it gives) of every different chain one edit away, at most `most` long."""
    out: dict[Chain, tuple[str, int, Chain]] = {}
    for j in range(len(chain)):
        for span in SPANS:
            part = chain[j : j + span]
            if len(part) < span:
                continue
            if len(chain) > span:
                shorter = chain[:j] + chain[j + span :]
                out.setdefault(shorter, ("skip", chain[j], shorter))
            if len(chain) + span <= most:
                longer = chain[: j + span] + part + chain[j + span :]
                out.setdefault(longer, ("repeat", chain[j], longer))
        if j + 1 < len(chain) and chain[j] != chain[j + 1]:
            other = chain[:j] + (chain[j + 1], chain[j]) + chain[j + 2 :]
            out.setdefault(other, ("swap", chain[j], other))
    out.pop(chain, None)
    return list(out.values())


def random_chain(root: Chain, most: int, n_edits: int, rng: np.random.Generator) -> Chain:
    """A walk of that many random edits: first which kind, of those that are possible, then where."""
    chain = root
    for _ in range(n_edits):
        ways = edited(chain, most)
        kinds = sorted({kind for kind, _, _ in ways})
        if not kinds:
            return chain
        kind = kinds[rng.integers(len(kinds))]
        own = [c for k, _, c in ways if k == kind]
        chain = own[rng.integers(len(own))]
    return chain


@dataclass
class Searched:
    """Chains in the order in which they were first measured with their costs; every opened edit of one block as (kind, block, change of cost)."""

    costs: dict[Chain, float] = field(default_factory=dict)
    edits: list[tuple[str, int, float]] = field(default_factory=list)

    @property
    def cheapest(self) -> Chain:
        """Of the cheapest the first."""
        return min(self.costs, key=self.costs.get)


def tree_search(root: Chain, most: int, cost: Callable[[Chain], float], *, simulations: int, depth: int, explore: float, seed: int, step=lambda i, found: None) -> Searched:
    """`step(i, found)` is called before every simulation."""
    rng, found = np.random.default_rng(seed), Searched()
    visits: dict[Chain, int] = {root: 0}
    worth: dict[Chain, float] = {root: 0.0}
    ways: dict[Chain, list] = {}
    whole = found.costs[root] = cost(root)

    def price(chain: Chain) -> float:
        if chain not in found.costs:
            found.costs[chain] = cost(chain)
        return found.costs[chain]

    reward = lambda chain: min(2.0, float(np.exp(whole - price(chain))))
    for i in range(simulations):
        step(i, found)
        path, chain = [root], root
        while len(path) <= depth:
            every = ways.setdefault(chain, edited(chain, most))
            opened = [w for w in every if w[2] in visits]
            fresh = [w for w in every if w[2] not in visits]
            if fresh and len(opened) < 1 + 2 * np.sqrt(visits[chain]):
                kind, block, child = fresh[rng.integers(len(fresh))]
                change = price(child) - price(chain)
                if abs(len(child) - len(chain)) < 2:
                    found.edits.append((kind, block, change))
                visits[child], worth[child] = 0, 0.0
                path.append(child)
                break
            rest = [w[2] for w in opened if w[2] not in path]
            if not rest:
                break
            log = np.log(max(visits[chain], 1))
            chain = max(rest, key=lambda c: worth[c] / max(visits[c], 1) + explore * np.sqrt(log / max(visits[c], 1)))
            path.append(chain)
        end = random_chain(path[-1], most, int(rng.integers(0, depth - len(path) + 2)), rng)
        gained = max(reward(path[-1]), reward(end))
        for node in path:
            visits[node] += 1
            worth[node] += gained
    return found


def random_search(root: Chain, most: int, cost: Callable[[Chain], float], *, chains: int, depth: int, seed: int, step=lambda i, found: None) -> Searched:
    """As many different chains, each some random edits from the whole model; fewer where that many are not found."""
    rng, found = np.random.default_rng([seed, 1]), Searched()
    found.costs[root] = cost(root)
    for _ in range(20 * chains):
        if len(found.costs) >= chains:
            break
        chain = random_chain(root, most, int(rng.integers(1, depth + 1)), rng)
        if chain not in found.costs:
            step(len(found.costs), found)
            found.costs[chain] = cost(chain)
    return found


def random_of_length(root: Chain, most: int, length: int, n: int, depth: int, seed: int, without: Chain) -> list[Chain]:
    """Different random chains of that length, at most `n`, none of them `without`."""
    rng, out = np.random.default_rng([seed, 2]), {}
    for _ in range(60 * n):
        chain = random_chain(root, most, int(rng.integers(1, max(depth, abs(len(root) - length) + 1) + 1)), rng)
        if len(chain) == length and chain != without:
            out[chain] = None
        if len(out) == n:
            break
    return list(out)
