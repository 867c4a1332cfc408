"""The shelf of variants: kept across sessions, each owner's own, named once."""

import json

import pytest

from models import variant_shelf as shelf
from models.refusal import Refused
from models.variant import Step, Variant, parse

V, W = parse("demo/a~wanda:sparsity=0.6"), parse("demo/a~gptq~drop_layers:blocks=3")


def test_a_variant_is_kept_renamed_and_deleted(home):
    assert shelf.listing(home) == []
    shelf.keep(home, V, "  half  the weights ")
    shelf.keep(home, W, "small")
    assert [(k.name, k.variant) for k in shelf.listing(home)] == [("half the weights", V), ("small", W)]
    shelf.rename(home, V, "sparse")
    assert shelf.find(home, V).name == "sparse"
    shelf.delete(home, V)
    assert [k.variant for k in shelf.listing(home)] == [W] and shelf.find(home, V) is None
    assert json.loads((home / "variants.json").read_text())[0]["recipe"] == W.to_json()


def test_keeping_twice_changes_nothing_and_names_stay_unique(home):
    shelf.keep(home, V, "one")
    assert shelf.keep(home, V, "two").name == "one"
    assert shelf.keep(home, W, "one").name == "one 2"
    with pytest.raises(Refused, match="name of another"):
        shelf.rename(home, W, "one")
    shelf.rename(home, W, "one 2")  # its own


def test_each_owner_has_a_shelf_of_their_own(home):
    shelf.keep(home, V, "mine", "ada")
    assert shelf.listing(home, "bob") == [] and shelf.find(home, V, "bob") is None
    for change in (lambda: shelf.delete(home, V, "bob"), lambda: shelf.rename(home, V, "x", "bob")):
        with pytest.raises(Refused, match="not on the shelf"):
            change()
    assert shelf.keep(home, V, "mine", "bob").name == "mine"


def test_merges_are_kept_whole(home):
    merged = Variant("merge", steps=(Step("average"),), parents=(V, W))
    shelf.keep(home, merged, "both")
    assert shelf.listing(home)[0].variant == merged


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a~b", "<b>", "tick`", "a|b", "line\x07"])
def test_names_that_would_break_a_page_are_refused(home, name):
    with pytest.raises(Refused, match="A name has"):
        shelf.keep(home, V, name)


def test_a_checkpoint_is_no_variant_and_a_broken_file_is_told(home):
    with pytest.raises(Refused, match="without steps"):
        shelf.keep(home, parse("demo/a"), "a")
    (home / "variants.json").write_text("{")
    with pytest.raises(Refused, match="cannot be read"):
        shelf.listing(home)
