"""Untrusted values become typed parameters, or a sentence."""

from dataclasses import dataclass
from typing import Literal

import pytest

from models.params import key_params, param, read_params
from models.refusal import Refused


@dataclass(frozen=True)
class Params:
    ratio: float = param(0.5, "ratio", low=0.0, high=1.0)
    count: int = param(3, "count", low=1)
    tokens: Literal["all", "last"] = param("all", "tokens")
    n: Literal[2, 4] = param(2, "n")
    blocks: tuple[int, ...] = param((), "blocks", low=0)
    exact: bool = param(False, "exact")
    gamma: float = param(0.3, "gamma", display=True)


def test_text_becomes_typed():
    p = read_params(Params, {"ratio": "0.25", "count": "7", "tokens": "last", "n": "4", "blocks": "3.4", "exact": "true", "gamma": "1"})
    assert p == Params(0.25, 7, "last", 4, (3, 4), True, 1.0)


def test_display_parameters_are_not_in_the_key():
    assert key_params(Params(gamma=0.9)) == key_params(Params(gamma=0.1))
    assert key_params(Params(ratio=0.9)) != key_params(Params(ratio=0.1))


@pytest.mark.parametrize("given, word", [
    ({"ratio": "2"}, "0.0 to 1.0"), ({"ratio": "nan"}, "out of range"), ({"count": "1.5"}, "whole number"), ({"count": 0}, "at least 1"),
    ({"tokens": "some"}, "all, last"), ({"n": 3}, "2, 4"), ({"blocks": "3.x"}, "list of whole numbers"), ({"exact": "yes"}, "true nor false"),
    ({"colour": "red"}, "no parameter"), ({"count": True}, "whole number"), ({"ratio": None}, "a number"), ({"blocks": (1, -2)}, "at least 0"),
])
def test_refusals_name_the_field_and_what_fits(given, word):
    with pytest.raises(Refused, match="“?" + next(iter(given))) as refusal:
        read_params(Params, given)
    assert word in str(refusal.value)
