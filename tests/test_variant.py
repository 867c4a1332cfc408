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


def test_revision_and_dtype():
    v = parse("owner/name@abc123!bfloat16")
    assert (v.base, v.revision, v.dtype) == ("owner/name", "abc123", "bfloat16")
    assert v.written == "owner/name@abc123!bfloat16"


def test_two_parents_round_trip_through_json():
    a, b = parse("demo/storyteller-a"), parse("demo/storyteller-b!bfloat16~drop_layers:blocks=1")
    merged = Variant("merge", steps=(Step("average", (("weight", 0.25), ("layers", (1, 2)))),), parents=(a, b))
    assert Variant.from_json(merged.to_json()) == merged
    assert merged.written == f"v/{merged.digest[:12]}"
    assert merged.written != Variant("merge", steps=merged.steps, parents=(b, a)).written


@pytest.mark.parametrize("text", ["", " ", "~drop_layers", "a b", "../etc/passwd", "demo/x~", "demo/x~Drop", "demo/x~drop:blocks", "demo/x~drop:b=1,b=2",
                                  "demo/x!int3", "demo/x~drop:seed=-1", "x" * (LONGEST + 1), "demo/../x", "demo/x@../y", "/abs"])
def test_refused_in_words(text):
    with pytest.raises(Refused) as refusal:
        parse(text)
    assert 10 < len(str(refusal.value)) < 300


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    try:
        v = parse(text)
    except Refused:
        return
    assert parse(v.written) == v
