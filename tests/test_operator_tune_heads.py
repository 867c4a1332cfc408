"""Only the chosen slices move, every other weight keeps its bits; counts, groups, gradients and resuming; heads that the scan finds."""

import numpy as np
import pytest
import torch

from metrics import head_tuning
from metrics.head_tuning import IGNORED, Examples, head_parts, n_tuned, of_prompts, of_text, put, tune, whole_parts
from metrics.prompts.arithmetic_set import correct, some
from models.layout import heads as heads_of
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from operators import parse, tune_heads
from tests import planted
from tests.operator_bench import model_of, text_for
from tests.test_analysis_layer_redundancy import Interrupted
from tests.test_metrics_removal import neox

MODELS = {"gpt2": lambda: model_of("gpt2"), "llama": lambda: model_of("llama"), "neox": neox}
every_model = pytest.mark.parametrize("name", MODELS)


def examples(model, seed=0):
    text = text_for(model, n_sequences=8, length=12, seed=seed)
    return of_text(text.ids, text.keep, None)


def trained(model, parts, **more):
    values = tune(model, parts, examples(model), **{"steps": 3, "batch": 4, "rate": 0.05, "progress": Quiet(), **more})
    after = model.copy("after")
    put(after, parts, values)
    return after


@every_model
def test_every_weight_outside_the_slices_keeps_its_bits(name):
    model = MODELS[name]()
    heads = ((0, 1), (2, 0))
    parts = head_parts(model, heads)
    after = trained(model, parts)
    before, now = dict(model.module.named_parameters()), dict(after.module.named_parameters())
    touched = {f"{model.layout.blocks}.{p.key}.weight" for p in parts}
    for name_, tensor in before.items():
        if name_ not in touched:
            assert now[name_] is tensor or torch.equal(now[name_], tensor), name_
    for part in parts:
        layer, matrix = head_tuning.split_key(part.key)
        changed = model.matrix(layer, matrix) != after.matrix(layer, matrix)
        inside = torch.zeros_like(changed)
        inside.index_fill_(part.dim, part.index, True)
        assert not (changed & ~inside).any() and changed[inside].float().mean() > 0.9
    assert (after.logits(text_for(model).ids) - model.logits(text_for(model).ids)).abs().max() > 1e-3


@every_model
def test_the_slices_of_a_head_are_its_four_matrices(name):
    model = MODELS[name]()
    shape, d = heads_of(model.config), model.config.hidden_size
    group = shape.n_heads // shape.n_kv
    assert n_tuned(model, head_parts(model, ((1, 0),))) == 4 * d * shape.d_head
    whole = tuple((1, h) for h in range(group))  # the heads of one group share their K and V
    assert n_tuned(model, head_parts(model, whole)) == (2 * group + 2) * d * shape.d_head
    every = tuple((layer, h) for layer in range(3) for h in range(shape.n_heads))
    parts = head_parts(model, every)
    assert n_tuned(model, parts) == sum(m.n_out * m.n_in for m in shape_of(model).chosen("attn"))
    assert head_parts(model, ()) == [] and n_tuned(model, whole_parts(model, "mlp",
                                                                      (1,))) == sum(m.n_out * m.n_in for m in shape_of(model).chosen("mlp") if m.layer == 1)


@every_model
def test_a_head_is_silenced_by_the_slices_that_are_said_to_be_its_own(name):
    """Zero V rows, or zero O columns, of one head's group make exactly that group's contribution vanish."""
    from metrics.patching.end import record

    model = MODELS[name]()
    shape = heads_of(model.config)
    group = tuple((1, h) for h in range(shape.n_heads // shape.n_kv))
    ids = text_for(model, n_sequences=3, length=8).ids[:, :8]
    parts = head_parts(model, group)
    silent = model.copy("silent")
    put(silent, parts, [torch.zeros_like(p.of(model)) for p in parts])
    attn = model.blocks[1].get_submodule(model.layout.attn_inputs[-1])
    bias = getattr(attn, "bias", None)
    z = record(silent, ids).z[1]
    mine = z[:, [h for _, h in group]]
    if bias is None:
        assert mine.abs().max() == 0
    else:  # what is left is the bias of V, the same for every prompt
        assert torch.allclose(mine, mine[:1].expand_as(mine), atol=1e-6)
    others = [h for h in range(shape.n_heads) if (1, h) not in group]
    assert torch.allclose(z[:, others], record(model, ids).z[1][:, others], atol=1e-5)
    columns = silent.matrix(1, model.layout.attn_output).unflatten(1, (shape.n_heads, -1))
    assert columns[:, [h for _, h in group]].abs().max() == 0 and (columns[:, others] != 0).any()


def test_a_grouped_head_tunes_the_key_and_value_of_its_group_only():
    model = model_of("llama")
    parts = {p.key: p for p in head_parts(model, ((0, 3),))}
    assert parts["0.self_attn.q_proj"].index.tolist() == [12, 13, 14, 15] and parts["0.self_attn.o_proj"].index.tolist() == [12, 13, 14, 15]
    assert parts["0.self_attn.k_proj"].index.tolist() == parts["0.self_attn.v_proj"].index.tolist() == [4, 5, 6, 7]  # group 1 of two


def test_all_heads_is_ordinary_attention_only_tuning():
    """With Adam as torch has it, on the same batches; the factor is 1."""
    model = model_of("gpt2")
    every = tuple((layer, h) for layer in range(3) for h in range(2))
    after = trained(model, head_parts(model, every), steps=4, rate=0.01)
    plain = model.copy("plain")
    names = [f"{model.layout.blocks}.{layer}.attn.{m}.weight" for layer in range(3) for m in ("c_attn", "c_proj")]
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(plain.module.get_submodule(owner), leaf, torch.nn.Parameter(plain.module.get_parameter(name).clone()))
    weights = [plain.module.get_parameter(name) for name in names]
    optimiser, data = torch.optim.Adam(weights, 0.01), examples(model)
    for step in range(4):
        chosen = torch.from_numpy(np.random.default_rng([0, step]).choice(8, 4, replace=False))
        logits = plain.module(input_ids=data.ids[chosen], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), data.targets[chosen].flatten(), ignore_index=IGNORED)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
    for name in names:
        assert torch.allclose(plain.module.get_parameter(name), after.module.get_parameter(name), atol=1e-6)


def test_the_factor_is_a_larger_rate_for_sgd_and_next_to_nothing_for_adam():
    model = model_of("llama")
    parts = head_parts(model, ((1, 0),))
    step = lambda **more: [new - part.of(model) for new, part in zip(tune(model, parts, examples(model), batch=4, progress=Quiet(),
                                                                          **{"steps": 1, **more}), parts)]
    for one, three in zip(step(rate=0.01, optimiser="sgd"), step(rate=0.01, optimiser="sgd", scale=3.0)):
        assert torch.allclose(3 * one, three, atol=1e-6)
    for one, three in zip(step(rate=0.01), step(rate=0.01, scale=3.0)):
        assert torch.allclose(one, three, atol=1e-4) and one.abs().max() > 1e-3


def test_no_step_and_no_head_change_nothing():
    model = model_of("gpt2")
    parts = head_parts(model, ((0, 0),))
    for value, part in zip(tune(model, parts, examples(model), steps=0, batch=4, rate=1.0, progress=Quiet()), parts):
        assert torch.equal(value, part.of(model))
    plan = tune_heads.decide(planted.model(), tune_heads.Params(k=0, steps=2), None, Quiet())
    assert plan.keys == () and plan.heads == ()


def test_a_resumed_training_is_bit_for_bit_the_whole_one():
    model = model_of("llama")
    parts = head_parts(model, ((0, 0), (1, 2)))
    whole = tune(model, parts, examples(model), steps=6, batch=4, rate=0.05, progress=Quiet())
    cut = Interrupted(after=2)
    with pytest.raises(KeyboardInterrupt):
        tune(model, parts, examples(model), steps=6, batch=4, rate=0.05, progress=cut)
    assert cut.kept["step"] == 3
    cut.kept = {k: [x.clone() for x in v] if isinstance(v, list) else v for k, v in cut.kept.items()}
    cut.after = None
    assert all(torch.equal(a, b) for a, b in zip(whole, tune(model, parts, examples(model), steps=6, batch=4, rate=0.05, progress=cut)))


# ---- what is trained on


def test_targets_by_hand():
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 2, 2]])
    keep, marked = torch.tensor([[True] * 4, [True, True, False, False]]), torch.tensor([[False, False, True, False], [False] * 4])
    assert of_text(ids, keep, None).targets.tolist() == [[6, 7, 8, IGNORED], [6, IGNORED, IGNORED, IGNORED]]
    assert of_text(ids, keep, marked).targets.tolist() == [[IGNORED, 7, IGNORED, IGNORED], [IGNORED] * 4]
    assert of_text(ids, keep, torch.zeros_like(marked)).targets.tolist() == [[6, 7, 8, IGNORED], [6, IGNORED, IGNORED, IGNORED]]
    prompts = [type("P", (), {"ids": (3, 4, 5), "answer": 9})(), type("P", (), {"ids": (3, 4), "answer": 8})()]
    assert of_prompts(prompts).targets.tolist() == [[IGNORED, IGNORED, 9], [IGNORED, 8, IGNORED]] and of_prompts(prompts).ids[1, :2].tolist() == [3, 4]


def test_a_broken_head_is_repaired_by_right_answers_and_not_by_shuffled_ones():
    """Planted: the head that writes the last number writes the next one louder. Tuning its slices in one set of wordings brings
    the answers back in others; the same steps on answers dealt out at random do not."""
    model = planted.model()
    columns = [p for p in head_parts(model, ((1, 2),)) if p.dim == 1]
    broken = model.copy("broken")
    put(broken, columns, [0.55 * p.of(model) + 0.65 * p.of(model).roll(1, 0) for p in columns])
    asked = some(broken, ("plus",), 60, 9, 0, True, True)
    data = of_prompts(some(broken, ("plus",), 400, 9, 0, False, True))
    assert sum(correct(broken, asked)) == 0 and sum(correct(model, asked)) == len(asked)

    def share(data):
        own, after = head_parts(broken, ((1, 2),)), broken.copy("after")
        put(after, own, tune(broken, own, data, steps=60, batch=64, rate=0.03, progress=Quiet()))
        return sum(correct(after, asked)) / len(asked)

    at = (data.targets != IGNORED).nonzero(as_tuple=True)
    dealt = data.targets.clone()
    dealt[at] = data.targets[at][torch.randperm(len(at[0]), generator=torch.Generator().manual_seed(0))]
    assert share(data) > 0.8 and share(Examples(data.ids, dealt)) < 0.4


# ---- the operator


def test_the_scan_chooses_the_planted_heads_and_only_their_slices_are_stored():
    model = planted.model()
    plan = tune_heads.decide(model, tune_heads.Params(k=3, steps=2, rate=1e-4), None, Quiet())
    assert set(plan.heads) == {f"L{layer}H{h}" for layer, h in planted.PLANTED}
    assert sum(v.numel() for v in plan.values.values()) == 3 * 4 * model.config.n_embd * planted.D_HEAD
    assert set(plan.keys) == {"0.attn.c_attn", "0.attn.c_proj", "1.attn.c_attn", "1.attn.c_proj"}


def test_named_heads_random_heads_mlps_and_every_matrix():
    model = planted.model()
    decide = lambda **fields: tune_heads.decide(model, tune_heads.Params(steps=1, **fields), None, Quiet())
    assert decide(heads="L2H1.L0H0").heads == ("L2H1", "L0H0")
    torch.manual_seed(0)
    one = decide(choose="random", k=5).heads
    torch.manual_seed(1)
    assert len(one) == 5 and decide(choose="random", k=5).heads != one
    assert {k for k in decide(heads="L0H0", mlps=(1,)).keys if "mlp" in k} == {"1.mlp.c_fc", "1.mlp.c_proj"}
    whole = decide(choose="every matrix")
    assert len(whole.keys) == 3 * 4 and whole.heads == ()


def test_what_cannot_be_tuned_is_refused_in_words():
    model = model_of("gpt2")
    shape = shape_of(model)
    with pytest.raises(Refused, match="no head L9H0"):
        tune_heads.check(tune_heads.Params(heads="L9H0"), shape)
    with pytest.raises(Refused, match="written like"):
        tune_heads.check(tune_heads.Params(heads="3.5"), shape)
    with pytest.raises(NotApplicable, match="no MLP left in block 7"):
        tune_heads.check(tune_heads.Params(mlps=(7,)), shape)
    model.remove(frozenset({(1, "attn")}))
    with pytest.raises(NotApplicable, match="attention of L1H0 has been removed"):
        tune_heads.check(tune_heads.Params(heads="L1H0"), shape_of(model))
    with pytest.raises(Refused, match="single token"):  # no digit in this vocabulary
        tune_heads.decide(model_of("gpt2"), tune_heads.Params(heads="L0H0", steps=1), None, Quiet())
    with pytest.raises(Refused, match="too few arithmetic prompts"):
        tune_heads.decide(silent_adder(), tune_heads.Params(steps=1), None, Quiet())


def silent_adder():
    model = planted.model()
    model.remove(frozenset({(2, "mlp")}))
    return model


def test_the_written_form_reads_back():
    text = "demo/storyteller-a~tune_heads:heads=L0H4.L3H6,steps=20"
    assert parse(text).written == text and parse(text).steps[0].on is None
    assert parse("demo/storyteller-a~tune_heads:on_what=text").steps[0].on is not None


def test_examples_are_padded_only_where_no_one_looks():
    """A batch with a short and a long prompt gives the slopes of each alone."""
    model = model_of("llama")
    short, long = (torch.randint(3, 32, (1, n), generator=torch.Generator().manual_seed(n)) for n in (4, 9))
    ids, targets = torch.zeros(2, 9, dtype=torch.long), torch.full((2, 9), IGNORED)
    ids[0, :4], ids[1], targets[0, 3], targets[1, 8] = short[0], long[0], 7, 8
    parts = head_parts(model, ((1, 1),))
    step = lambda data: tune(model, parts, data, steps=1, batch=2, rate=1.0, optimiser="sgd", progress=Quiet())
    moved = lambda data: [new - part.of(model) for new, part in zip(step(data), parts)]
    alone = [moved(Examples(i, torch.cat([torch.full((1, i.shape[1] - 1), IGNORED), torch.tensor([[t]])], 1))) for i, t in ((short, 7), (long, 8))]
    for both, a, b in zip(moved(Examples(ids, targets)), *alone):
        assert torch.allclose(both, (a + b) / 2, atol=1e-5)
