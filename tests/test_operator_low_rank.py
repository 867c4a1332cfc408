"""One projection for four methods: identity, loss = tail, equality with the scaled-SVD form, order on the text; 2×3 by hand."""

import pytest
import torch

from metrics.calibration import Channels, matrix_inputs
from metrics.damage import matrix_damage
from models.refusal import Refused
from models.shape import row_parts, shape_of
from operators import low_rank
from tests.operator_bench import model_of, planned, text_for, weights_of

METRICS = ("svd", "asvd", "svd_llm", "corda")


def problem(n_out=14, n_in=20, tokens=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, n_in, generator=g, dtype=torch.float64) @ torch.randn(n_in, n_in, generator=g, dtype=torch.float64)
    return torch.randn(n_out, n_in, generator=g, dtype=torch.float64), x


def channels(x):
    return Channels(len(x), x.square().sum(0), x.abs().mean(0), x.abs().amax(0), x.mean(0), x.T @ x)


def projected(w, x, metric, rank, **fields):
    m = None if metric == "svd" else low_rank.metric_of(low_rank.Params(metric=metric, **fields), channels(x))
    left, right, spectrum = low_rank.factors(w, m, rank)
    return left @ right, spectrum


def test_by_hand():
    """W = diag(3, 2) beside a zero column. Plain SVD keeps the 3; inputs nine times as strong on channel 1 make it the 2."""
    w = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    left, right, spectrum = low_rank.factors(w, None, 1)
    assert (left @ right).tolist() == [[3.0, 0, 0], [0, 0, 0]] and spectrum.tolist() == pytest.approx([3.0, 2.0])
    gram = torch.diag(torch.tensor([1.0, 9.0, 1.0], dtype=torch.float64))
    left, right, spectrum = low_rank.factors(w, gram, 1)
    assert (left @ right).tolist() == [[0, 0, 0], [0, 2.0, 0]] and spectrum.tolist() == pytest.approx([6.0, 3.0])


@pytest.mark.parametrize("shape", [(14, 20), (30, 20), (20, 20)])
@pytest.mark.parametrize("metric", METRICS)
def test_full_rank_is_the_identity_and_tall_equals_wide(shape, metric):
    w, x = problem(*shape)
    torch.testing.assert_close(projected(w, x, metric, min(shape))[0], w, rtol=0, atol=1e-9)
    m = torch.eye(20, dtype=torch.float64) if metric == "svd" else low_rank.metric_of(low_rank.Params(metric=metric), channels(x))
    full = m.diag() if m.dim() == 1 else m
    vectors = torch.linalg.eigh(w @ full @ w.T).eigenvectors.flip(1)[:, :5]  # the out × out problem, whatever the shape
    torch.testing.assert_close(projected(w, x, metric, 5)[0], vectors @ vectors.T @ w, rtol=0, atol=1e-8)


def test_svd_llm_loss_is_the_tail_and_equals_cholesky_whitening():
    w, x = problem()
    for rank in (1, 6, 13):
        new, spectrum = projected(w, x, "svd_llm", rank)
        assert float(((w - new) @ x.T).square().sum()) == pytest.approx(float(spectrum[rank:].square().sum()), rel=1e-9)
    s = torch.linalg.cholesky(x.T @ x)
    u, sigma, vt = torch.linalg.svd(w @ s, full_matrices=False)
    scaled = (u[:, :6] * sigma[:6]) @ vt[:6] @ torch.linalg.inv(s)
    torch.testing.assert_close(projected(w, x, "svd_llm", 6)[0], scaled, rtol=0, atol=1e-9)


def test_asvd_equals_the_scaled_svd_form():
    w, x = problem()
    s = x.abs().mean(0).sqrt()
    u, sigma, vt = torch.linalg.svd(w * s, full_matrices=False)
    torch.testing.assert_close(projected(w, x, "asvd", 4)[0], ((u[:, :4] * sigma[:4]) @ vt[:4]) / s, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", (2, 5, 9))
def test_svd_llm_is_never_worse_on_its_text_and_plain_never_worse_on_weights(rank):
    w, x = problem()
    outputs = {m: float(((w - projected(w, x, m, rank)[0]) @ x.T).norm()) for m in METRICS}
    weights = {m: float((w - projected(w, x, m, rank)[0]).norm()) for m in METRICS}
    assert outputs["svd_llm"] == min(outputs.values()) and weights["svd"] == min(weights.values())
    assert outputs["svd_llm"] < outputs["svd"]


def test_fewer_tokens_than_channels_work():
    """C is singular: a Cholesky factor does not exist, the projection does, and reproduces the outputs at rank = tokens."""
    w, x = problem(tokens=6)
    new, spectrum = projected(w, x, "svd_llm", 6)
    torch.testing.assert_close(new @ x.T, w @ x.T, rtol=0, atol=1e-7)
    assert float(spectrum[6:].max()) < 1e-4 * float(spectrum[0])


def test_welore_gives_low_rank_matrices_less_and_keeps_the_budget():
    g = torch.Generator().manual_seed(0)
    shapes = {"flat": (16, 24), "steep": (16, 24)}
    spectra = {"flat": torch.linspace(1, 0.8, 16), "steep": 0.5 ** torch.arange(16.0)}
    spectra["flat"][-1] = 0  # scaled to 0–1, a flat spectrum stays high
    ranks = low_rank.welore_ranks({k: s.double() for k, s in spectra.items()}, shapes, 0.6)
    size = sum(k * 40 if k else 16 * 24 for k in ranks.values())
    assert size <= 0.6 * 2 * 16 * 24 and (ranks["flat"] == 0 or ranks["flat"] > ranks["steep"] > 0)


def test_fused_queries_keys_values_are_split_and_bits_count_both_factors():
    model = model_of("gpt2")
    shape = shape_of(model)
    fused = next(m for m in shape.matrices if m.name == "attn.c_attn")
    assert [len(r) for r in row_parts(shape, fused).values()] == [16, 16, 16]
    plan, variant = planned(low_rank, model, metric="svd", keep=0.75)
    assert {"0.attn.c_attn:q", "0.attn.c_attn:k", "0.attn.c_attn:v"} <= set(plan.left)
    rank = low_rank.uniform_rank(0.75, 16, 16)
    assert rank == 6 and plan.left["0.attn.c_attn:k"].shape == (16, 6)
    assert torch.linalg.matrix_rank(variant.matrix(0, "attn.c_attn")[16:32]) == 6
    assert float(plan.bits["0.attn.c_attn"]) == 3 * 6 * 32 * 32


def test_on_the_model_outputs_keep_the_order_of_the_methods():
    model = model_of("llama")
    inputs = matrix_inputs(text_for(model), True)
    loss = {m: sum(d.output_error for d in matrix_damage(model, planned(low_rank, model, metric=m, keep=0.6)[1], inputs)) for m in METRICS}
    assert loss["svd_llm"] < loss["asvd"] < loss["svd"]


def test_unchosen_matrices_stay_and_impossible_budgets_are_refused():
    model = model_of("llama")
    _, variant = planned(low_rank, model, metric="svd", keep=0.5, which="attn")
    changed = {key for key, w in weights_of(variant).items() if not torch.equal(w, weights_of(model)[key])}
    assert changed and all("self_attn" in key for key in changed)
    with pytest.raises(Refused, match="no rank at all"):
        low_rank.check(low_rank.Params(keep=0.05), shape_of(model))
    with pytest.raises(Refused, match="the least is"):
        low_rank.check(low_rank.Params(keep=0.05, allocation="welore"), shape_of(model))
