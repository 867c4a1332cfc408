"""The difference is B − A on common labels: a hand-made sign, missing blocks, and nothing aligned by position."""

import numpy as np
import pytest

from analysis.compare import difference, on_labels
from models.refusal import Refused


def test_sign_by_hand():
    delta, labels = difference(np.array([1.0, 5.0]), (0, 1), np.array([3.0, 4.0]), (0, 1))
    assert delta.tolist() == [2.0, -1.0] and labels == (0, 1)  # positive: B has more


def test_aligned_on_labels_not_on_position():
    delta, labels = difference(np.array([1.0, 2.0, 3.0]), (0, 1, 2), np.array([30.0, 10.0]), (2, 0))
    assert labels == (0, 2) and delta.tolist() == [9.0, 27.0]


def test_two_axes():
    a, b = np.arange(9.0).reshape(3, 3), np.array([[100.0, 200.0], [300.0, 400.0]])
    delta, labels = difference(a, ("emb", 0, 1), b, ("emb", 1), axes=(0, 1))
    assert labels == ("emb", 1) and delta.tolist() == [[100.0, 198.0], [294.0, 392.0]]


def test_swapping_turns_the_sign():
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 4)), rng.random((3, 3))
    one, _ = difference(a, (0, 1, 2, 3), b, (0, 2, 3), axes=(0, 1))
    other, _ = difference(b, (0, 2, 3), a, (0, 1, 2, 3), axes=(0, 1))
    assert np.array_equal(one, -other)


def test_missing_labels_stay_empty():
    out = on_labels(np.array([[1.0, 2.0], [3.0, 4.0]]), (0, 2), (0, 1, 2), axes=(0, 1))
    assert np.array_equal(out, [[1, np.nan, 2], [np.nan] * 3, [3, np.nan, 4]], equal_nan=True)


@pytest.mark.parametrize("a,al,b,bl,words", [
    ([1.0], (0,), [1.0], (1,), "nothing in common"),
    ([1.0, 2.0], (0, 0), [1.0], (0,), "repeat"),
    ([1.0, 2.0], (0,), [1.0], (0,), "2 entries but 1 labels"),
])
def test_refused(a, al, b, bl, words):
    with pytest.raises(Refused, match=words):
        difference(np.array(a), al, np.array(b), bl)
