"""Statistics on examples small enough to compute by hand, their golden values, and the name `kernels` beside transformers."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import kernels
from conftest import REPO
from kernels.gram import Gram
from kernels.logprob_compare import LogProbCompare
from kernels.moments import Moments
from kernels.sign_codes import SignCodes
from kernels.similarity import Similarity

GOLDEN = REPO / "tests" / "golden" / "kernels.json"


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_moments_by_hand(impl):
    moments = Moments(2)
    moments.add(torch.tensor([[1.0, -2.0], [100.0, 100.0], [3.0, -6.0]]), keep=torch.tensor([True, False, True]), impl=impl)
    assert moments.count == 2
    assert moments.mean.tolist() == [2, -4] and moments.variance.tolist() == [1, 4] and moments.m2.tolist() == [2, 8]
    assert moments.abs_sum.tolist() == [4, 8] and moments.abs_max.tolist() == [3, 6] and moments.square_sum.tolist() == [10, 40]


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_a_far_mean_does_not_swallow_the_spread(impl):
    """E[x²] − E[x]² in float32 gives nonsense here; the true variance is 0.01 up to float32 rounding of x itself."""
    x = (1e4 + 0.1 * torch.randn(4096, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).to(torch.float32)
    moments = Moments(3)
    for start in range(0, 4096, 512):
        moments.add(x[start : start + 512], start=start, impl=impl)
    torch.testing.assert_close(moments.variance, x.to(torch.float64).var(0, correction=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_gram_by_hand(impl):
    gram = Gram(2, double=True)
    gram.add(torch.tensor([[1.0, 2.0], [3.0, -1.0], [9.0, 9.0]]), keep=torch.tensor([True, True, False]), impl=impl)
    assert gram.matrix.tolist() == [[10, -1], [-1, 5]] and gram.sum.tolist() == [4, 1]
    assert gram.covariance.tolist() == [[1, -1.5], [-1.5, 2.25]]


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_similarity_by_hand(impl):
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[6.0, 8.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 0.0]])
    likeness = Similarity(bins=4)
    likeness.add(a, b, impl=impl)
    assert likeness.count == 3 and likeness.undefined == 1
    assert likeness.cosine_mean == pytest.approx(0.0, abs=1e-15) and likeness.influence == pytest.approx(1.0)
    assert likeness.angle_mean == pytest.approx((0 + 0.5 + 1) / 3)
    assert likeness.ratio_mean == pytest.approx((2 + 2 + 1) / 3)
    assert likeness.update_mean == pytest.approx((1 + math.sqrt(5) + 2) / 3)
    assert likeness.histogram.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_sign_codes_by_hand(impl):
    codes = SignCodes(10, threshold=0.5)
    x = torch.zeros(3, 10)
    x[0, [0, 9]], x[1, 3], x[2, 1] = 1.0, 0.5, 2.0  # 0.5 is not above 0.5
    codes.add(x, keep=torch.tensor([True, True, False]), impl=impl)
    assert codes.codes()[:, :2].tolist() == [[1, 2], [0, 0], [0, 0]] and codes.codes().shape == (3, 8)
    assert codes.on_fraction.tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5]


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_logprobs_by_hand(impl):
    """p = (3/4, 1/4), q = (1/4, 3/4): KL = ½ ln 3; the target 0 loses ln 3; the top token changes."""
    a, b = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[5.0, 5.0 + math.log(3.0)]])
    compare = LogProbCompare()
    compare.add(a, b, torch.tensor([0]), impl=impl)
    assert compare.kl_mean == pytest.approx(0.5 * math.log(3), abs=1e-6) and compare.agreement == 0.0
    assert compare.difference == pytest.approx(-math.log(3), abs=1e-6) and compare.nll_a == pytest.approx(-math.log(0.75), abs=1e-6)
    compare.add(a, a, torch.tensor([-1]), impl=impl)
    assert compare.agreement == 0.5 and compare.n_targets == 1 and compare.kl_mean == pytest.approx(0.25 * math.log(3), abs=1e-6)


def test_equal_models_do_not_differ():
    a = torch.randn(20, 3000, generator=torch.Generator().manual_seed(0)) * 10
    compare = LogProbCompare()
    compare.add(a, a.clone(), torch.arange(20))
    assert abs(compare.kl_mean) < 1e-12 and compare.agreement == 1.0 and compare.difference == 0.0


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"\[token, 4\], found \[2, 3\]"):
        Moments(4).add(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="keep must be bool"):
        Moments(3).add(torch.zeros(2, 3), keep=torch.ones(2))
    with pytest.raises(ValueError, match="int64"):
        Moments(3).add(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        LogProbCompare().add(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match="Unknown implementation"):
        Moments(3).add(torch.zeros(2, 3), impl="fast")


def golden_values() -> dict:
    """Fixed inputs without a random generator, so that they are the same under every torch version."""
    grid = torch.arange(60 * 24, dtype=torch.float64).reshape(60, 24)
    x, y = torch.sin(grid).to(torch.float32), torch.cos(0.7 * grid).to(torch.float32)
    moments, gram, likeness = Moments(24), Gram(24), Similarity()
    codes, compare = SignCodes(24), LogProbCompare()
    moments.add(x), gram.add(x), likeness.add(x, y), codes.add(x), compare.add(5 * x, 5 * y, torch.arange(60) % 24)
    return {
        "moments": [moments.mean[3], moments.m2[3], moments.abs_sum[3], moments.abs_max[3]],
        "gram": [gram.matrix[0, 0], gram.matrix[2, 5]],
        "similarity": [likeness.cosine_mean, likeness.angle_mean, likeness.ratio_mean, likeness.update_mean],
        "sign_codes": [int(codes.on_counts.sum()), int(codes.codes().astype(np.int64).sum())],
        "logprob_compare": [compare.kl_mean, compare.agreement, compare.nll_a, compare.difference],
    }


def test_golden_values_have_not_moved():
    """Entries in the cache carry kernels.VERSION: numbers that move must bump it."""
    stored = json.loads(GOLDEN.read_text())
    assert stored["version"] == kernels.VERSION, "regenerate tests/golden/kernels.json: python tests/test_kernels_by_hand.py"
    for name, values in golden_values().items():
        assert [float(v) for v in values] == pytest.approx(stored[name], rel=2e-6), f"{name} moved: bump kernels.VERSION"


def test_transformers_loads_with_our_kernels_on_the_path():
    """transformers probes a package called `kernels`, and would trust one with a version."""
    assert not hasattr(kernels, "__version__")
    script = (
        "import kernels, torch\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "assert kernels.VERSION\n"
        "model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=32))\n"
        "print(model(torch.arange(4)[None]).logits.shape[-1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "32", done.stderr


def test_importing_the_statistics_does_not_import_numba():
    script = (
        "import sys, importlib, pathlib\n"
        "folders = sorted(p.parent.name for p in pathlib.Path('kernels').glob('*/__init__.py'))\n"
        "for name in folders:\n"
        "    importlib.import_module('kernels.' + name)\n"
        "assert len(folders) >= 9, folders\n"
        "print([name for name in ('numba', 'triton', 'streamlit', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"version": kernels.VERSION, **{k: [float(v) for v in vs] for k, vs in golden_values().items()}}, indent=1) + "\n")
