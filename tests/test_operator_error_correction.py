"""Error correction: by hand, the error left is the tail, full rank gives the original back, and without an error it refuses."""

import pytest
import torch

from metrics.calibration import matrix_inputs
from metrics.damage import matrix_damage
from models.progress import Quiet
from models.refusal import Refused
from operators import error_correction, parse, round_to_nearest, share_blocks
from operators.error_correction import Params, correction
from tests.operator_bench import FAMILIES, model_of, planned, text_for, weights_of


def corrected(original, compressed, **fields):
    text = text_for(compressed)
    text.start = original
    plan = error_correction.decide(compressed, Params(**fields), text, Quiet())
    variant = compressed.copy("corrected")
    error_correction.apply(variant, plan)
    return plan, variant


def test_by_hand():
    """E = [[3, 0, 0], [0, 1, 0]]: with equal inputs rank 1 takes the 3 and leaves 1 of 10; where E[x₁²] is 100 it takes the 1 and leaves 9 of 109."""
    error = torch.tensor([[3.0, 0, 0], [0, 1, 0]]).double()
    up, down, left = correction(error, torch.eye(3).double(), 1)
    assert (up @ down).tolist() == [[3, 0, 0], [0, 0, 0]] and left == pytest.approx(0.1)
    up, down, left = correction(error, torch.diag(torch.tensor([1.0, 100, 1])).double(), 1)
    assert (up @ down).tolist() == [[0, 0, 0], [0, 1, 0]] and left == pytest.approx(9 / 109)


def test_what_stays_is_the_tail_of_the_errors_outputs():
    g = torch.Generator().manual_seed(0)
    x, error = torch.randn(80, 9, generator=g).double() @ torch.randn(9, 9, generator=g).double(), torch.randn(5, 9, generator=g).double()
    up, down, left = correction(error, x.T @ x, 2)
    squares = torch.linalg.svdvals(x @ error.T).square()
    assert left == pytest.approx(float(squares[2:].sum() / squares.sum()), rel=1e-9)
    assert float((x @ (error - up @ down).T).square().sum()) == pytest.approx(float(squares[2:].sum()), rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_rank_is_less_damage_and_all_of_it_is_the_original(family):
    model = model_of(family)
    _, rounded = planned(round_to_nearest, model, bits=2, group=8)
    inputs, ids = matrix_inputs(text_for(rounded), True), text_for(model).ids
    damage = [sum(d.output_error for d in matrix_damage(model, v, inputs)) for v in (rounded, corrected(model, rounded, rank=2)[1], corrected(model, rounded, rank=6)[1])]
    assert damage[0] > 1.2 * damage[1] > 1.44 * damage[2]
    plan, whole = corrected(model, rounded, rank=64)
    assert max(float(x) for x in plan.left.values()) < 1e-12
    for before, after in zip(weights_of(model).values(), weights_of(whole).values()):
        torch.testing.assert_close(after, before, rtol=0, atol=2e-3)  # factors are 16 bit
    assert float((whole.logits(ids) - model.logits(ids)).abs().max()) < 0.05 * float((rounded.logits(ids) - model.logits(ids)).abs().max())


def test_planted_damage_of_rank_one_is_undone_and_untouched_matrices_get_nothing():
    model = model_of("llama")
    _, hit = planned(round_to_nearest, model, bits=8, group=8, which="mlp")
    w = model.matrix(1, "mlp.up_proj")
    hit.set_matrix(1, "mlp.up_proj", w + 3 * torch.outer(torch.linspace(-1, 1, 24), torch.linspace(1, 2, 16)))
    plan, variant = corrected(model, hit, rank=1)
    torch.testing.assert_close(variant.matrix(1, "mlp.up_proj"), w, rtol=0, atol=5e-3)
    assert float(plan.left["1.mlp.up_proj"]) < 1e-9 < float(plan.left["0.mlp.up_proj"])
    assert all(".mlp." in f".{key}." for key in plan.up) and len(plan.up) == 9


def test_a_shared_block_becomes_its_own_again():
    model = model_of("llama")
    _, shared = planned(share_blocks, model, group=3)
    plan, variant = corrected(model, shared, rank=16)
    torch.testing.assert_close(variant.matrix(2, "self_attn.q_proj"), model.matrix(2, "self_attn.q_proj"), rtol=0, atol=2e-3)
    assert float(plan.bits["2.self_attn.q_proj"]) == 16 * 16 * 32  # a copy costs its correction alone
    assert "0.self_attn.q_proj" not in plan.bits  # the owner stores itself


def test_bits_by_hand():
    """16×16 at 4 bits in groups of 8 with 16-bit scales is 256·4 + 32·20; rank 2 adds 2·32 numbers of 16 bits."""
    model = model_of("llama")
    _, rounded = planned(round_to_nearest, model, bits=4, group=8)
    assert float(corrected(model, rounded, rank=2)[0].bits["0.self_attn.q_proj"]) == 256 * 4 + 32 * 20 + 2 * 32 * 16


def test_without_an_error_it_refuses():
    with pytest.raises(Refused, match="no error to correct"):
        planned(error_correction, model_of("gpt2"))


@pytest.mark.parametrize(("steps", "words"), [
    ("tune_heads~error_correction", "taken for an error"), ("gptq~error_correction~wanda", "last"), ("modegpt~error_correction", "another basis"),
    ("gptq~error_correction~error_correction", "last"), ("gptq~error_correction~share_blocks", "last"),
])
def test_orders_that_make_no_sense(steps, words):
    with pytest.raises(Refused, match=words):
        parse(f"demo/storyteller-a~{steps}")
    for fine in ("gptq~error_correction~heal", "drop_layers:blocks=2~wanda~gptq~error_correction", "share_blocks~error_correction", "vector_quant~error_correction~drop_layers:blocks=1"):
        assert parse(f"demo/storyteller-a~{fine}").steps
