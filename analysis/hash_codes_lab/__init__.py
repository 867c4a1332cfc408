"""Does each image get a code of its own, and what does the code alone know?

**Code.** Of one image: for every unit of every hidden layer one bit, pre-activation > 0, taken after batch norm in inference
mode; the output layer has none (He et al., Neural networks behave as hash encoders, arXiv 2101.05490). Images of one code lie in
one linear region: on it a ReLU network is a single affine map. **R** = (n − number of different codes) / n, for training and
test images separately: 0 where every image has a region of its own. R grows with n, so compare it at equal n only.

**What codes know.** k-NN (k = 9, Hamming distance, ties of votes to the lowest class) and one-vs-one logistic regression (L2,
C = 1), both fitted on training codes with the true labels and scored on test codes; K-Means with as many clusters as classes, on
test codes, scored twice: *purity* lets several clusters take one label, *Hungarian* gives each its own, so it is never higher.
Beside them the network's own test accuracy. Logistic regression and K-Means are fitted on the axes of the grid, not in its interior.

**Nulls.** Random hyperplanes: as many random hyperplanes through the mean training image. Untrained: the same networks before the
first update. Raw: the pixels themselves, k-NN by Euclidean distance. Uniform noise as input: R only.

**Training.** Adam, rate × 0.1 every 20 epochs, batches of 64, L2 on all parameters; smaller samples are tiled to the full size,
so that every network makes equally many updates. The paper's recipe for MNIST, but without its early stopping. All networks of one
width are trained at once; each is the network it would be alone. Repeats differ in weights, order and drawn sample; bars and bands
span their range.

**Phase chart.** The paper cuts the space of size, time and samples into an under-expressive, a critically-expressive and a
sufficiently-expressive regime. Its exact borders could not be read, so these are ours: *under* where R of the training images is
above 0.05; *sufficient* where R ≤ 0.01 and k-NN accuracy ≥ 0.98 of the best of its column; *critical* between. All three thresholds
can be moved.

**Regions.** Counted and drawn exactly: piece by piece and layer by layer the line or plane is cut where a pre-activation is zero.
With one hidden layer the regions along a line are one more than the Hamming distance of its ends.

**What this does not show.** That a code knows a class does not make it a good representation: k-NN on the raw pixels of digits beats
every code here. At equal bits R is mostly what random hyperplanes give. With k = 9, samples below about 100 images say little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.hash_codes_lab.grid import default_widths
from analysis.hash_codes_lab.measure import Result, compute
from models.params import param

__all__ = ["Params", "Result", "compute", "answer", "headlines", "figures", "cost"]

TITLE = "Activation-hash lab"
QUESTION = "Does each image get a code of its own, and what does the code alone know?"
MODELS = (0, 0)
CORPUS = None
INPUTS = "images"


@dataclass(frozen=True)
class Params:
    images: str = param("digits", "Images", first=True, help="“digits” (1,797 of 8 × 8 pixels, always there), or the name of a file that was added below.")
    family: Literal["mlp", "conv"] = param("mlp", "{} networks", first=True, help="mlp: hidden layers of the width given. conv: as many 3 × 3 convolutions "
                                           "with so many channels, each followed by 2 × 2 max-pooling; every position of every channel is a bit.")
    repeats: int = param(3, "{} repeats", first=True, low=1, high=20, help="Networks of each kind, which differ in weights, order of samples and drawn sample.")
    widths: tuple[int, ...] = param((), "Widths, with dots between", low=1, high=1024, help="None: 3.8.12.16.24.48.100 for mlp, 1.2.3.4.6.8 for conv.")
    focus: int = param(0, "Width looked at closely", low=0, high=1024, help="For the axes of time, sample size, regularisation and label noise, and for "
                       "regions; 0: 24 for mlp, 2 for conv. It is added to the widths.")
    hidden: int = param(1, "Hidden layers", low=1, high=6)
    epochs: int = param(40, "Epochs", low=1, high=400)
    samples: tuple[int, ...] = param((10, 30, 100, 300), "Smaller samples, with dots between", low=2, high=100_000, help="The whole training set is always among them.")
    train_images: int = param(1200, "Training images", low=20, high=60_000)
    test_images: int = param(600, "Test images", low=20, high=10_000)
    decays: tuple[int, ...] = param((-5, -4, -3, -2), "L2 tried, as powers of ten", low=-9, high=0, help="Besides the 10⁻⁶ of every other network.")
    noises: tuple[int, ...] = param((20, 40, 80), "Wrong labels tried, in percent", low=1, high=100)
    batch_norm: bool = param(True, "Batch norm")
    optimizer: Literal["adam", "adamw", "sgd"] = param("adam", "Optimiser")
    lr: float = param(0.01, "Learning rate", low=1e-6, high=10.0)
    batch: int = param(64, "Images in an update", low=2, high=60_000)
    seed: int = param(0, "Seed", low=0, high=10**6)
    plane: tuple[int, ...] = param((0, 1, 2), "Test images that span the plane", low=0, high=9_999, display=True)
    under: float = param(0.05, "Under-expressive above R of", low=0.0, high=1.0, display=True)
    sufficient: float = param(0.01, "Sufficient up to R of", low=0.0, high=1.0, display=True)
    plateau: float = param(0.98, "Sufficient from this share of the best accuracy", low=0.0, high=1.0, display=True)


def answer(runs) -> str:
    from analysis.hash_codes_lab import words

    return words.answer(runs)


def headlines(runs) -> tuple:
    from analysis.hash_codes_lab import words

    return words.headlines(runs)


def figures(runs) -> list:
    from analysis.hash_codes_lab import drawing

    return drawing.figures(runs)


def cost(shape, n_tokens: int, params: Params) -> float:
    """FLOPs: three products per weight, image and epoch, pixels as of the digits; what is read off the codes costs as much again."""
    widths = params.widths or default_widths(params.family)
    nets = params.repeats * (len(widths) * (1 + len(params.samples)) + len(params.decays) + len(params.noises))
    width = sum(widths) / len(widths)
    weights = 64 * width + (params.hidden - 1) * width**2 if params.family == "mlp" else 64 * 9 * width + (params.hidden - 1) * 144 * width**2
    return nets * params.epochs * params.train_images * (6.0 * weights + 220_000)
