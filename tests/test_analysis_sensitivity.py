"""Where it hurt: a model in which exactly one matrix matters, swaps against whole forwards, signs by hand, equal models cost nothing."""

import dataclasses

import numpy as np
import pytest
import torch

import analysis.sensitivity as subject
from analysis.contract import Run, Shape
from analysis.sensitivity import weights, words
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.batches import by_length
from metrics.divergence import KL, per_sequence, token_divergence
from metrics.noise import noisy
from metrics.removal import attention_mask
from models.progress import Quiet
from models.refusal import NotApplicable
from operators import drop_layers, flap, magnitude, round_to_nearest, share_blocks, slice_gpt
from tests.operator_bench import FAMILIES, model_of, planned, text_for

PARAMS = subject.Params(resamples=100)


@dataclasses.dataclass(eq=False)
class Both:
    a: object
    b: object
    text: object

    def captures(self):
        return tuple(dataclasses.replace(self.text, subject=m) for m in (self.a, self.b))


def computed(a, b, params=PARAMS, progress=None, **text):
    plain = text_for(a, **{"n_sequences": 10, "length": 12, **text})
    return subject.compute(Both(a, b, plain).captures(), params, progress or Quiet())


def whole_kl(a, mixed, text):
    """Mean KL(A ‖ mixed) over kept tokens, from two whole forwards."""
    mask = attention_mask(text.keep)
    logits = [m.logits(text.ids, mask)[text.keep].float() for m in (a, mixed)]
    values = token_divergence(*logits, torch.full((len(logits[0]),), -1))[:, KL]
    sequence = text.keep.nonzero()[:, 0]
    return float(per_sequence(values[:, None], sequence, len(text.ids)).sum() / text.keep.sum())


def run(result):
    return Run("A → B", "demo/a → demo/b", result, PARAMS, {})


def deaf(family, loud, n_layers=3):
    """A model of which all blocks but `loud` add nothing to the stream, whatever their other matrices hold."""
    model = model_of(family, n_layers=n_layers)
    for layer in range(n_layers):
        if layer != loud:
            for name in (model.layout.attn_output, model.layout.mlp_output):
                module = model.blocks[layer].get_submodule(name)
                model.set_matrix(layer, name, torch.zeros_like(model.matrix(layer, name)), None if module.bias is None else torch.zeros_like(module.bias))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_one_matrix_matters(family):
    """All input matrices are changed alike; only block 1 is heard, and of it only the MLP's input is changed: that cell alone costs."""
    a = deaf(family, loud=1)
    b = a.copy("b")
    name = a.layout.mlp_input
    for layer in range(3):
        b.set_matrix(layer, name, a.matrix(layer, name) + 0.3 * torch.randn(a.matrix(layer, name).shape, generator=torch.Generator().manual_seed(layer)))
    r = computed(a, b)
    costs = {(int(i), str(n)): v for i, n, v in zip(r.layer, r.name, r.part_kl[:, 0])}
    assert costs.pop((1, name)) > 0.01 and set(costs.values()) == {0.0}
    assert r.changed.sum() == 3 and words.part(r, words.worst(r)) == f"{name} of block 1"
    assert r.block_kl[:, 0].tolist() == pytest.approx([0.0, r.whole[0], 0.0]) and r.accumulated[:, 0].tolist() == pytest.approx([0.0, r.whole[0], r.whole[0]])
    assert r.part_noise[:, 0][(r.layer != 1)].max() == 0.0  # the control is deaf there too
    assert f"**{name} of block 1** hurts most" in subject.answer([run(r)])
    assert r.stream[:, 0].tolist()[:2] == [0.0, 0.0] and r.stream[2, 0] > 1e-3 and r.stream[3, 0] == pytest.approx(r.stream[2, 0], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", ["round", "prune", "drop", "half a block", "slice", "share", "flap"])
def test_swaps_equal_whole_forwards(family, make):
    a = model_of(family)
    operator, fields = {"round": (round_to_nearest, {"bits": 3, "group": 8}), "prune": (magnitude, {"sparsity": 0.6}), "drop": (drop_layers, {"blocks": (1,)}),
                        "half a block": (drop_layers, {"mlp": (1,)}), "slice": (slice_gpt, {"slice": 0.5}), "share": (share_blocks, {"group": 3}), "flap": (flap, {})}[make]
    b = planned(operator, a, **fields)[1]
    text = text_for(a, 10, 12)
    r = computed(a, b)
    for u, (layer, name) in enumerate(zip(r.layer, r.name)):
        mixed = a.copy("mixed")
        mixed.blocks[layer].set_submodule(str(name), b.blocks[layer].get_submodule(str(name)))
        assert r.part_kl[u, 0] == pytest.approx(whole_kl(a, mixed, text), rel=1e-3, abs=1e-6)
    alone, up_to = a.copy("alone"), a.copy("up to")
    for part in ("embed", "position"):
        table = {"embed": a.layout.embed, "position": "transformer.wpe"}[part]
        if part == "embed" or family == "gpt2":
            up_to.module.set_submodule(table, b.module.get_submodule(table))
    for i, layer in enumerate(r.layers):
        alone.blocks[layer] = b.blocks[layer]
        up_to.blocks[layer] = b.blocks[layer]
        assert r.block_kl[i, 0] == pytest.approx(whole_kl(a, alone, text), rel=1e-3, abs=1e-6)
        assert r.accumulated[i, 0] == pytest.approx(whole_kl(a, up_to, text), rel=1e-3, abs=1e-6)
        alone.blocks[layer] = a.blocks[layer]
    assert r.whole[0] == pytest.approx(whole_kl(a, b, text), rel=1e-3, abs=1e-6)
    if make != "slice":
        assert r.accumulated[-1, 0] == pytest.approx(r.whole[0], rel=1e-3, abs=1e-6) and r.outside[0] == 0


def test_the_control_is_noise_on_that_part():
    a = model_of("gpt2")
    b = planned(round_to_nearest, a, bits=2, group=8)[1]
    text, r = text_for(a, 10, 12), computed(a, b)
    noise = noisy(a, b, 0)
    for u in (0, 5):
        mixed = a.copy("mixed")
        mixed.blocks[r.layer[u]].set_submodule(str(r.name[u]), noise.blocks[r.layer[u]].get_submodule(str(r.name[u])))
        assert r.part_noise[u, 0] == pytest.approx(whole_kl(a, mixed, text), rel=1e-3, abs=1e-6)
    bare = computed(a, b, dataclasses.replace(PARAMS, control="none"))
    assert np.isnan(bare.part_noise).all() and not len(bare.stream_noise) and np.array_equal(bare.part_kl, r.part_kl)
    for found in (r, bare):
        assert len(subject.headlines([run(found)])) == (4 if found is r else 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_models_cost_nothing(family):
    a = model_of(family)
    r = computed(a, a.copy("b"))
    assert not r.changed.any() and not r.removed
    for field in ("part_kl", "block_kl", "accumulated", "outside", "whole", "weight_error", "output_isolated", "output_accumulated"):
        assert np.abs(getattr(r, field)).max() < 1e-6, field
    assert "exactly what A does" in subject.answer([run(r)]) and len(subject.headlines([run(r)])) == 1
    for card in subject.figures([run(r)]):
        for view in card.views.values():
            view(THEMES["light"])


def test_output_errors_by_hand():
    """f(x) = Wx + b: isolated takes A's x through both, accumulated B's own x through B's."""
    a = model_of("gpt2")
    b = a.copy("b")
    name = "mlp.c_proj"
    b.set_matrix(1, name, a.matrix(1, name) * 1.5)
    text = text_for(a, 4, 6)
    seen = {}
    handle = a.blocks[1].get_submodule(name).register_forward_hook(lambda m, args, out: seen.update(x=args[0], y=out))
    a.logits(text.ids, attention_mask(text.keep))
    handle.remove()
    x, y = seen["x"][text.keep].double(), seen["y"][text.keep].double()
    r = computed(a, b, n_sequences=4, length=6)
    u = [i for i in range(len(r.layer)) if (r.layer[i], r.name[i]) == (1, name)][0]
    assert r.output_isolated[u] == pytest.approx(float((0.5 * x @ a.matrix(1, name).double().T).norm() / y.norm()), rel=1e-5)
    assert r.weight_error[u] == pytest.approx(0.5) and r.output_accumulated[u] == pytest.approx(r.output_isolated[u], rel=1e-5)
    later = [i for i in range(len(r.layer)) if r.layer[i] == 2]
    assert (r.output_isolated[later] == 0).all() and (r.output_accumulated[later] > 1e-3).all()  # unchanged, but fed something else


def test_squares_count_what_is_kept():
    kept = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    assert weights.squares(kept, 2).tolist() == [[0.75, 0.0], [0.0, 1.0]]
    uneven = torch.rand(7, 30) > 0.5
    assert weights.squares(uneven, 24).shape == (24, 24) and set(np.unique(weights.squares(uneven[:, :24], 24)).round(6)) <= {0.0, 0.5, 1.0}
    assert weights.squares(torch.zeros(50, 60, dtype=torch.bool)).max() == 0 and weights.squares(torch.ones(50, 60, dtype=torch.bool)).min() == 1


def test_singular_values_are_those_of_the_library():
    w = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    for matrix in (w, w.T):
        assert weights.singular_values(matrix) == pytest.approx(torch.linalg.svdvals(w.double()).numpy())


def test_batches_of_like_length_lose_no_token():
    keep = torch.arange(9)[None] < torch.tensor([9, 2, 5, 0, 2, 7])[:, None]
    ids = torch.arange(54).reshape(6, 9)
    parts = by_length(ids, keep, 4)
    assert [p.rows.tolist() for p in parts] == [[3, 1, 4, 2], [5, 0]] and [p.ids.shape[1] for p in parts] == [5, 9]
    assert sorted(i for p in parts for i in p.ids[p.keep].tolist()) == sorted(ids[keep].tolist())


def test_what_cannot_stand_in_a_is_refused_in_words():
    for other in (model_of("llama"), model_of("gpt2", d_model=24)):
        with pytest.raises(NotApplicable, match="not of one shape"):
            computed(model_of("gpt2"), other)


class Interrupted(Quiet):
    def __init__(self, after):
        self.after, self.kept = after, None

    def save(self, state, force=False):
        self.kept = {k: np.array(v) for k, v in state.items()}
        if self.after is not None and int(state["start"]) >= self.after:
            raise KeyboardInterrupt

    def saved(self):
        return self.kept


def test_resumed_and_stored_it_is_the_same(tmp_path):
    a = model_of("llama")
    b = planned(magnitude, a, sparsity=0.5)[1]
    whole, cut = computed(a, b), Interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        computed(a, b, progress=cut)
    cut.after = None
    again = computed(a, b, progress=cut)
    arrays, tables, plain = encode(again)
    Store(tmp_path).put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    back = decode(subject.Result, Store(tmp_path).get("0" * 64))
    for field in dataclasses.fields(whole):
        one, other = getattr(whole, field.name), getattr(back, field.name)
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f") if isinstance(one, np.ndarray) else one == other, field.name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("theme", THEMES)
def test_every_figure_of_a_pruned_and_a_cut_model(family, theme):
    a = model_of(family, n_layers=4)
    b = planned(drop_layers, planned(magnitude, a, sparsity=0.5)[1], blocks=(2,))[1]
    cards = subject.figures([run(computed(a, b))])
    assert [c.name for c in cards] == ["sensitivity", "ranked", "accumulated", "stream", "errors", "spectra", "masks"]
    for card in cards:
        assert card.data.num_rows and card.alt and card.reading
        for view in card.views.values():
            assert view(THEMES[theme]).layout.template.layout.font.color == THEMES[theme].text


def test_the_estimate_grows_with_depth_and_falls_without_the_control():
    small, deep = Shape(6, 160, 640, 8, 942, 2_000_000), Shape(12, 160, 640, 8, 942, 4_000_000)
    assert subject.cost(deep, 1000, PARAMS) > 2 * subject.cost(small, 1000, PARAMS) > 2 * subject.cost(small, 1000, dataclasses.replace(PARAMS, control="none"))
