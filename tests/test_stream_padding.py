"""Padding on the left, the right or both sides, against each text on its own: learned positions (GPT-2) and rotary ones."""

import pytest
import torch

from kernels.moments import Moments
from kernels.sign_codes import SignCodes
from kernels.similarity import Similarity
from models.fused import capture_of
from models.layout import Site
from models.refusal import Refused
from models.stream import Request, logits, stream
from tests.test_stream import VOCABULARY, gpt2, make, text  # noqa: F401  fixtures

LENGTHS = (19, 12, 5, 1, 19, 7, 16)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("side", ["right", "left", "both"])
def test_padding_on_either_side_gives_the_figures_of_the_text_alone(family, side):
    """Moments, similarity, codes and the fused capture, and logits; without `attend` the padding shows."""
    model = make(family)
    texts = [torch.randint(0, VOCABULARY, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    ids, attend = torch.full((len(texts), 22), 3), torch.zeros(len(texts), 22, dtype=torch.bool)
    for row, words in enumerate(texts):
        first = {"right": 0, "left": 22 - len(words), "both": (22 - len(words)) // 2}[side]
        ids[row, first : first + len(words)], attend[row, first : first + len(words)] = words, True
    sites = [Site(0, "z"), Site(2, "resid_post"), Site(1, "mlp_post")]
    requests = [
        *(Request(Moments, (site,)) for site in sites), Request(Similarity, (Site(1, "resid_pre"), Site(2, "resid_post"))),
        Request(SignCodes, (Site(2, "mlp_pre"),)), Request(capture_of(model), (Site(0, "mlp_act"),)),
    ]

    def figures(found):
        moments, likeness = [*found[:3], found[5].moments], found[3]
        return [*(m.mean for m in moments), *(m.m2 for m in moments), torch.tensor([likeness.cosine_mean, likeness.ratio_mean, likeness.update_mean])]

    for exclude_first in (False, True):
        batched = stream(model, ids, None, requests, attend=attend, batch=3, exclude_first=exclude_first)
        alone = None
        for words in texts:
            one = stream(model, words[None], None, requests, exclude_first=exclude_first)
            for total, each in zip(alone or (), one):
                total.merge(each)
            alone = alone or one
        assert batched[0].count == alone[0].count == sum(LENGTHS) - exclude_first * len(LENGTHS)
        for found, expected in zip(figures(batched), figures(alone)):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(batched[4].on_counts, alone[4].on_counts)
    rows = torch.cat([block for _, block in logits(model, ids, attend=attend, batch=4)]).view(len(texts), 22, VOCABULARY)
    for row, words in enumerate(texts):
        torch.testing.assert_close(rows[row][attend[row]], model.logits(words[None])[0], rtol=1e-4, atol=1e-5)
    if side != "right":  # without attend, the padding is looked at
        blind = torch.cat([block for _, block in logits(model, ids, batch=4)]).view_as(rows)
        assert (blind - rows)[attend].abs().max() > 1e-3


def test_text_that_is_not_counted_is_still_looked_at(gpt2, text):
    """`keep` chooses what counts, `attend` what exists; padding never counts, whatever keep says."""
    ids, attend = text
    some = attend & (torch.arange(19) % 2 == 0)
    request = [Request(Moments, (Site(2, "resid_post"),))]
    (found,) = stream(gpt2, ids.flip(1), torch.ones_like(attend), request, attend=attend.flip(1))
    assert found.count == int(attend.sum())
    moved_ids, moved_some, moved_attend = (torch.stack([row.roll(int((~there).sum())) for row, there in zip(each, attend)]) for each in (ids, some, attend))
    (right,) = stream(gpt2, ids, some, request, attend=attend)
    (left,) = stream(gpt2, moved_ids, moved_some, request, attend=moved_attend)
    assert left.count == right.count == int(some.sum())
    torch.testing.assert_close(left.mean, right.mean, rtol=1e-4, atol=1e-6)
    with pytest.raises(Refused, match="attend as bool"):
        stream(gpt2, ids, None, request, attend=attend.long())


def test_left_padding_is_refused_in_words(gpt2, text):
    ids, keep = text
    padded, left = ids.clone(), keep.flip(1)
    padded[~left] = 3
    with pytest.raises(Refused, match="2 of 7 sequences begin with padding"):
        stream(gpt2, padded, left, [Request(Moments, (Site(0, "resid_pre"),))])
    for chosen in (torch.arange(19) == 18, torch.arange(19) != 5, torch.arange(19) > 0):  # the last token alone, all but one, all but the first
        some = chosen.expand(7, 19)
        (found,) = stream(gpt2, ids, some, [Request(Moments, (Site(0, "resid_pre"),))])
        assert found.count == int(some.sum())
