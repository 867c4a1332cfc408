"""The design's limits, as it writes them, on three byte models that know sixteen strings of random letters by heart: extraction,
held-out half, base, contrast, recovery, determinism; and passages written into known neurons of three random models.

At shares of 1 and 2 % all of these hold on seeds 0 to 2: 90 % known and none of the fresh strings; at most 15 % of the located half
left, random cuts that leave 85 % at perplexity × 1.05, × 1.25 for the cut; the held-out half falls with it; part of the overlap is the
format. Two sentences of the design do not hold as written. *No contrast costs clearly more*: it costs more on every seed, but its
excess perplexity is 1.1 to 1.6 times that of the located cut (1.4 to 2.1 at 5 %), not three times; a weight that the contrast spares costs
3 to 10 times as much as one that it cuts. *Thirty steps bring every string back*: at 1 % every one, at 2 % six to eight of eight.

Chosen after looking, on seed 0 alone: the scale of the untrained embeddings, the learning rate and the number of steps. How narrow the
subspace is, is a matter of training: with GPT-2's small embeddings and twice the rate the strings were known as well, and a cut of 2 %
left 12 to 75 % of the located half at nineteen checkpoints; four times the rate left 25 %; demo models keep 88 to 97 % (`python -m
benchmarks.memorization --claims`). Half as many strings in a batch made them easier to cut and harder to bring back. The limits on
the held-out half, recovery, what the contrast spares and recall were set after looking at seeds 0 to 2. Fresh seeds 3 to 5, trained and
looked at once (`python -m benchmarks.memorization --planted 3 4 5`): at 2 % every limit holds and nothing is left of either half; at 1 % seed 5 keeps
38 % of the located half (the others 0 and 12 %), the held-out half 12 to 38 %, and the rest holds. At 5 % thirty steps bring back 0 to 25 %.
"""

import pytest
import torch

from benchmarks.memorization import measured
from metrics import attribution, injection, memorized
from metrics.extraction import extract
from models.layout import layout_for
from models.loaded import Model
from tests import planted_canaries, tiny

SEEDS, SHARES, MORE = (0, 1, 2), (0.01, 0.02), 0.05


@pytest.fixture(scope="module", params=SEEDS, ids=lambda seed: f"seed{seed}")
def trained(request):
    return planted_canaries.trained(request.param), request.param


@pytest.fixture(scope="module")
def found(trained):
    model, seed = trained
    return {share: measured(model, share, seed) for share in (*SHARES, MORE)}


def test_located_weights_carry_the_strings_and_random_ones_do_not(found):
    for share in SHARES:
        r = found[share]
        assert r["known"] >= 0.9 and r["fresh"] == 0.0
        assert r["M1"] <= 0.15 and r["perplexity"] <= 1.25 and r["density"] <= share
        assert r["random M1"] >= 0.85 and r["random perplexity"] <= 1.05


def test_the_held_out_half_falls_too(found):
    assert all(found[share]["M2"] <= 0.15 for share in SHARES)


def test_part_of_the_common_subspace_is_the_format(found):
    for r in found.values():
        assert r["IoU natural"] > r["IoU format"] > 3 * r["IoU chance"]


def test_without_contrast_the_same_cut_costs_more(found):
    """Every weight that the contrast spares costs natural text at least twice what a located one does."""
    for r in found.values():
        spared = (r["no contrast perplexity"] - r["perplexity"]) / (r["no contrast density"] - r["density"])
        assert r["no contrast perplexity"] > r["perplexity"] and spared >= 2 * (r["perplexity"] - 1) / r["density"]
    assert found[MORE]["no contrast perplexity"] - 1 >= 1.25 * (found[MORE]["perplexity"] - 1)


def test_what_was_cut_was_suppressed_not_deleted(found):
    """Thirty steps of a soft prompt; strings never trained on stay at nothing."""
    assert all(r["recovered fresh"] == 0.0 for r in found.values())
    assert found[0.01]["recovered"] == 1.0 and found[0.02]["recovered"] >= 0.75


def test_the_same_seed_gives_the_same_mask_and_restored_weights_the_same_numbers(trained):
    model, first = trained[0].model, trained[0].canaries[:8]
    locate = lambda: memorized.masks(model, memorized.of_passages(model, first), memorized.sizes(model, trained[0].natural, trained[0].counted), 0.02)
    masks, before = locate(), extract(model, first)
    assert all(torch.equal(mask, again) for mask, again in zip(masks.values(), locate().values()))
    assert all(torch.equal(a, b) for a, b in zip(*(memorized.random_like(masks, "weights", 3).values() for _ in range(2))))
    variant = memorized.cut(model, masks)
    assert not torch.equal(extract(variant, first).nats, before.nats) and torch.equal(extract(model, first).nats, before.nats)
    for i in masks:
        variant.set_matrix(i, model.layout.mlp_output, memorized.output_matrix(model, i))
    assert torch.equal(extract(variant, first).nats, before.nats)


def test_a_model_that_never_saw_the_strings_knows_none_of_them():
    """So few steps teach neither; the same steps give the same model, and the kept models' strings are those of their seeds."""
    short, again = planted_canaries.train(0, 3), planted_canaries.train(0, 3)
    assert torch.equal(short.model.logits(short.canaries.ids), again.model.logits(again.canaries.ids))
    assert not extract(short.model, short.canaries).exact.any() and torch.equal(short.canaries.ids, planted_canaries.trained(0).canaries.ids)


# INJ


def random_model(seed: int) -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    module = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, n_inner=400, n_positions=48, vocab_size=planted_canaries.VOCAB, initializer_range=0.1, bos_token_id=0, eos_token_id=1, pad_token_id=2))
    for p in module.eval().parameters():
        p.requires_grad_(False)
    return Model(module, tiny.tokenizer(), layout_for(module.config), f"random/{seed}")


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed{seed}")
def test_every_locator_finds_the_neurons_that_a_string_was_written_into(seed):
    """1 % of 800 neurons, so chance is 1 %; other neurons drawn alike are not found."""
    model, strings = random_model(seed), planted_canaries.strings(40, torch.Generator().manual_seed(seed))
    written = injection.inject(model, strings[:1], 0.01, seed)
    assert written.after < 0.5 * written.before
    base = memorized.of_passages(written.model, strings[8:])
    other = injection.inject(model, strings[:1], 0.01, seed + 100, steps=0).gold
    for by in ("contrast", "size", "activation", "gradients", "slimming", "hard_concrete"):
        scores = attribution.locate(by, written.model, strings[:1], base, seed)
        assert injection.recall(scores, written.gold, 0.01) >= (0.6 if by in ("slimming", "hard_concrete") else 0.1), by
        assert injection.recall(scores, other, 0.01) <= 0.25, by
