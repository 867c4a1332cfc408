"""MoDeGPT: each decomposition by hand and against least squares or brute force, planted low rank costs nothing, rotary pairs stay whole."""

import pytest
import torch

from metrics.modular import leverage, query_key_channels, refitted, value_output, widths
from metrics.model_bits import model_bits
from models.shape import shape_of
from operators import modegpt
from operators.modegpt import head_rows, units_of
from tests.operator_bench import FAMILIES, model_of, planned, text_for


def samples(n=200, d=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ torch.randn(d, d, generator=g, dtype=torch.float64)


def test_refit_by_hand():
    """C = [[2, 1, 0], [1, 2, 0], [0, 0, 1]], W = [1 1 5] without channel 1: its half that channel 0 tells goes there, [1.5 0 5]."""
    gram = torch.tensor([[2.0, 1, 0], [1, 2, 0], [0, 0, 1]]).double()
    new = refitted(torch.tensor([[1.0, 1, 5]]).double(), gram, torch.tensor([True, False, True]))
    torch.testing.assert_close(new, torch.tensor([[1.5, 0, 5]]).double())


def test_refit_is_least_squares_and_never_worse_than_dropping():
    h, g = samples(), torch.Generator().manual_seed(1)
    w, kept = torch.randn(5, 12, generator=g, dtype=torch.float64), torch.arange(12) % 3 > 0
    gram = h.T @ h
    new = refitted(w, gram, kept)
    torch.testing.assert_close(new[:, kept], torch.linalg.lstsq(h[:, kept], h @ w.T).solution.T, rtol=1e-8, atol=1e-8)
    assert float((h @ (new - w).T).norm()) < 0.95 * float((h @ (w * kept - w).T).norm())
    torch.testing.assert_close(refitted(w, gram, torch.ones(12, dtype=torch.bool)), w, rtol=0, atol=1e-9)


def test_leverage_is_the_diagonal_of_its_definition():
    gram = samples().T @ samples()
    ridge = 0.1 * gram.diagonal().mean() * torch.eye(12).double()
    torch.testing.assert_close(leverage(gram, 0.1), (gram @ torch.linalg.inv(gram + ridge)).diagonal())
    assert leverage(torch.diag(torch.tensor([0.0, 1, 3])).double(), 0.75).tolist() == pytest.approx([0, 1 / 2, 3 / 4])  # λ = ¾ · 4/3 = 1


def test_query_key_channels_by_hand():
    """E[q²] = 4, 1, 9 and E[k²] = 1, 16, 1: products' roots 2, 4, 3. In pairs (0, 2), (1, 3): (4 + 9)·(1 + 1) against (1 + 0)·(16 + 1)."""
    q, k = torch.tensor([4.0, 1, 9]), torch.tensor([1.0, 16, 1])
    assert query_key_channels(q, k, torch.arange(3)[:, None], 2).tolist() == [False, True, True]
    q, k = torch.tensor([4.0, 1, 9, 0]), torch.tensor([1.0, 16, 1, 1])
    assert query_key_channels(q, k, torch.tensor([[0, 2], [1, 3]]), 2).tolist() == [True, False, True, False]


def test_value_output_by_hand():
    """W_V = [[3, 0, 0], [0, 1, 0]], W_O = I: energies 9 and 1; inputs with E[x₁²] = 100 turn that round, 9 against 100."""
    value, output = torch.tensor([[3.0, 0, 0], [0, 1, 0]]).double(), torch.eye(2).double()[None]
    new, out, lost = value_output(value, output, torch.eye(3).double(), 1)
    torch.testing.assert_close(out[0] @ new, torch.tensor([[3.0, 0, 0], [0, 0, 0]]).double())
    assert lost == pytest.approx(1 / 10)
    new, out, lost = value_output(value, output, torch.diag(torch.tensor([1.0, 100, 1])).double(), 1)
    torch.testing.assert_close(out[0] @ new, torch.tensor([[0.0, 0, 0], [0, 1, 0]]).double())
    assert lost == pytest.approx(9 / 109)


def test_value_output_is_optimal_for_all_queries_of_a_group():
    x, g = samples(), torch.Generator().manual_seed(2)
    value, output = torch.randn(4, 12, generator=g, dtype=torch.float64), torch.randn(2, 7, 4, generator=g, dtype=torch.float64)
    gram = x.T @ x
    full = value_output(value, output, gram, 4)
    torch.testing.assert_close(full[1] @ full[0], output @ value, rtol=0, atol=1e-12)
    new, out, lost = value_output(value, output, gram, 2)
    before, after = (x @ (output @ value).flatten(0, 1).T), (x @ (out @ new).flatten(0, 1).T)
    assert float((after - before).square().sum() / before.square().sum()) == pytest.approx(lost, rel=1e-9)
    tail = torch.linalg.svdvals(before)[2:].square().sum() / before.square().sum()
    assert lost == pytest.approx(float(tail), rel=1e-9)  # Eckart–Young: no rank 2 can do better


def test_widths_by_hand():
    """Influence 0 and ε·ln 2, a third of all width: exp gives 1 and ½, so the losses are 4/10 and 2/10. At most 0.9 goes, the rest moves on."""
    assert widths(torch.tensor([0.0, 0.1 * 0.6931471805599453]), 0.7, 0.1).tolist() == pytest.approx([0.6, 0.8])
    assert widths(torch.tensor([0.0, 10.0]), 0.5, 0.1).tolist() == pytest.approx([0.1, 0.9])
    assert widths(torch.rand(7), 0.3, 0.05).mean().item() == pytest.approx(0.3)


def plant(family):
    """A model of which half of every head and of every MLP is idle: query channels, value ranks, MLP channels."""
    model = model_of(family)
    shape, layout = shape_of(model), model.layout
    for layer in shape.layers:
        here = {m.name: m for m in shape.matrices if m.layer == layer}
        rows = head_rows(shape, here)
        half = shape.heads.d_head // 2
        idle = units_of(model, shape)[::2].reshape(-1)
        changed = {m.name: [model.matrix(layer, m.name).clone(), model.blocks[layer].get_submodule(m.name).bias] for m in here.values()}
        for name, (w, b) in changed.items():
            changed[name][1] = None if b is None else b.detach().clone()
        for part, (m, where) in rows.items():
            w, b = changed[m.name]
            for head in where:
                if part == "q":
                    w[head[idle]] = 0
                    if b is not None:
                        b[head[idle]] = 0
                if part == "v":
                    w[head[half:]] = 2 * w[head[:half]]
        for name in filter(None, (layout.mlp_input, layout.mlp_gated)):
            w, b = changed[name]
            w[1::2] = 0
            if b is not None:
                b[1::2] = 0
        for name, (w, b) in changed.items():
            model.set_matrix(layer, name, w, b)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_idle_goes_without_a_trace(family):
    """Half the width of the planted model is free; half the width of a plain one is not. Value biases become part of the output's."""
    ids = text_for(model_of(family)).ids
    for model, least, most in ((plant(family), 0.0, 2e-4), (model_of(family), 1e-2, 1e9)):
        plan, variant = planned(modegpt, model, keep=0.5)
        assert least <= float((variant.logits(ids) - model.logits(ids)).abs().max()) <= most
        assert (max(float(x.max()) for x in plan.dropped.values()) < 1e-9) == (least == 0)


def test_rotary_pairs_and_groups_stay_or_go_together():
    model = model_of("llama", d_model=32)  # heads of 8: pairs (0, 4) … (3, 7)
    plan, _ = planned(modegpt, model, keep=0.5, which="attn")
    for layer in range(3):
        queries, keys = plan.kept[f"{layer}.self_attn.q_proj"].view(2, 2, 2, 4), plan.kept[f"{layer}.self_attn.k_proj"].view(2, 2, 4)
        assert torch.equal(keys[:, 0], keys[:, 1]) and keys[:, 0].sum(1).tolist() == [2, 2]
        assert torch.equal(queries, keys[:, None].expand_as(queries))
        assert plan.kept[f"{layer}.self_attn.v_proj"].view(2, 8).sum(1).tolist() == [4, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cut_module_says_the_same(family):
    model = model_of(family)
    plan, variant = planned(modegpt, model, keep=0.5)
    module = modegpt.physical(model, plan)
    ids = text_for(model).ids
    with torch.no_grad():
        torch.testing.assert_close(module(input_ids=ids, use_cache=False).logits, variant.logits(ids), rtol=0, atol=2e-5)
    assert sum(p.numel() for p in module.parameters()) < sum(p.numel() for p in variant.module.parameters())


def test_bits_and_unequal_widths():
    model = model_of("llama")
    plan, variant = planned(modegpt, model, keep=0.5)
    assert modegpt.storage(model, plan).bits_per_weight == pytest.approx(16)  # half of 32
    assert model_bits(variant) == model_bits(model) - sum(w.numel() for _, _, w in model.matrices()) * 16
    unequal, _ = planned(modegpt, model, keep=0.5, allocation="influence", which="mlp")
    assert float(unequal.width.mean()) == pytest.approx(0.5) and float(unequal.width.std()) > 0.01
    assert [int(unequal.kept[f"{i}.mlp.up_proj"].sum()) for i in range(3)] == [modegpt.kept_of(w, 24) for w in unequal.width.tolist()]
