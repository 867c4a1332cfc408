"""A recipe has one written form, reads back equal, and bad ones are refused in words."""

import pytest
from hypothesis import given, settings, strategies as st

from models.refusal import Refused
from models.variant import LONGEST, Step, Variant, parse


def test_written_form_by_hand():
    v = Variant("demo/storyteller-a", steps=(Step("drop_layers", (("blocks", (3, 4)),)), Step("wanda", (("sparsity", 0.5),), "demo/stories:train:64x128", 7)))
    assert v.written == "demo/storyteller-a~drop_layers:blocks=3.4~wanda:sparsity=0.5,on=demo/stories:train:64x128,seed=7"
    assert v.label == "storyteller-a · drop_layers(3.4) · wanda(0.5)"
    assert v.parent.written == "demo/storyteller-a~drop_layers:blocks=3.4"
    assert v.root.written == "demo/storyteller-a"


def test_the_origin_is_the_base_or_the_merge_before_what_was_done_to_it():
    merge = "(demo/a+demo/b)~average:align=weights"
    assert parse("demo/a@main~wanda:sparsity=0.5").origin == "demo/a" and parse(f"{merge}~wanda:sparsity=0.5").origin == parse(merge).origin == merge


def test_revision_and_dtype():
    v = parse("owner/name@abc123!bfloat16")
    assert (v.base, v.revision, v.dtype) == ("owner/name", "abc123", "bfloat16")
    assert v.written == "owner/name@abc123!bfloat16"


def test_two_parents_round_trip_through_json():
    a, b = parse("demo/storyteller-a"), parse("demo/storyteller-b!bfloat16~drop_layers:blocks=1")
    merged = Variant("merge", steps=(Step("average", (("weight", 0.25), ("layers", (1, 2)))),), parents=(a, b))
    assert Variant.from_json(merged.to_json()) == merged
    assert merged.written == "(demo/storyteller-a+demo/storyteller-b!bfloat16~drop_layers:blocks=1)~average:weight=0.25,layers=1.2"
    assert merged.written != Variant("merge", steps=merged.steps, parents=(b, a)).written
    assert merged.label == "storyteller-a + storyteller-b · drop_layers(1) · average(0.25, 1.2)" and merged.root == a and merged.parent is None and merged.merged


def test_a_merge_reads_back_also_inside_another_and_through_a_link():
    inner = "(demo/a~wanda:sparsity=0.5,on=demo/stories:8x32+shelf/b@rev)~average:weights=2.1~magnitude:sparsity=0.3"
    outer = f"({inner}+demo/c+demo/d)~ties:keep=0.2"
    for text in (inner, outer):
        assert parse(text).written == text and parse(text.replace("+", " ")) == parse(text)
    assert [p.written for p in parse(outer).parents] == [inner, "demo/c", "demo/d"]
    assert parse(inner).parent.written == inner.partition("~magnitude")[0] and not parse(inner).merged


def test_a_merge_too_long_to_be_written_is_named_by_its_hash():
    many = tuple(parse(f"shelf/{'x' * 60}{i}~wanda:on=demo/stories:{'a' * 200}") for i in range(8))
    long = Variant("merge", steps=(Step("average"),), parents=many)
    assert long.written == f"v/{long.digest[:12]}" and Variant.from_json(long.to_json()) == long


@pytest.mark.parametrize("text", ["", " ", "~drop_layers", "a b", "../etc/passwd", "demo/x~", "demo/x~Drop", "demo/x~drop:blocks", "demo/x~drop:b=1,b=2",
                                  "demo/x!int3", "demo/x~drop:seed=-1", "x" * (LONGEST + 1), "demo/../x", "demo/x@../y", "/abs", "(", "()~average", "(demo/a)~average",
                                  "(demo/a+demo/b)", "(demo/a+demo/b)~", "(demo/a+demo/b)x~average", "(demo/a+(demo/b)~average", "(demo/a++demo/b)~average",
                                  "(demo/a+../b)~average", "(" * 900 + "demo/a+demo/b" + ")~average" * 100])
def test_refused_in_words(text):
    with pytest.raises(Refused) as refusal:
        parse(text)
    assert 10 < len(str(refusal.value)) < 300


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("ab/()+ ~:=,1", max_size=60)))
def test_any_text_is_read_or_refused(text):
    try:
        v = parse(text)
    except Refused:
        return
    assert parse(v.written) == v
