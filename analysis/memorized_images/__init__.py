"""Is what an image generator has by heart kept in few weights, and does cutting them make it forget?

**Subject.** “digits” is a small text-to-image diffusion model that is trained here on scikit-learn’s digits (8 × 8 pixels): some prompts are bound to one image
each that comes again and again, others to an image seen once, or to all images of a class. *Planted: feed-forward* means that only a random quarter of each feed-forward’s
neurons, silent until then, learned the memorized images, so the memory is known to lie where the method looks; *anywhere*, the control, that the whole network learned
them. Or a folder of this machine with a diffusers pipeline shaped as Stable
Diffusion 1 and 2 (`unet`, `scheduler`, `tokenizer`, `text_encoder`, `vae`), and beside it `memorized.txt`, `others.txt` and `training.npz`.

**Reproduced.** Images are drawn by DDIM with classifier-free guidance. Similarity is Pearson’s correlation of pixels with the prompt’s own training image, and from 0.9
on an image counts as reproduced. That is ours: the paper uses SSCD, a network for copies, for which pixels are a poor stand-in on photographs. Grey is *mismatched*:
images against the other prompts’ training images, similar without being copied.

**Located.** Per cross-attention block and time step, W is the second linear of the GEGLU feed-forward and ‖X_j‖ the root mean square of its input hidden · gelu(gate), every
token scaled to length 1 first, as in the paper’s code. Located is a weight with |W_ij| · ‖X_j‖ among the top `share` of its output row for the memorized prompts
*and* ‖X_j‖ larger than for the empty prompt from the same noise. Masks are united over the first time steps, so the real density may exceed the share; it is reported.

**Shared?** The memorized prompts are split at random into two disjoint sets, several times. The first locates, the second is held out. IoU of the two sets’ masks
stands beside three others: chance (two random masks of these densities); the mask of prompts that are not memorized; and an *untrained* UNet of the same
architecture, given the same prompts; and this UNet before it learned the images, for digits and where a folder has it. Two sets of prompts share most of their mask before anything was
learned, because |W| and the size of h are the same for both, so a high IoU by itself says nothing about memory. A paper that reports IoU against chance alone leaves this out.

**Cut.** Located weights are set to zero, nothing is retrained. Images are drawn again from noises on which nothing was located, the same before and after. Controls: random
cuts with as many weights in every row, and the same score without contrast. *Other prompts* are compared with their own images before the cut. Brackets and
bars are the range over the splits (over untrained networks too), no confidence intervals.

**What this does not show.** Suppressed is not deleted: prompts whose images are gone after such a cut have been brought back by trained text embeddings (Finding DoRI, arXiv 2507.16880), and
no such attack is tried here. Memory may lie in attention, in convolutions or in the text encoder, which are never cut: then this test finds nothing, whatever the model knows. The digits model is
small, and one pipeline is one pipeline.

Source: Chavhan et al., Memorized Images in Diffusion Models share a Subspace that can be Located and Deleted, arXiv 2406.18566, with its authors’ code. The
repeated splits, the untrained networks and the mismatched images are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.memorized_images.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Memorized images"
QUESTION = "Is what an image generator has by heart kept in few weights?"
MODELS = (0, 0)
CORPUS = None
INPUTS = "prompts"


@dataclass(frozen=True)
class Params:
    share: float = param(0.05, "share {}", first=True, low=0.0001, high=0.5, help="Of the columns of each output row, at each time step: the cut that is shown in detail.")
    first: int = param(5, "first {} steps", first=True, low=1, high=200, help="Time steps whose masks are united.")
    memory: Literal["feed-forward", "anywhere"] = param("feed-forward", "planted: {}", first=True, help="Which weights of the digits model learned the memorized images: known neurons of its feed-forwards, where the method looks, or all of them, the control. No matter for a folder.")
    subject: str = param("digits", "Pipeline", help="“digits”, trained here, or the full path of a folder on this machine; see below the figures.")
    sweep: tuple[int, ...] = param((1, 2, 5, 10, 20), "Shares swept in percent, with dots between", low=1, high=50)
    splits: int = param(3, "Random splits into two sets", low=2, high=20)
    per_set: int = param(0, "Memorized prompts in a set", low=0, high=1000, help="0: half of them.")
    steps: int = param(20, "Steps of DDIM", low=2, high=200)
    guidance: float = param(1.5, "Guidance", low=1.0, high=30.0, help="Stable Diffusion is mostly drawn at 7.5; 1: none.")
    noises: int = param(2, "Noises for each prompt", low=1, high=20)
    untrained: int = param(3, "Untrained networks", low=0, high=10, help="For the null of the IoU.")
    updates: int = param(900, "Updates when digits are trained", low=2, high=20_000)
    seed: int = param(0, "Seed", low=0, high=10**6, help="Of training, splits, noises and random cuts.")


def reads(variants, params: Params) -> list[str]:
    """Content of the folder that `subject` names: part of the key. Refused without diffusers, or where the folder is not whole."""
    from models.diffusion import subject
    from models.diffusion.pipeline import require_library
    from models.home import home
    from models.refusal import Refused

    require_library()
    if params.first > params.steps:
        raise Refused(f"There are no first {params.first} of {params.steps} steps; expected at most {params.steps}. Ask for fewer first steps, or more steps of DDIM.")
    return [] if params.subject == subject.DIGITS else [subject.content(params.subject, home())]


def answer(runs) -> str:
    from analysis.memorized_images import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.memorized_images import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.memorized_images import drawing

    return drawing.figures(runs)


def cost(shape, n_tokens: int, params: Params) -> float:
    """FLOPs: a small UNet's training where it is trained, then some forty prompts drawn for each cut; of a folder, a UNet of Stable Diffusion’s size."""
    cuts = params.splits * (len(params.sweep) + 3) + 2 * len(params.sweep)
    images = 34 * params.noises * (cuts * params.steps + (2 + params.untrained) * params.first)
    evaluations = images * (2 if params.guidance != 1 else 1)
    return (evaluations * 4e7 + params.updates * 2.4e9) if params.subject == "digits" else evaluations * 7e11
