"""SliceGPT: invariance at 0 %, the mean direction is free under LayerNorm, planted subspace, physical = projected."""

import pytest
import torch

from models.progress import Quiet
from models.refusal import Refused
from models.shape import shape_of
from operators import slice_gpt
from tests.operator_bench import model_of, planned, text_for, weights_of


def random_basis(width, seed=0):
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def test_by_hand():
    """Width 2 cut to the direction (3, 4)/5: an output row pair (1, 2) becomes its projection (3·11/25, 4·11/25)."""
    v = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    assert ((v @ v.T) @ torch.tensor([[1.0], [2.0]], dtype=torch.float64)).flatten().tolist() == pytest.approx([33 / 25, 44 / 25])


def test_rotating_all_of_a_llama_changes_nothing():
    """0 % with a random basis: norms folded, every matrix rotated, a new plain model; float32 rounding only."""
    model = model_of("llama")
    plan = slice_gpt.Plan(random_basis(16), torch.zeros(16))
    ids = text_for(model).ids
    rotated = slice_gpt.physical(model, plan)
    assert (rotated(ids).logits - model.logits(ids)).abs().max() < 1e-4
    assert not torch.allclose(rotated.model.layers[0].mlp.up_proj.weight, model.matrix(0, "mlp.up_proj"), atol=0.1)


def test_layer_norm_ignores_exactly_the_mean_direction():
    """Cutting only the direction of the mean leaves a GPT-2 as it was; cutting any other does not (negative control)."""
    model, ids = model_of("gpt2"), text_for(model_of("gpt2")).ids
    ones = torch.full((16, 1), 0.25, dtype=torch.float64)
    rest = torch.linalg.qr(torch.cat([ones, random_basis(16)[:, :15]], 1)).Q
    for cut, same in ((0, True), (5, False)):
        variant = model.copy("cut")
        slice_gpt.apply(variant, slice_gpt.Plan(torch.cat([rest[:, :cut], rest[:, cut + 1 :]], 1), torch.zeros(16)))
        assert ((variant.logits(ids) - model.logits(ids)).abs().max() < 1e-4) == same


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_stream_that_fills_half_its_width_is_cut_to_it_for_free(family):
    """Planted truth: everything that writes to the stream is projected on a random half; PCA must find it."""
    model = model_of(family)
    half = random_basis(16)
    if family == "gpt2":  # inside the plane that LayerNorm sees
        half = torch.linalg.qr(torch.cat([torch.ones(16, 1, dtype=torch.float64), half[:, :8]], 1)).Q[:, 1:]
    narrow = model.copy("narrow")
    slice_gpt.apply(narrow, slice_gpt.Plan(half[:, :8].contiguous(), torch.zeros(16)))
    plan, variant = planned(slice_gpt, narrow, slice=0.5)
    ids = text_for(model, seed=3).ids
    assert plan.basis.shape == (16, 8)
    assert (variant.logits(ids) - narrow.logits(ids)).abs().max() < 1e-4
    assert (planned(slice_gpt, model, slice=0.5)[1].logits(ids) - model.logits(ids)).abs().max() > 0.1  # unplanted: it costs
    torch.testing.assert_close(plan.basis.T @ plan.basis, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-10)


def test_physical_llama_is_smaller_and_computes_the_same():
    model = model_of("llama", d_model=32)
    plan, variant = planned(slice_gpt, model, slice=0.25)
    smaller = slice_gpt.physical(model, plan)
    ids = text_for(model, seed=3).ids
    assert smaller.config.hidden_size == 24
    assert (smaller(ids).logits - variant.logits(ids)).abs().max() < 1e-4
    stored = sum(p.numel() for n, p in smaller.named_parameters() if "norm" not in n)
    assert slice_gpt.storage(model, plan).bits == 32 * stored and stored < sum(p.numel() for p in model.module.parameters())


def test_tied_embeddings_are_untied_and_counted_twice():
    model = model_of("gpt2")
    before = weights_of(model)
    plan, variant = planned(slice_gpt, model, slice=0.5)
    assert variant.module.lm_head.weight is not variant.module.transformer.wte.weight and model.module.config.tie_word_embeddings
    assert model.module.lm_head.weight is model.module.transformer.wte.weight
    assert all(torch.equal(a, b) for a, b in zip(before.values(), weights_of(model).values()))
    tables = {n: b for n, b in variant.bits.items() if "wte" in n or "lm_head" in n}
    assert tables == {"transformer.wte.weight": 32 * 8 * 32.0, "lm_head.weight": 32 * 8 * 32.0}


def test_what_cannot_be_done_is_refused():
    gpt2 = model_of("gpt2")
    with pytest.raises(Refused, match="full shape"):
        slice_gpt.physical(gpt2, planned(slice_gpt, gpt2, slice=0.5)[0])
    with pytest.raises(Refused, match="leaves nothing"):
        slice_gpt.check(slice_gpt.Params(slice=0.9), shape_of(gpt2))
    with pytest.raises(Refused, match="at least 256"):
        slice_gpt.decide(gpt2, slice_gpt.Params(), text_for(gpt2, n_sequences=2), Quiet())
