"""What does each feature of a sparse autoencoder stand for, and what does it do?

A sparse autoencoder (SAE) writes an activation as a few of many learned directions. Type a text: at each token stand the features that
fire most. Choose a feature: how often it fires on the corpus, where it is largest, and, in bands from its largest activation down,
where it is weaker (the top examples alone flatter a feature). Search a token: which features fire on it, and which promote it.

**Activation** is the SAE's own number at its site; the first token of a sequence is not read. **Density**: share of the corpus's tokens at
which a feature fires. **Promoted and suppressed tokens**: decoder direction · (the final norm's gain) · unembedding, centred over the
vocabulary; a LayerNorm's centring is applied, its division by each token's scale is not. It is the direct path only: later blocks
read the direction too. **Neighbours**: cosine of decoder directions; grey is what the best of as many features reaches with a random direction.

**Steering** adds strength × the feature's largest activation on the corpus × its decoder direction at the site, at every token but
the first, and lets the model write on. Beside it the text without, and the text with a random direction of the same length added:
a change that this direction brings too is not the feature's doing. KL is from the plain next-token distribution, in nats.

**What this does not show.** A name for a feature is a guess from examples; nothing here is an explanation tested on new text. Another SAE
of another seed finds other features. Examples come from the chosen corpus only, and no more than 64 features a token are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.contract import Shape
from analysis.feature_browser.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "reads", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Feature browser"
QUESTION = "What does each feature of a sparse autoencoder stand for, and what does it do?"
MODELS = (1, 1)
CORPUS = "demo/mixed:128x128"
not_in_report = "It looks at one feature at a time; feature_survival counts them all."


@dataclass(frozen=True)
class Params:
    prompt: str = param("", "Text", first=True, help="Your own text; empty: the first words of the corpus.")
    feature: int = param(-1, "feature {}", first=True, low=-1, high=1 << 22, help="Its number; −1: the one that fires strongest on the text, measured by its own largest activation.")
    strength: float = param(1.0, "strength × {}", first=True, low=-20.0, high=20.0, help="Steering: multiples of the feature's largest activation; 0 adds nothing, negative suppresses.")
    token: str = param("", "Search a token", help="Features that fire on it and features that promote it.")
    sae: str = param("", "SAE", help="A name such as demo/saes/storyteller-a.resid_post.4; empty: the first one at hand for the model.")
    new_tokens: int = param(24, "Tokens to write", low=0, high=256)
    heat: float = param(0.0, "Temperature of the writing", low=0.0, high=10.0)
    seed: int = param(0, "Seed", low=0, high=10**9)


def reads(variants, params: Params) -> list[str]:
    """Content of the SAE that the parameters name: part of the key."""
    from models.home import home
    from models.saes.shelf import choose, fingerprint

    return [fingerprint(choose(params.sae, variants[0], home()), home())]


def answer(runs) -> str:
    from analysis.feature_browser import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.feature_browser import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.feature_browser import drawing

    return drawing.figures(runs)


def cost(shape: Shape, n_tokens: int, params: Params) -> float:
    """FLOPs: the corpus up to the site once, the SAE at eight times the stream's width, three texts written without a cache."""
    return n_tokens * (shape.forward_flops + 4.0 * shape.d_model * 8 * shape.d_model) + 3 * params.new_tokens * 64 * shape.forward_flops
