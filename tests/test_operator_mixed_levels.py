"""Each matrix is the one of its level, bit for bit; budgets; what has no levels is refused."""

import pytest
import torch

from metrics.model_bits import foreseen_bits, model_bits
from models.lab import Lab
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from operators import OPERATORS, gptq, mixed_levels, parse, round_to_nearest
from tests.operator_bench import FAMILIES, model_of, planned, text_for


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("of", ("round_to_nearest", "gptq"))
def test_every_matrix_is_that_of_its_level(family, of):
    model = model_of(family)
    matrices = shape_of(model).matrices
    levels = tuple(i % 3 for i in range(len(matrices)))
    plan, mixed = planned(mixed_levels, model, of=of, levels="4/keep/2", assign=levels, more="group:8")
    alone = {k: planned(OPERATORS[of], model, bits=b, group=8)[1] for k, b in ((0, 4), (2, 2))}
    for m, k in zip(matrices, levels):
        source = alone.get(k, model)
        assert torch.equal(mixed.matrix(m.layer, m.name), source.matrix(m.layer, m.name))
        name = f"{model.layout.blocks}.{m.key}.weight"
        assert mixed.bits.get(name) == source.bits.get(name)
    assert mixed_levels.storage(model, plan).bits == sum(mixed.bits.values())


def test_one_a_block_is_the_same_as_one_a_matrix():
    model = model_of("llama")
    _, blocks = planned(mixed_levels, model, assign=(0, 3, 1), more="group:8")
    _, single = planned(mixed_levels, model, assign=tuple((0, 3, 1)[m.layer] for m in shape_of(model).matrices), more="group:8")
    assert all(torch.equal(w, single.matrix(i, n)) for i, n, w in blocks.matrices()) and blocks.bits == single.bits
    _, one = planned(mixed_levels, model, assign=(3,), more="group:8")
    _, whole = planned(round_to_nearest, model, bits=2, group=8)
    assert all(torch.equal(w, whole.matrix(i, n)) for i, n, w in one.matrices()) and one.bits == whole.bits


def test_what_is_foreseen_is_what_is_made(home):
    from analysis import run

    lab = Lab(home, OPERATORS)
    for steps in ("mixed_levels:assign=0.1.2.3.2.1", "mixed_levels:of=magnitude,dial=sparsity,levels=0.5/keep/0.7,assign=0.1.2.0.1.2"):
        v = parse(f"demo/storyteller-a~{steps}")
        assert foreseen_bits(run.foreseen(v)) == pytest.approx(model_bits(lab.model(v)), rel=1e-3)


def test_text_is_read_only_where_the_operator_reads_it():
    calibrated = lambda **fields: mixed_levels.calibrated(mixed_levels.Params(**fields))
    assert calibrated(of="gptq", assign=(1,)) and not calibrated(of="gptq") and not calibrated(assign=(1,)) and not calibrated(of="gptq", levels="keep/3", assign=(0,))
    assert parse("demo/storyteller-a~mixed_levels:of=gptq,assign=1").steps[0].on and parse("demo/storyteller-a~mixed_levels:assign=1").steps[0].on is None


@pytest.mark.parametrize("fields,why", ((dict(of="magic", assign=(0,)), "no operator"), (dict(of="mixed_levels", assign=(0,)), "no operator"), (dict(assign=(0, 1)), "expected 1, 3 .* or 12"),
                                        (dict(assign=(4,)), "names level 4"), (dict(levels="9/4", assign=(0,)), "bits"), (dict(dial="sparsity", assign=(0,)), "no parameter"),
                                        (dict(more="group", assign=(0,)), "not name:value"), (dict(more="group:7", assign=(0,)), "Groups of 7")))
def test_refusals(fields, why):
    with pytest.raises(Refused, match=why):
        mixed_levels.check(mixed_levels.Params(**fields), shape_of(model_of("gpt2")))


def test_what_is_no_matter_of_single_matrices_is_refused():
    model = model_of("gpt2")
    for fields in (dict(of="drop_layers", dial="blocks", levels="1/keep"), dict(of="share_blocks", dial="group", levels="2/keep"), dict(of="contextual_sparsity", dial="keep", levels="0.5/keep")):
        params = mixed_levels.Params(assign=(0,), **fields)
        with pytest.raises(NotApplicable, match="levels cannot be mixed"):
            mixed_levels.decide(model, params, text_for(model), Quiet())


@pytest.mark.parametrize("of,dial,levels", (("masa", "atoms", "2/keep"), ("relaxed_recursive", "rank", "2/keep")))
def test_what_serves_several_blocks_has_no_level_for_one(of, dial, levels):
    """Their matrices differ one by one, but the bits of one are the bits of all."""
    with pytest.raises(NotApplicable, match="serves several blocks"):
        mixed_levels.check(mixed_levels.Params(of=of, dial=dial, levels=levels, assign=(0,)), shape_of(model_of("gpt2")))


@pytest.mark.parametrize("steps", ("mixed_levels:assign=1~gptq", "mixed_levels:of=low_rank,dial=keep,levels=0.5/0.7,assign=0~gptq", "gptq~mixed_levels:assign=1"))
def test_orders_are_those_of_the_operator(steps):
    with pytest.raises(Refused, match="makes no sense"):
        parse(f"demo/storyteller-a~{steps}")
    assert gptq.TITLE
