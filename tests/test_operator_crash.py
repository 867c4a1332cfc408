"""CRaSh: clusters by hand and against agglomeration, CKA against the formula, planted clusters found, whole blocks shared or gone, bits, refusals."""

import numpy as np
import pytest
import torch

from metrics.model_bits import model_bits
from models.progress import Quiet
from models.refusal import Refused
from operators import crash, drop_layers, skip_loop
from operators.crash import Params, centres, clustered, n_clusters, neighbours, pool
from tests.operator_bench import FAMILIES, model_of, planned, text_for, weights_of


def test_by_hand():
    """Six blocks, neighbours alike by 0.9, 0.2, 0.8, 0.7, 0.3: three clusters are cut at 0.2 and 0.3, {0, 1} {2, 3, 4} {5}; 1, 3 and 5 stay.
    Two clusters keep only the cut at 0.2."""
    alike = np.array([0.9, 0.2, 0.8, 0.7, 0.3])
    assert clustered(alike, 3).tolist() == [0, 0, 1, 1, 1, 2] and centres(clustered(alike, 3)) == [1, 3, 5]
    assert clustered(alike, 2).tolist() == [0, 0, 1, 1, 1, 1] and centres(clustered(alike, 2)) == [1, 4]
    assert clustered(alike, 1).tolist() == [0] * 6 and clustered(alike, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert clustered(np.array([0.9, np.nan, 0.1]), 2).tolist() == [0, 0, 1, 1]
    assert [n_clusters(Params(), n) for n in (6, 5, 1)] == [3, 3, 1] and n_clusters(Params(clusters=9), 6) == 6


def agglomerated(alike, n):
    """The paper's way: merge the two neighbouring clusters whose touching blocks are most alike until n are left."""
    clusters = [[i] for i in range(len(alike) + 1)]
    while len(clusters) > n:
        best = max(range(len(clusters) - 1), key=lambda i: alike[clusters[i][-1]])
        clusters[best : best + 2] = [clusters[best] + clusters[best + 1]]
    return clusters


def test_cutting_is_agglomeration_and_clusters_are_nested():
    rng = np.random.default_rng(0)
    for _ in range(20):
        alike = rng.random(8)
        for n in range(1, 10):
            found = clustered(alike, n)
            assert [np.flatnonzero(found == c).tolist() for c in range(n)] == agglomerated(alike, n)


def test_a_sequence_becomes_one_vector():
    states = torch.arange(12.0).view(1, 2, 3, 2)
    keep = torch.tensor([[True, True, True], [True, True, False]])
    assert pool(states, keep, "mean").tolist() == [[[2, 3], [7, 8]]]
    assert pool(states, keep, "last").tolist() == [[[4, 5], [8, 9]]]
    assert pool(-states, keep, "max").tolist() == [[[0, -1], [-6, -7]]]


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_clusters_are_found_whatever_the_measure(family):
    """Blocks 1 and 2 add nothing and 4 adds nothing: {0, 1, 2} and {3, 4} leave equal states, so 1 and 4 stay; both measures are 1 inside and less
    between. In a random model, the control, no two neighbours are alike."""
    model = model_of(family, n_layers=5)
    for i in (1, 2, 4):
        for name in (model.layout.attn_output, model.layout.mlp_output):
            module = model.blocks[i].get_submodule(name)
            model.set_matrix(i, name, torch.zeros_like(model.matrix(i, name)), torch.zeros_like(module.bias) if module.bias is not None else None)
    text = text_for(model)
    for alike in ("cka", "cosine"):
        for how in ("mean", "last", "max"):
            found = neighbours(model, Params(alike=alike, pool=how), text.ids, text.keep, Quiet())
            assert found[[0, 1, 3]] == pytest.approx(1, abs=1e-5) and found[2] < 0.999
    plan, variant = planned(crash, model, clusters=2)
    assert plan.cluster.tolist() == [0, 0, 0, 1, 1] and plan.source.tolist() == [1, 1, 1, 4, 4]
    random = planned(crash, model_of(family, n_layers=5), clusters=2)[0]
    assert random.alike.max() < 0.9999


def test_cka_is_the_formula():
    model = model_of("llama")
    text = text_for(model)
    from metrics.residuals import record

    x, y = (torch.stack([s[k].mean(0) for s, k in zip(state, text.keep)]).double() for state in record(model, text.ids, text.keep.long()).states[1:3])
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert neighbours(model, Params(), text.ids, text.keep, Quiet())[0] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_is_the_chain_of_the_centres_and_removing_drops_the_others(family):
    model = model_of(family, n_layers=4)
    ids = text_for(model).ids
    plan, shared = planned(crash, model, clusters=2)
    source = plan.source.tolist()
    assert len(set(source)) == 2 and all(source[c] == c for c in source)
    _, chain = planned(skip_loop, model, chain=tuple(source))
    assert torch.equal(shared.logits(ids), chain.logits(ids))
    norm = lambda m, i: m.blocks[i].get_submodule(model.layout.attn_norm).weight
    assert all(torch.equal(norm(shared, p), norm(model, c)) and norm(shared, p).data_ptr() == norm(shared, c).data_ptr() for p, c in enumerate(source))
    plan, removed = planned(crash, model, clusters=2, rest="remove")
    assert plan.source.tolist() == [c if c == p else -1 for p, c in enumerate(source)]
    _, dropped = planned(drop_layers, model, drop_layers.Params(blocks=tuple(p for p, c in enumerate(source) if c != p)))
    assert torch.equal(removed.logits(ids), dropped.logits(ids)) and removed.layers == dropped.layers


@pytest.mark.parametrize("rest,faster", (("share", False), ("remove", True)))
def test_one_block_a_cluster_is_stored(rest, faster):
    model = model_of("llama", n_layers=4)
    plan, variant = planned(crash, model, clusters=3, rest=rest)
    block = sum(p.numel() for p in model.blocks[0].parameters()) * 32
    assert model_bits(variant) == model_bits(model) - block
    kept = crash.storage(model, plan)
    assert kept.bits == 3 * sum(w.numel() for k, w in weights_of(model).items() if k.startswith("0.")) * 32 and kept.bits_per_weight == 24 and kept.faster == faster


def test_too_few_sequences_are_refused_before_anything_runs(monkeypatch):
    model = model_of("gpt2")
    text = text_for(model, n_sequences=3, length=60)
    text.keep[:] = False
    with pytest.raises(Refused, match="0 tokens"):
        crash.decide(model, Params(), text, Quiet())
    text = text_for(model, n_sequences=3, length=64)
    text.keep[:] = True
    text.ids, text.keep = torch.cat([text.ids] * 2, 1)[:, :128], torch.cat([text.keep] * 2, 1)[:, :128]
    monkeypatch.setattr(crash, "record", lambda *a: pytest.fail("it ran"))
    with pytest.raises(Refused, match="this text has 3; expected at least 4"):
        crash.decide(model, Params(), text, Quiet())
