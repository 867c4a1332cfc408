"""What may be reordered: legal moves leave the logits alone, illegal ones do not, and a planted order is found exactly."""

import numpy as np
import pytest
import torch

from metrics.permutation.matching import gains, total, weight_matching
from metrics.permutation.spec import Attention, Spec, agreement, apply, compose, identity, inverse, moved, nearest_rotation, random_maps
from metrics.permutation.transformer import checked, folded, symmetry_of
from models.layout import layout_for
from models.loaded import Model
from models.refusal import NotApplicable, Refused
from tests import tiny
from tests.operator_bench import model_of


def neox(seed=0):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=4, max_position_embeddings=64,
                                            vocab_size=32, rotary_pct=0.5)).eval()


def qwen3(seed=0):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                        max_position_embeddings=64, vocab_size=32, tie_word_embeddings=True)).eval()


def gemma2(seed=0):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(seed)
    return Gemma2ForCausalLM(Gemma2Config(num_hidden_layers=2, hidden_size=16, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                          max_position_embeddings=64, vocab_size=32)).eval()


def loud(module, seed=0):
    """Weights large enough that a wrong move shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        p.requires_grad_(False)
        p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.dim() == 2 else 0.2) + (0 if p.dim() == 2 or "bias" in name else 1))
    return Model(module, tiny.tokenizer(), layout_for(module.config), type(module).__name__)


MODELS = {
    "gpt2": lambda: model_of("gpt2"), "llama grouped": lambda: model_of("llama"), "llama": lambda: model_of("llama", n_kv=4), "llama one kv": lambda: model_of("llama", n_kv=1),
    "neox": lambda: loud(neox()), "qwen3 tied": lambda: loud(qwen3()), "gemma2": lambda: loud(gemma2()),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_legal_move_leaves_the_logits_alone(name):
    model = MODELS[name]()
    symmetry = checked(model, symmetry_of(model))
    ids = torch.randint(3, 32, (4, 12), generator=torch.Generator().manual_seed(0))
    model.module.double()
    for seed in range(3):
        maps = random_maps(symmetry.spec, torch.Generator().manual_seed(seed))
        other = symmetry.permuted(model, maps)
        before, after = model.logits(ids), other.logits(ids)
        assert (after - before).abs().max() < (1e-12 if name == "gpt2" else 1e-5) * (1 + before.abs().max())  # RMSNorm sums in float32 whatever the dtype
        pieces = symmetry.pieces(model)
        assert max(float((pieces[k] - p).abs().max()) for k, p in symmetry.pieces(other).items()) > 0.1
        back = apply(symmetry.spec, symmetry.pieces(other), inverse(maps))
        assert all(torch.equal(back[k], pieces[k]) for k in pieces)


@pytest.mark.parametrize("name", MODELS)
def test_a_planted_order_is_found_exactly(name):
    model = MODELS[name]()
    symmetry = symmetry_of(model)
    spec, a = symmetry.spec, symmetry.pieces(model)
    for seed in range(5):
        planted = random_maps(spec, torch.Generator().manual_seed(seed))
        b = apply(spec, a, planted)
        found = weight_matching(spec, a, b, seed=seed)
        again = apply(spec, b, found.maps)
        assert all(torch.equal(again[k], a[k]) for k in a)
        assert agreement(found.maps, inverse(planted)) == {s: 1.0 for s in spec.sizes}
        assert list(found.objective[1:]) == sorted(found.objective[1:]) and len(found.objective) <= 8


@pytest.mark.parametrize("widths", [(2, 8), (5, 16, 4), (8, 64, 64, 10), (8, 128, 3), (6, 32, 32, 32, 32, 5), (4, 16, 16, 16, 16, 16, 16, 16, 16, 2), (8, 256, 10)])
def test_a_planted_order_of_an_mlp_is_found_exactly(widths):
    axes, sizes, a, generator = {}, {}, {}, torch.Generator().manual_seed(len(widths))
    for i, (n, m) in enumerate(zip(widths, widths[1:])):
        out, inner = (None if i == len(widths) - 2 and len(widths) > 2 else f"h{i}"), (f"h{i - 1}" if i else None)
        axes |= {f"w{i}": (out, inner), f"b{i}": (out,)}
        sizes |= {out: m} if out else {}
        a |= {f"w{i}": torch.randn(m, n, generator=generator), f"b{i}": torch.randn(m, generator=generator)}
    spec = Spec(axes, sizes)
    for seed in range(20):
        planted = random_maps(spec, torch.Generator().manual_seed(seed))
        b = apply(spec, a, planted)
        found = weight_matching(spec, a, b, seed=seed).maps
        assert all(torch.equal(found[s], planted[s].argsort()) for s in sizes)
        assert all(torch.equal(p, a[k]) for k, p in apply(spec, b, found).items())


def test_the_share_found_falls_with_noise():
    model = MODELS["llama grouped"]()
    symmetry = symmetry_of(model)
    spec, a = symmetry.spec, symmetry.pieces(model)
    planted = random_maps(spec, torch.Generator().manual_seed(1))
    shares = []
    for sigma in (0.0, 0.05, 0.3, 3.0):
        generator = torch.Generator().manual_seed(2)
        b = {k: p + sigma * torch.randn(p.shape, generator=generator) for k, p in apply(spec, a, planted).items()}
        shares.append(np.mean(list(agreement(weight_matching(spec, a, b).maps, inverse(planted)).values())))
    assert shares[0] == 1.0 and shares[1] > 0.95 and shares[-1] < 0.5
    assert all(x >= y - 0.1 for x, y in zip(shares, shares[1:]))


ILLEGAL = {
    "without up": lambda m: (m.set_matrix(0, "mlp.gate_proj", m.matrix(0, "mlp.gate_proj")[torch.arange(23, -1, -1)]),
                             m.set_matrix(0, "mlp.down_proj", m.matrix(0, "mlp.down_proj")[:, torch.arange(23, -1, -1)])),
    "query head to another group": lambda m: (m.set_matrix(0, "self_attn.q_proj", m.matrix(0, "self_attn.q_proj").roll(4, 0)),
                                              m.set_matrix(0, "self_attn.o_proj", m.matrix(0, "self_attn.o_proj").roll(4, 1))),
    "units of q and k under rotary": lambda m: (m.set_matrix(0, "self_attn.q_proj", m.matrix(0, "self_attn.q_proj").view(4, 4, 16).flip(1).reshape(16, 16)),
                                                m.set_matrix(0, "self_attn.k_proj", m.matrix(0, "self_attn.k_proj").view(2, 4, 16).flip(1).reshape(8, 16))),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_move_changes_the_logits(name):
    """What the map must not do: the same check that passes legal moves sees these."""
    model = model_of("llama")
    ids = torch.randint(3, 32, (4, 12), generator=torch.Generator().manual_seed(0))
    other = model.copy("moved")
    ILLEGAL[name](other)
    assert (other.logits(ids) - model.logits(ids)).abs().max() > 0.05


def test_a_wrong_map_is_refused_on_load():
    """Q's units freed under rotary positions: the check on the model itself refuses."""
    import dataclasses

    model = model_of("llama")
    symmetry = symmetry_of(model)
    wrong = dataclasses.replace(symmetry.spec, attention=tuple(dataclasses.replace(a, free_qk=True) for a in symmetry.spec.attention))
    with pytest.raises(Refused, match="a logit moves by"):
        checked(model, dataclasses.replace(symmetry, spec=wrong))


def test_a_parameter_the_map_does_not_know_is_refused():
    model = model_of("gpt2")
    model.blocks[0].mlp.register_parameter("extra", torch.nn.Parameter(torch.ones(5)))
    with pytest.raises(Refused, match="mlp.extra"):
        symmetry_of(model)


def test_orders_by_hand():
    """take(W, [2, 0, 1]) on rows 10, 20, 30; then [1, 0, 2]; the inverse of [2, 0, 1] is [1, 2, 0]."""
    w, p, q = torch.tensor([10, 20, 30]), torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2])
    assert moved(w, p, 0).tolist() == [30, 10, 20]
    assert inverse({"x": p})["x"].tolist() == [1, 2, 0]
    assert moved(moved(w, p, 0), q, 0).tolist() == moved(w, compose({"x": p}, {"x": q})["x"], 0).tolist() == [10, 30, 20]
    heads = Attention("q", "k", "v", "z", 2, 2, 2, False).maps(torch.tensor([1, 0]), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [0, 1]]), torch.tensor([[1, 0], [0, 1]]))
    assert heads["k"].tolist() == [2, 3, 0, 1] and heads["v"].tolist() == [3, 2, 0, 1]
    assert heads["q"].tolist() == [4, 5, 6, 7, 2, 3, 0, 1] and heads["z"].tolist() == [5, 4, 7, 6, 2, 3, 0, 1]


def test_gains_by_hand():
    """One hidden layer of two units, one input, one output: A's unit 0 reads 1 and writes 2, B's unit 1 is that one with its sign flipped twice."""
    spec = Spec({"in": ("h", None), "out": (None, "h")}, {"h": 2})
    a = {"in": torch.tensor([[1.0], [0.0]]), "out": torch.tensor([[2.0, 1.0]])}
    b = {"in": torch.tensor([[0.0], [-1.0]]), "out": torch.tensor([[1.0, 2.0]])}
    assert gains(spec, a, b, identity(spec), "h")["h"].tolist() == [[2.0, 3.0], [1.0, 2.0]]  # [0·… + 2·1, 1·(−1) + 2·2]
    assert total(spec, a, b, identity(spec)) == 4.0 and total(spec, a, b, {"h": torch.tensor([1, 0])}) == 4.0
    b["in"] = -b["in"]  # the sign put right: now the swap is worth 6
    assert weight_matching(spec, a, b).maps["h"].tolist() == [1, 0] and weight_matching(spec, a, b).objective == (4.0, 6.0)


@pytest.mark.parametrize("name", ["gpt2", "llama grouped", "neox", "qwen3 tied"])
def test_a_folded_model_may_be_rotated_and_a_planted_rotation_is_found(name):
    model = MODELS[name]()
    model.module.double()
    ids = torch.randint(3, 32, (4, 12), generator=torch.Generator().manual_seed(0))
    flat = folded(model)
    before = model.logits(ids)
    assert (flat.logits(ids) - before).abs().max() < 1e-5 and model.config.tie_word_embeddings == (name in ("gpt2", "qwen3 tied"))
    symmetry = checked(flat, symmetry_of(flat, rotate=True))
    planted = random_maps(symmetry.spec, torch.Generator().manual_seed(1))
    turned = symmetry.permuted(flat, planted)
    assert planted["resid"].is_floating_point() and (turned.logits(ids) - before).abs().max() < 1e-4
    found = weight_matching(symmetry.spec, symmetry.pieces(flat), symmetry.pieces(turned))
    back = apply(symmetry.spec, symmetry.pieces(turned), found.maps)
    assert max(float((back[k] - p).abs().max()) for k, p in symmetry.pieces(flat).items()) < 1e-8


def test_a_rotation_that_moves_the_mean_breaks_layernorm():
    model = folded(model_of("gpt2"))
    symmetry = symmetry_of(model, rotate=True)
    maps = identity(symmetry.spec)
    ids = torch.randint(3, 32, (2, 8), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    gain = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    for keeps, legal in ((True, True), (False, False)):
        turned = symmetry.permuted(model, maps | {"resid": nearest_rotation(gain, keeps)})
        assert ((turned.logits(ids) - model.logits(ids)).abs().max() < 1e-3) == legal


def test_norms_that_cannot_be_folded_are_said_so():
    with pytest.raises(NotApplicable, match="gemma2"):
        folded(MODELS["gemma2"]())
    model = model_of("llama")
    model.blocks[0].input_layernorm.weight = torch.nn.Parameter(torch.zeros(16), requires_grad=False)
    with pytest.raises(NotApplicable, match="scale 0"):
        folded(model)


def test_both_axes_of_one_space_are_refused():
    with pytest.raises(Refused, match="Both axes"):
        Spec({"w": ("h", "h")}, {"h": 3})
