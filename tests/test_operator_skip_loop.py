"""A chain runs as it says: against running the blocks by hand; where blocks stand; what is stored; what is refused."""

import pytest
import torch

from metrics.chains import Runner, laid_out
from metrics.divergence import KL, token_divergence
from metrics.model_bits import foreseen_bits, model_bits
from metrics.residuals import head, record
from models.lab import Lab
from models.refusal import Refused
from models.shape import shape_of
from models.smaller import without_removed
from operators import OPERATORS, heal, parse, round_to_nearest, skip_loop
from tests.operator_bench import FAMILIES, model_of, planned, text_for
from tests.test_metrics_removal import neox

every_family = pytest.mark.parametrize("family", FAMILIES)


def by_hand(model, chain, ids):
    seen = record(model, ids)
    x = seen.pre[0]
    with torch.inference_mode():
        for c in chain:
            args, kwargs = seen.calls[model.layers.index(c)]
            x = model.blocks[c](x, *args, **kwargs)
        return head(model)(x)


def test_places_by_hand():
    assert laid_out((0, 1, 1, 2, 4), 6) in ((0, 1, 1, 2, 4, -1), (0, 1, 1, 2, 4, -1))
    assert laid_out((0, 1, 3, 4), 5) == (0, 1, -1, 3, 4)
    assert laid_out((0, 2, 2, 3), 4) == (0, 2, 2, 3) and laid_out((0, 2, 2), 4) == (0, -1, 2, 2)  # the first run of 2 stands at home
    assert laid_out((2, 1, 0), 3) == (2, 1, 0) and laid_out((), 2) == (-1, -1)
    assert laid_out((3,), 4) == (-1, -1, -1, 3)


@pytest.mark.parametrize("chain", ((0, 1, 2, 3), (0, 1, 3), (0, 1, 1, 3), (3, 0, 2), (2, 2, 2, 2), (1, 0, 3, 2)))
@every_family
def test_the_logits_are_those_of_the_chain(family, chain):
    model = model_of(family, n_layers=4)
    ids = text_for(model).ids
    _, variant = planned(skip_loop, model, chain=chain)
    assert torch.allclose(variant.logits(ids), by_hand(model, chain, ids), atol=1e-5)
    if len(chain) < 4:
        with torch.inference_mode():
            assert torch.allclose(without_removed(variant)(input_ids=ids, use_cache=False).logits, variant.logits(ids), atol=1e-5)
    keep = torch.ones_like(ids, dtype=torch.bool)
    cost = Runner(model, ids, keep).cost(chain)
    kl = token_divergence(model.logits(ids).flatten(0, 1), variant.logits(ids).flatten(0, 1), torch.full((ids.numel(),), -1))[:, KL]
    assert torch.allclose(torch.from_numpy(cost[0]).float(), kl.view(len(ids), -1).sum(1), rtol=1e-3, atol=1e-4)


def test_parallel_blocks_run_in_chains_too():
    model = neox()
    ids = text_for(model).ids
    _, variant = planned(skip_loop, model, chain=(0, 2))
    assert torch.allclose(variant.logits(ids), by_hand(model, (0, 2), ids), atol=1e-5)


@every_family
def test_a_repeated_block_is_stored_once_and_a_skipped_one_not_at_all(family):
    model = model_of(family, n_layers=4)
    block = sum(p.numel() for p in model.blocks[0].parameters()) * 32
    whole = model_bits(model)
    for chain, fewer in (((0, 1, 1, 3), 1), ((0, 0, 0, 0), 3), ((0, 1, 3), 1), ((3, 2, 1, 0), 0)):
        plan, variant = planned(skip_loop, model, chain=chain)
        assert model_bits(variant) == whole - fewer * block, chain
        assert skip_loop.storage(model, plan).bits == (4 - fewer) * sum(m.n_out * m.n_in * 32 for m in shape_of(model).matrices if m.layer == 0)


@every_family
def test_bits_and_lost_sublayers_go_with_their_block(family):
    model = model_of(family, n_layers=4)
    model.remove(frozenset({(2, "mlp")}))
    _, rounded = planned(round_to_nearest, model, group=8, which="attn")
    _, variant = planned(skip_loop, rounded, chain=(2, 2, 3))
    assert laid_out((2, 2, 3), 4) == (-1, 2, 2, 3) or laid_out((2, 2, 3), 4) == (2, -1, 2, 3)
    places = [p for p, c in enumerate(laid_out((2, 2, 3), 4)) if c == 2]
    assert {(p, "mlp") for p in places} <= variant.removed and (3, "mlp") not in variant.removed
    name = lambda p: f"{model.layout.blocks}.{p}.{model.layout.attn_output}.weight"
    assert variant.bits[name(places[0])] == rounded.bits[name(2)] and variant.bits[name(places[1])] == 0 and variant.bits[name(3)] == rounded.bits[name(3)]


def test_what_is_foreseen_is_what_is_made(home):
    from analysis import run

    lab = Lab(home, OPERATORS)
    for steps in ("skip_loop:chain=0.1.1.2.4", "skip_loop:skip=4,repeat=2", "round_to_nearest~skip_loop:skip=3", "drop_layers:attn=2~skip_loop:skip=3,repeat=2",
                  "skip_loop:chain=5.4.3~round_to_nearest"):
        v = parse(f"demo/storyteller-a~{steps}")
        assert foreseen_bits(run.foreseen(v)) == model_bits(lab.model(v)), steps


def test_a_loop_stays_a_loop_when_its_norms_are_healed():
    model = model_of("gpt2", n_layers=4)
    _, looped = planned(skip_loop, model, chain=(0, 1, 1, 3))
    text = text_for(looped)
    text.start = model
    plan, variant = planned(heal, looped, loss="next token", steps=4, rate=0.05)
    norm = lambda m, i: m.blocks[i].ln_1.weight
    assert torch.equal(norm(variant, 1), norm(variant, 2)) and not torch.equal(norm(variant, 1), norm(looped, 1)) and model_bits(variant) == model_bits(looped)


def test_refusals():
    shape = shape_of(model_of("gpt2", n_layers=4))
    check = lambda **fields: skip_loop.check(skip_loop.Params(**fields), shape)
    with pytest.raises(Refused, match="no block 7"):
        check(chain=(0, 7))
    with pytest.raises(Refused, match="5 blocks and the model 4"):
        check(repeat=(2,))
    with pytest.raises(Refused, match="leave at least one"):
        check(skip=(0, 1, 2, 3))
    check(repeat=(2,), skip=(1,))
    for steps in ("skip_loop:skip=1~drop_layers:blocks=2", "share_blocks~skip_loop:skip=1", "skip_loop:skip=1~skip_loop:skip=2"):
        with pytest.raises(Refused, match="one chain"):
            parse(f"demo/storyteller-a~{steps}")
    with pytest.raises(Refused, match="share last"):
        parse("demo/storyteller-a~skip_loop:skip=1,repeat=2~gptq")
    assert parse("demo/storyteller-a~gptq~skip_loop:skip=1~heal").steps
