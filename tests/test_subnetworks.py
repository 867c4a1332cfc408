"""Subnetworks: identities with the model, where weights are counted in three architectures, and the overlap's null."""

import numpy as np
import pytest
import torch

from metrics import subnetworks as sub
from models.shape import shape_of
from tests.operator_bench import model_of, text_for
from tests.test_metrics_removal import neox


def models():
    return {"gpt2": model_of("gpt2"), "llama": model_of("llama"), "neox": neox()}


def random_masks(model, seed=0, share=0.3):
    generator = torch.Generator().manual_seed(seed)
    return {m.key: torch.rand(m.n_out, m.n_in, generator=generator) < share for m in shape_of(model).matrices}


@pytest.mark.parametrize("family", ("gpt2", "llama", "neox"))
def test_full_is_the_model_bit_for_bit_and_empty_is_embeddings_norms_and_biases(family):
    model = models()[family]
    shape, ids = shape_of(model), torch.randint(3, 32, (3, 12), generator=torch.Generator().manual_seed(0))
    full = {m.key: torch.ones(m.n_out, m.n_in, dtype=torch.bool) for m in shape.matrices}
    assert torch.equal(sub.subnetwork(model, full).logits(ids), model.logits(ids))
    empty = sub.subnetwork(model, sub.nothing(shape))
    kept = {n: p for n, p in model.module.named_parameters()}
    for name, p in empty.module.named_parameters():
        masked = p.dim() == 2 and name.startswith(model.layout.blocks + ".")
        assert (p.abs().max() == 0) if masked else torch.equal(p, kept[name])
    assert not torch.equal(empty.logits(ids), model.logits(ids))


@pytest.mark.parametrize("family", ("gpt2", "llama", "neox"))
def test_a_mask_and_its_complement_make_the_weights(family):
    model = models()[family]
    masks = random_masks(model)
    a, b = sub.subnetwork(model, masks), sub.subnetwork(model, sub.complement(masks))
    for m in shape_of(model).matrices:
        assert torch.equal(a.matrix(m.layer, m.name) + b.matrix(m.layer, m.name), model.matrix(m.layer, m.name))


@pytest.mark.parametrize("family", ("gpt2", "llama", "neox"))
def test_counts_add_up_and_random_matches_keep_them(family):
    model = models()[family]
    masks = random_masks(model)
    found = sub.where(model, masks)
    assert found.layer.sum() == sub.n_active(masks)
    assert np.nansum(found.head) == found.layer[:, :4].sum() and np.allclose(np.nansum(found.head, 2), found.layer[:, :4])
    random = sub.shuffled(masks, 1)
    assert all(int(random[k].sum()) == int(m.sum()) and not torch.equal(random[k], m) for k, m in masks.items())
    among = {k: torch.rand(m.shape) < 0.6 for k, m in masks.items()}
    assert not any((mask & ~among[k]).any() for k, mask in sub.shuffled(masks, 1, among).items())


def test_gpt2_thirds_by_hand():
    """c_attn as [out, in] is Q, K, V in thirds; 2 heads of 8: row 16 + 8 is the first row of K's second head."""
    model = model_of("gpt2")
    masks = sub.nothing(shape_of(model))
    masks["1.attn.c_attn"][16 + 8, :5] = True
    masks["1.attn.c_proj"][3, 0] = masks["1.attn.c_proj"][7, 15] = True
    found = sub.where(model, masks)
    assert found.head[1, 1].tolist() == [0, 5] and found.head[1, 3].tolist() == [1, 1] and found.layer[1].tolist() == [0, 5, 0, 2, 0, 0]


def test_neox_is_interleaved_head_by_head():
    """Pythia's query_key_value has rows (head, QKV, d_head): head 1's K starts at row 1·3·d + d, not at the second third."""
    model = neox()
    d, h = shape_of(model).heads.d_head, shape_of(model).heads.n_heads
    masks = sub.nothing(shape_of(model))
    masks["0.attention.query_key_value"][3 * d + d, :4] = True
    found = sub.where(model, masks)
    assert found.head[0, 1].tolist() == [0, 4, *[0] * (h - 2)] and found.layer[0, :4].tolist() == [0, 4, 0, 0]


@pytest.mark.parametrize("part", (0, 1, 2))
def test_neox_heads_are_those_of_the_forward(part):
    """Ground truth by running: zeroing head 1's K rows alone leaves every other head's output of the attention as it is."""
    model = neox()
    d = shape_of(model).heads.d_head
    masks = {m.key: torch.ones(m.n_out, m.n_in, dtype=torch.bool) for m in shape_of(model).matrices}
    masks["0.attention.query_key_value"][3 * d + part * d : 3 * d + (part + 1) * d] = False
    lost = sub.where(model, {k: ~m for k, m in masks.items()}).head[0]
    assert lost[part, 1] == d * shape_of(model).width and np.nansum(lost) == lost[part, 1]
    ids, seen = torch.randint(3, 32, (2, 10), generator=torch.Generator().manual_seed(0)), []
    for m in (model, sub.subnetwork(model, masks)):
        handle = m.blocks[0].get_submodule(model.layout.attn_output).register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        m.logits(ids)
        handle.remove()
    changed = (seen[0] - seen[1]).abs().amax((0, 1)).view(-1, d).amax(1)
    assert changed[1] > 1e-4 and changed[torch.arange(len(changed)) != 1].max() == 0


def test_llama_groups_have_their_own_k_and_v():
    model = model_of("llama")  # 4 query heads share 2 K/V heads
    masks = sub.nothing(shape_of(model))
    masks["2.self_attn.k_proj"][4:6, 0] = True
    masks["2.self_attn.q_proj"][12, :3] = True
    masks["2.mlp.up_proj"][0, :7] = True
    found = sub.where(model, masks)
    assert found.head[2, 1, :2].tolist() == [0, 2] and np.isnan(found.head[2, 1, 2:]).all()
    assert found.head[2, 0].tolist() == [0, 0, 0, 3] and found.layer[2].tolist() == [3, 2, 0, 0, 0, 7, 0]
    assert sub.components(model) == ("Q", "K", "V", "O", "MLP in", "MLP up", "MLP out")


def test_expected_overlap_by_hand_and_by_sampling():
    """2 of 6 and 3 of 6: expected 1 with variance 2·3·4·3/(36·5) = 0.4; with rows shuffled, column counts (1, 1, 0) and (2, 1, 0)
    of two rows give (2 + 1)/2 = 1.5."""
    a = {"x": torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)}
    b = {"x": torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.bool)}
    found = sub.overlap(a, b)
    assert (found.shared, found.a, found.b, found.n) == (1, 2, 3, 6) and found.expected == pytest.approx(1) and found.spread == pytest.approx(0.4**0.5)
    assert found.expected_rows == pytest.approx(1.5) and found.ratio == pytest.approx(1) and found.z == pytest.approx(0)
    model = model_of("gpt2")
    one, two = random_masks(model, 0, 0.2), random_masks(model, 1, 0.1)
    found = sub.overlap(one, two)
    drawn = np.array([sub.overlap(sub.shuffled(one, 2 * s), sub.shuffled(two, 2 * s + 1)).shared for s in range(300)])
    assert abs(drawn.mean() - found.expected) < 4 * found.spread / 300**0.5 and drawn.std() == pytest.approx(found.spread, rel=0.15)
    generator = torch.Generator().manual_seed(0)
    rows = lambda masks: {k: m[torch.randperm(len(m), generator=generator)] for k, m in masks.items()}
    by_rows = np.array([sub.overlap(rows(one), rows(two)).shared for _ in range(300)])
    assert abs(by_rows.mean() - found.expected_rows) < 4 * by_rows.std() / 300**0.5
    assert sub.overlap(one, one).shared == sub.n_active(one)
