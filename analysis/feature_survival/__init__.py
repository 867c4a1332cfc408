"""Which features does the compression lose, gain or distort?

A sparse autoencoder (SAE) trained on A is frozen and read on the **same tokens** of A and of B, at one site. Perplexity can stay while
features inside change: it is reported (arXiv 2606.03002, known here second-hand only) that perplexity can even improve while a fifth
of the active features degrade.

**Per feature.** Pearson's r between its activations on A and on B over all tokens (zeros included); the share of tokens at which it
fires. *Active*: fires on A at the least count of tokens or more. *Dead*: active on A, never fires on B. *Born*: never fires on A, at
that count or more on B. *Distorted*: active, still fires on B, r below the limit. *Kept*: the other active ones. *Damaged* is dead or
distorted.

**Reconstruction.** Explained variance 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖² and mean squared error ‖x − x̂‖² per token on each model;
cross-entropy recovered (zeroed − spliced) / (zeroed − clean): next-token loss with the site set to zero, replaced by the SAE's
reconstruction, and left alone. The first token of each sequence is neither read nor replaced.

**Control.** A treated bluntly to B's size, matrix by matrix: plain rounding to nearest with B's whole number of bits in groups of 32
where its recipe stores 2 to 8, as many weights zeroed at random as B has zeros beyond that, else Gaussian noise of the change's norm. A method that spares
features should damage fewer than that. The same dictionary read on A itself gives r = 1 and damages nothing, exactly.

**Intervals** are 95 %, bootstrapped: over sequences for reconstruction and loss, over groups of at most 32 neighbouring
sequences for correlations; which features count as active and dead is decided once, on all tokens.

**What this does not show.** The SAE's features are one dictionary of A, not the truth about it; another seed finds others. A low r can mean
that B moved a feature to another direction (an SAE trained on B may find it again). Rare features have few tokens, so their r
is uncertain: see the interval. Tokens promoted are the direct path through the final norm's gain only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.contract import Shape
from analysis.feature_survival.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "reads", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Feature survival"
QUESTION = "Which features does the compression lose, gain or distort?"
MODELS = (2, 2)
CORPUS = "demo/mixed:128x128"


@dataclass(frozen=True)
class Params:
    sae: str = param("", "SAE", first=True, help="A name such as demo/saes/storyteller-a.resid_post.4; empty: the first one at hand for A.")
    control: Literal["matched", "noise", "none"] = param("matched", "control: {}", first=True, help="A with as many random zeros, or rounded to as many bits, as B; or with noise as large as the change.")
    below: float = param(0.9, "distorted below r = {}", first=True, low=-1.0, high=1.0)
    least: int = param(10, "Tokens at which an active feature fires at least", low=1, high=1_000_000)
    resamples: int = param(500, "Bootstrap resamples", low=100, high=10_000)
    seed: int = param(0, "Seed of control and resampling", low=0, high=10**9)


def reads(variants, params: Params) -> list[str]:
    """Content of the SAE that the parameters name: part of the key."""
    from models.home import home
    from models.saes.shelf import choose, fingerprint

    return [fingerprint(choose(params.sae, variants[0], home()), home())]


def answer(runs) -> str:
    from analysis.feature_survival import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.feature_survival import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.feature_survival import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs of this model's share: three reads of the site and three losses, half of it again for the control, and the SAE at eight
    times the stream's width."""
    return n_tokens * (1.0 if params.control == "none" else 1.5) * (5.0 * shape.forward_flops + 4 * 4.0 * shape.d_model * 8 * shape.d_model)
