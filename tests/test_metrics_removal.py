"""The measured sweep equals the masked model's full forward; KL by hand; what a removal may not change."""

import math

import numpy as np
import pytest
import torch

from metrics.divergence import AGREE, KL, LOG_P, LOG_Q, divergence, per_sequence, token_divergence
from metrics.removal import batch_size, next_tokens, sweep, units
from metrics.residuals import head, record
from metrics.similarity import similarities
from models.layout import layout_for
from models.loaded import Model
from tests.operator_bench import model_of, text_for


def neox(parallel=True):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    return _strong(GPTNeoXForCausalLM(GPTNeoXConfig(num_hidden_layers=3, hidden_size=16, intermediate_size=32, num_attention_heads=2, vocab_size=32,
                                                    max_position_embeddings=64, use_parallel_residual=parallel, bos_token_id=0, eos_token_id=1)))


def gemma2():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    return _strong(Gemma2ForCausalLM(Gemma2Config(num_hidden_layers=3, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1,
                                                  head_dim=8, vocab_size=32, max_position_embeddings=64, sliding_window=4, final_logit_softcapping=5.0)))


def _strong(module):
    for p in module.parameters():
        p.requires_grad_(False).mul_(6 if p.dim() == 2 else 1)
    return Model(module.eval(), None, layout_for(module.config), "tiny")


MODELS = {"gpt2": lambda: model_of("gpt2"), "llama": lambda: model_of("llama"), "neox": neox, "neox serial": lambda: neox(False), "gemma2": gemma2}
LACKING = {"whole": frozenset(), "lacking": frozenset({(1, "attn"), (1, "mlp"), (0, "mlp")})}


def plain_kl(p_logits, q_logits):
    p, q = p_logits.double().log_softmax(-1), q_logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("name", MODELS)
def test_sweep_equals_the_masked_model(name, lacking):
    model = MODELS[name]().copy("subject")
    model.remove(LACKING[lacking])
    text = text_for(model, 10, 12)
    wanted = units(model)
    assert len(wanted) == {"whole": 9, "lacking": 5}[lacking]
    sums = sweep(model, text.ids, text.keep, wanted)
    mask, targets = text.keep.long(), next_tokens(text.ids, text.keep)[text.keep]
    reference = model.logits(text.ids, mask)[text.keep]
    late = (text.keep.nonzero()[:, 1] > 0).double()
    for u, unit in enumerate(wanted):
        masked = model.copy("masked")
        masked.remove(unit.sublayers)
        logits = masked.logits(text.ids, mask)[text.keep]
        kl = plain_kl(reference, logits)
        nll = -logits.double().log_softmax(-1)[targets >= 0].gather(1, targets[targets >= 0][:, None])
        assert sums.kl[u, 0].sum() / len(kl) == pytest.approx(float(kl.mean()), abs=1e-5)
        assert sums.kl[u, 1].sum() == pytest.approx(float((kl * late).sum()), abs=1e-4)
        assert sums.nll[u, 0].sum() == pytest.approx(float(nll.sum()), rel=1e-5)
        assert sums.agree[u, 0].sum() == (reference.argmax(-1) == logits.argmax(-1)).sum()
    assert sums.kl[0, 0].sum() / len(kl) > 1e-3  # the blocks do something
    assert sums.tokens[0].sum() == text.keep.sum() and sums.targets[0].sum() == (targets >= 0).sum()


@pytest.mark.parametrize("name", MODELS)
def test_the_recorded_stream_is_the_model(name):
    """The last state is the true block output, before the final norm (not hidden_states[-1]), and the head gives the logits."""
    model = MODELS[name]()
    ids = text_for(model, 3, 10).ids
    seen = record(model, ids)
    with torch.inference_mode():
        assert torch.allclose(head(model)(seen.post), model.logits(ids), atol=1e-5)
        hidden = model.module(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        for state, known in zip(seen.states[:-1], hidden[:-1]):
            assert torch.equal(state, known)
        assert not torch.allclose(seen.states[-1], hidden[-1], atol=1e-2)
        assert torch.allclose(model.module.get_submodule(model.layout.final_norm)(seen.states[-1]), hidden[-1], atol=1e-6)


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_block_that_adds_nothing_costs_nothing(family):
    """Planted: block 1 with zero output matrices, not marked as removed."""
    model = model_of(family)
    for name in (model.layout.attn_output, model.layout.mlp_output):
        module = model.blocks[1].get_submodule(name)
        model.set_matrix(1, name, torch.zeros_like(model.matrix(1, name)), None if module.bias is None else torch.zeros_like(module.bias))
    text = text_for(model, 8, 12)
    wanted = units(model)
    sums, similar = sweep(model, text.ids, text.keep, wanted), similarities(model, text.ids, text.keep)
    kl = {(u.kind, u.layer): sums.kl[i, 0].sum() / sums.tokens[0].sum() for i, u in enumerate(wanted)}
    assert all(abs(kl[kind, 1]) < 1e-6 for kind in ("block", "attn", "mlp"))
    assert all(kl[kind, layer] > 1e-3 for kind in ("block", "attn", "mlp") for layer in (0, 2))
    assert np.abs(similar.scores[:, 1]).max() < 1e-12 and similar.angular[1, 2] < 1e-6
    assert (similar.scores[:, [0, 2]] > 1e-3).all()


def test_block_of_both_sublayers_and_a_sublayer_alone():
    """Once a block's MLP is gone, removing its attention is removing the block."""
    model = model_of("llama").copy("subject")
    model.remove(frozenset({(1, "mlp")}))
    text = text_for(model, 6, 10)
    wanted = units(model)
    kl = dict(zip(((u.kind, u.layer) for u in wanted), sweep(model, text.ids, text.keep, wanted).kl[:, 0].sum(-1)))
    assert ("mlp", 1) not in kl and kl["attn", 1] == pytest.approx(kl["block", 1], abs=1e-6)


def test_scores_of_a_sublayer_against_a_plain_loop():
    model = model_of("gpt2")
    text = text_for(model, 9, 11)
    similar = similarities(model, text.ids, text.keep)
    states = {}
    hooks = [model.blocks[1].register_forward_pre_hook(lambda m, a: states.update(pre=a[0])),
             model.blocks[1].ln_2.register_forward_pre_hook(lambda m, a: states.update(mid=a[0])),
             model.blocks[1].register_forward_hook(lambda m, a, out: states.update(post=out))]
    model.logits(text.ids, text.keep.long())
    [h.remove() for h in hooks]
    late = text.keep.clone()
    late[:, 0] = False
    cos = lambda a, b, keep: float((1 - torch.cosine_similarity(states[a].double(), states[b].double(), dim=-1))[keep].mean())
    for kind, (a, b) in enumerate((("pre", "post"), ("pre", "mid"), ("mid", "post"))):
        assert similar.scores[kind, 1, 0] == pytest.approx(cos(a, b, text.keep), abs=1e-6)
        assert similar.scores[kind, 1, 1] == pytest.approx(cos(a, b, late), abs=1e-6)
    rows, last = torch.arange(9), text.keep.sum(1) - 1
    known = torch.arccos(torch.cosine_similarity(states["pre"][rows, last].double(), states["post"][rows, last].double(), dim=-1)).mean() / math.pi
    assert similar.angular[1, 2] == pytest.approx(float(known), abs=1e-6)


def test_order_and_batches_change_nothing():
    model = model_of("gpt2")
    text = text_for(model, 20, 24)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    one, two = similarities(model, text.ids, text.keep), similarities(model, text.ids[shuffled], text.keep[shuffled])
    assert np.allclose(one.scores, two.scores, atol=1e-7) and np.allclose(one.angular, two.angular, atol=1e-7)


def test_divergence_by_hand():
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    found = token_divergence(p.log() - 30, q.log() + 4, torch.tensor([0, -1]))  # a shift of logits is no change
    assert found[:, KL].tolist() == pytest.approx([0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1),
                                                   0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)], abs=1e-6)
    assert found[0, LOG_P] == pytest.approx(math.log(0.5), abs=1e-6) and found[0, LOG_Q] == pytest.approx(math.log(0.9), abs=1e-6)
    assert found[1, LOG_Q].isnan() and found[:, AGREE].tolist() == [1.0, 1.0]  # a tie goes to the lowest id
    assert found[0, KL] != pytest.approx(float(found[1, KL]), abs=1e-3)  # the direction matters


def test_divergence_of_itself_is_zero_and_chunks_agree():
    g = torch.Generator().manual_seed(0)
    hidden, other, unembed = torch.randn(300, 8, generator=g), torch.randn(300, 8, generator=g), torch.randn(8, 40_000, generator=g)
    targets = torch.randint(40_000, (300,), generator=g)
    apply_head = lambda h: h @ unembed
    reference = apply_head(hidden)
    same, apart = divergence(reference, hidden, apply_head, targets), divergence(reference, other, apply_head, targets)
    assert same[:, KL].abs().max() < 1e-5 and same[:, AGREE].min() == 1
    assert torch.allclose(apart[:, KL].double(), plain_kl(reference, apply_head(other)), rtol=1e-4)  # three chunks of 128 tokens


def test_next_tokens_and_sums_by_sequence():
    ids, keep = torch.tensor([[5, 6, 7], [8, 9, 2]]), torch.tensor([[True] * 3, [True, True, False]])
    assert next_tokens(ids, keep).tolist() == [[6, 7, -1], [9, -1, -1]]
    values = torch.tensor([[1.0], [2.0], [float("nan")], [4.0]])
    assert per_sequence(values, torch.tensor([0, 0, 1, 1]), 3)[:, 0].tolist() == [3.0, 4.0, 0.0]


def test_batches_are_fixed_by_length_and_vocabulary():
    assert [batch_size(128, 1000), batch_size(1024, 1000), batch_size(4096, 50_000), batch_size(16, 1000)] == [8, 1, 1, 8]
