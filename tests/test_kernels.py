"""Every kernel against its definition, on inputs chosen to break it; memory that torch and numpy hand out is filled with NaN.

The Triton kernels run on a GPU where there is one, else under Triton's interpreter, which proves logic and masks only.
"""

import importlib
import importlib.util
import os

import numpy as np
import pytest
import torch

from kernels.hostile import Case

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

STATISTICS = ("moments", "gram", "similarity", "sign_codes", "logprob_compare", "top_k", "sae_pool", "mlp_capture")
CASES = {name: importlib.import_module(f"kernels.{name}.cases") for name in STATISTICS}
CHECKED = [(name, case) for name in STATISTICS for case in CASES[name].cases()]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(autouse=True)
def dirty_memory(monkeypatch):
    """A kernel that skips an element meets NaN (or a large integer) there instead of a convenient zero."""

    def dirty(make):
        def made(*args, **kwargs):
            made = make(*args, **kwargs)
            floating = made.dtype.is_floating_point if isinstance(made, torch.Tensor) else np.issubdtype(made.dtype, np.floating)
            (made.fill_ if isinstance(made, torch.Tensor) else made.fill)(float("nan") if floating else 77)
            return made

        return made

    for module in (torch, np):
        for name in ("empty", "empty_like"):
            monkeypatch.setattr(module, name, dirty(getattr(module, name)))


def agree(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value, other = (np.asarray(v, dtype=np.float64) for v in (value, found[name]))
        finite = np.abs(value[np.isfinite(value)])
        allowed = tolerance * max(1.0, finite.max(initial=0.0))
        np.testing.assert_allclose(other, value, rtol=0, atol=allowed, err_msg=name)


def measured(name, case, impl, cuts=()):
    """The statistic of a case; with cuts, added in the pieces between them."""
    statistic = CASES[name].new(case)
    edges = [0, *cuts, len(case.tensors[0])]
    for lo, hi in zip(edges, edges[1:]):
        keep = None if case.keep is None else case.keep[lo:hi]
        statistic.add(*(t[lo:hi] for t in case.tensors), keep=keep, start=lo, impl=impl)
    return statistic


@pytest.mark.parametrize("name, case", CHECKED, ids=[f"{n}-{c.name}" for n, c in CHECKED])
def test_cpu_equals_the_definition(name, case):
    module = CASES[name]
    agree(module.figures(measured(name, case, "cpu")), module.figures(measured(name, case, "reference")), module.TOLERANCE["cpu"])


@needs_triton
@pytest.mark.parametrize("name, case", CHECKED, ids=[f"{n}-{c.name}" for n, c in CHECKED])
def test_triton_equals_the_definition(name, case):
    module = CASES[name]
    expected = module.figures(measured(name, case, "reference"))
    if torch.cuda.is_available():
        case = type(case)(case.name, tuple(t.cuda() for t in case.tensors), None if case.keep is None else case.keep.cuda())
    agree(module.figures(measured(name, case, "gpu")), expected, module.TOLERANCE["gpu"])


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("name", STATISTICS)
def test_merging_equals_one_pass_in_any_order(name, impl):
    module = CASES[name]
    case = next(c for c in module.cases() if c.name.startswith("masked"))
    cut = 9 if name == "sae_pool" else 1  # pooled codes come in whole sequences
    whole = module.figures(measured(name, case, impl))
    agree(module.figures(measured(name, case, impl, cuts=(cut, 3 * cut, 4 * cut))), whole, max(module.TOLERANCE["cpu"], 1e-12))
    edges = [0, cut, 3 * cut, 4 * cut, len(case.tensors[0])]
    parts = list(zip(edges, edges[1:]))
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        total = module.new(case)
        for lo, hi in (parts[i] for i in order):
            piece = module.new(case)
            piece.add(*(t[lo:hi] for t in case.tensors), keep=case.keep[lo:hi], start=lo, impl=impl)
            total.merge(piece)
        agree(module.figures(total), whole, max(module.TOLERANCE["cpu"], 1e-12))


@pytest.mark.parametrize("name", [name for name in STATISTICS if name != "sae_pool"])
def test_the_number_of_threads_does_not_show(name):
    module = CASES[name]
    n, c = (300, 2048) if name == "logprob_compare" else (2048, 300)
    x = torch.randn(n, c, generator=torch.Generator().manual_seed(0))
    tensors = {"similarity": (x, x.flip(0)), "logprob_compare": (x, x.flip(0), torch.zeros(n, dtype=torch.int64))}.get(name, (x,))
    case, found, threads = Case("wide", tensors), [], torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found.append(module.figures(measured(name, case, "cpu")))
    finally:
        torch.set_num_threads(threads)
    exact = 1e-6 if name == "gram" else 0.0  # the library's own product may change with threads
    agree(found[1], found[0], exact)
    agree(found[2], found[0], exact)
