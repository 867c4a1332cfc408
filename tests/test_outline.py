"""A recipe at the door: the outline from config and headers is the loaded model's, its foreseen size is the one that is stored."""

import pytest

from analysis import run
from metrics.model_bits import foreseen_bits, model_bits, n_weights
from models import checkpoints
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from models.variant import parse as grammar
from operators import OPERATORS, parse
from tests import tiny
from tests.operator_bench import FAMILIES

RECIPES = (
    "magnitude", "magnitude:scope=global,sparsity=0.3", "wanda:pattern=2:4", "sparsegpt:pattern=4:8,which=mlp", "round_to_nearest:group=8",
    "gptq:group=8,bits=3,symmetric=true", "split_quant:bits=2", "modegpt:keep=0.5", "modegpt:which=attn", "tensor_network:bond=4", "masks_2_4:steps=2", "masa:atoms=2", "masa:atoms=1,span=2,which=all", "relaxed_recursive:rank=2", "relaxed_recursive:rank=0,loops=3,start=stepwise,which=mlp", "relaxed_recursive:rank=3,start=lower", "awq:group=8", "awq:bits=3,group=8,scale_bits=32", "hqq:group=8,bits=3", "share_blocks~error_correction:rank=3", "round_to_nearest:group=8~error_correction:rank=2",
    "dense_sparse", "dense_sparse:form=sum,metric=none,dense=0.5", "vector_quant:entries=8,length=2,residual=4,outliers=0.1", "low_rank:keep=0.6", "low_rank:keep=0.7,metric=svd,which=attn", "slice_gpt:slice=0.5",
    "drop_layers:blocks=1", "drop_layers:attn=0,mlp=2", "share_blocks", "share_blocks:group=3,representative=centre",
    "drop_layers:blocks=1~magnitude:sparsity=0.25~round_to_nearest:group=8", "round_to_nearest:group=8~wanda", "low_rank:which=attn,keep=0.5~gptq:which=mlp,group=8",
    "share_blocks~round_to_nearest:group=8", "drop_layers:blocks=0~slice_gpt:slice=0.5",
)


@pytest.fixture
def source(home, tmp_path, request):
    """(shelf name of a tiny checkpoint, corpus name), in a home of their own."""
    from models.corpus import register_text

    run.lab.cache_clear()
    family = getattr(request, "param", "gpt2")
    name = "shelf/" + checkpoints.register(tiny.save(getattr(tiny, family)(), tmp_path / family), home)
    file = tmp_path / "words.txt"
    file.write_text(tiny.text())
    return name, register_text(file, home)


def written(source, recipe):
    name, text = source
    steps = [s + ("" if not OPERATORS[s.partition(":")[0]].calibrated(run.lab(run.home()).params(parse(f"demo/x~{s}").steps[0]))
                  else ("," if ":" in s else ":") + f"on={text}:20x24") for s in recipe.split("~")]
    return parse("~".join([name, *steps]))


@pytest.mark.parametrize("source", FAMILIES, indirect=True)
def test_the_outline_is_the_loaded_models_shape(source):
    v = parse(source[0])
    outline, model = run.foreseen(v), run.lab(run.home()).model(v)
    assert outline.shape.matrices == shape_of(model).matrices and outline.shape.heads == shape_of(model).heads
    assert outline.n_parameters == n_weights(model)
    assert foreseen_bits(outline) == model_bits(model)


@pytest.mark.parametrize("source", FAMILIES, indirect=True)
def test_the_foreseen_size_is_what_is_stored(source):
    """Alone and after others; half a percent for rows whose share of zeros is rounded."""
    for recipe in RECIPES:
        v = written(source, recipe)
        outline, model = run.foreseen(v), run.lab(run.home()).model(v)
        assert outline.known and outline.sure
        assert foreseen_bits(outline) == pytest.approx(model_bits(model), rel=0.005), recipe
        assert outline.shape.layers == model.layers and outline.removed == model.removed


def test_a_ranking_is_foreseen_by_its_count_and_said_to_be_a_guess(source):
    for rank, left in (("block_influence", 2), ("last", 2)):
        outline = run.foreseen(parse(f"{source[0]}~drop_layers:rank={rank},count=1" + (f",on={source[1]}:20x24" if rank != "last" else "")))
        assert len(outline.shape.layers) == left and outline.sure == (rank == "last")


@pytest.mark.parametrize("cut", ("drop_layers:blocks=1", "drop_layers:attn=0", "crash:clusters=2,rest=remove"))
def test_what_is_dropped_is_not_stored_whenever_it_was_rounded(source, cut):
    """Rounded and then dropped is as small as dropped and then rounded."""
    bits = [model_bits(run.lab(run.home()).model(written(source, recipe))) for recipe in (f"round_to_nearest:group=8~{cut}", f"{cut}~round_to_nearest:group=8")]
    assert bits[0] == bits[1]
    if "crash" not in cut:
        assert foreseen_bits(run.foreseen(written(source, f"round_to_nearest:group=8~{cut}"))) == pytest.approx(bits[0])


def test_flaps_size_is_foreseen_by_its_share_and_said_to_be_a_guess(source):
    v = written(source, "flap:share=0.4")
    outline, model = run.foreseen(v), run.lab(run.home()).model(v)
    assert outline.known and not outline.sure and foreseen_bits(outline) == pytest.approx(model_bits(model), rel=0.1)


@pytest.mark.parametrize(("rest", "left"), (("share", 3), ("remove", 2)))
def test_clusters_are_foreseen_by_their_number_and_said_to_be_a_guess(source, rest, left):
    v = written(source, f"crash:clusters=2,rest={rest}")
    outline, model = run.foreseen(v), run.lab(run.home()).model(v)
    assert outline.known and not outline.sure and len(outline.shape.layers) == len(model.layers) == left
    assert foreseen_bits(outline) == pytest.approx(model_bits(model), rel=0.005)
    assert run.foreseen(written(source, "crash:clusters=9")).sure


def test_an_operator_that_does_not_foresee_is_still_checked(source, monkeypatch):
    monkeypatch.delattr(OPERATORS["round_to_nearest"], "foresee")
    assert not run.foreseen(parse(f"{source[0]}~round_to_nearest:group=8")).known
    with pytest.raises(Refused, match="do not divide"):
        run.foreseen(parse(f"{source[0]}~round_to_nearest:group=7"))


@pytest.mark.parametrize(("recipe", "words"), [
    ("round_to_nearest:group=7", "do not divide"), ("magnitude:pattern=2:4~drop_layers:blocks=9", "no block 9"),
    ("drop_layers:blocks=0.1.2", "at least one sublayer"), ("error_correction:on=demo/mixed:train:64x32", "no error to correct"), ("low_rank:keep=0.02", "no rank at all"), ("wanda:on=demo/mixed:train:2x8", "at most 16 tokens"),
    ("wanda:on=demo/mixed:train:8x128", "context"), ("drop_layers:blocks=0.1~drop_layers:blocks=2", "every block that is left"),
])
def test_impossible_recipes_are_refused_before_anything_is_loaded(source, recipe, words, monkeypatch):
    v = parse(f"{source[0]}~{recipe}")
    monkeypatch.setattr(checkpoints, "load", lambda *a, **k: pytest.fail("something was loaded"))
    with pytest.raises((Refused, NotApplicable), match=words):
        run.require_possible(v)
    ask = run.request("layer_redundancy", (v.written,), f"{source[1]}:4x16", {})
    with pytest.raises((Refused, NotApplicable), match=words):
        run.key(ask)


def test_the_grammar_alone_checks_nothing_of_this():
    assert grammar("shelf/x~round_to_nearest:group=7").steps
