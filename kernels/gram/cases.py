"""What the Gram matrix is checked on; float32 products, so the tolerance is that of float32 sums."""

from kernels.gram import Gram
from kernels.hostile import activations

TOLERANCE = {"cpu": 3e-6, "gpu": 3e-6}
cases = activations


def new(case):
    return Gram(case.tensors[0].shape[1])


def figures(statistic) -> dict:
    return {"count": statistic.count, "sum": statistic.sum, "matrix": statistic.matrix}
