"""What a compression cost: equal models cost nothing, the sign of KL, flips and quantiles by hand, a removed block, the control."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import analysis.compression_cost as subject
from analysis import run as door
from analysis.compression_cost import measure, words
from analysis.contract import Run, Shape
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.divergence import KL, token_divergence
from metrics.model_bits import model_bits, n_weights
from metrics.paired import mcnemar, quantiles
from models.corpus import Tokens
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from operators import round_to_nearest
from tests.conftest import REPO
from tests.operator_bench import Text, model_of, planned, text_for

PARAMS = subject.Params(resamples=200)


@dataclass(eq=False)
class Labelled(Text):
    """A text whose sequences take turns between two strands."""

    @property
    def tokens(self):
        labels = {"strand": np.array(["odd" if i % 2 else "even" for i in range(len(self.ids))])}
        return Tokens(self.ids.numpy(), self.keep.numpy(), labels, {})


def captures(a, b, **text):
    plain = text_for(a, **{"n_sequences": 12, "length": 16, **text})
    return tuple(Labelled(m, plain.ids, plain.keep) for m in (a, b))


def computed(a, b, params=PARAMS, progress=None, **text):
    return subject.compute(captures(a, b, **text), params, progress or Quiet())


def run(result, params=PARAMS):
    return Run("A", "demo/a → demo/b", result, params, {})


@pytest.fixture(scope="module")
def rounded():
    a = model_of("gpt2")
    return a, planned(round_to_nearest, a, bits=3, group=8)[1]


@pytest.fixture(scope="module")
def result(rounded):
    return computed(*rounded)


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_model_costs_nothing_against_itself(family):
    """The negative control: exactly zero, everywhere, and nothing is claimed."""
    a = model_of(family)
    r = computed(a, a.copy("b"))
    assert (r.kl == 0).all() and (r.kl_summary == 0).all() and (r.noise == 0).all() and (r.weight_error == 0).all()
    assert (r.agreement == 1).all() and (r.flips[:, 1:3] == 0).all() and (r.mcnemar[:, 3] == 1).all() and (r.nll_change == 0).all()
    assert r.bits_a == r.bits_b == 32 * r.n_weights
    assert "exactly what A does" in subject.answer([run(r)]) and not words.has_control(r)
    for card in subject.figures([run(r)]):
        for draw in card.views.values():
            draw(THEMES["light"])


def test_kl_is_of_a_to_b_by_hand():
    """A gives 1/2, 1/2; B 1/4, 3/4: KL(A ‖ B) = ½ ln 2 + ½ ln ⅔ = 0.143841; the other way round 0.130812."""
    a, b = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(token_divergence(a, b, torch.tensor([0]))[0, KL]) == pytest.approx(0.143841, abs=1e-5)
    assert float(token_divergence(b, a, torch.tensor([0]))[0, KL]) == pytest.approx(0.130812, abs=1e-5)


def test_every_number_of_the_pass_is_the_plain_one(rounded, result):
    a, b = rounded
    text = text_for(a, n_sequences=12, length=16)
    p, q = (m.logits(text.ids, text.keep.long()).double().log_softmax(-1)[text.keep] for m in (a, b))
    assert result.kl == pytest.approx((p.exp() * (p - q)).sum(-1).numpy(), abs=1e-5)
    assert result.kl_summary[0, 0] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert (result.top_a == p.argmax(-1).numpy()).all() and (result.top_b == q.argmax(-1).numpy()).all()
    known = result.target >= 0
    target = torch.from_numpy(result.target[known])
    assert result.nll_a[0, 0] == pytest.approx(-float(p[torch.from_numpy(known)].gather(1, target[:, None]).mean()), rel=1e-5)
    assert result.nll_change[:, 0] == pytest.approx(result.nll_b[:, 0] - result.nll_a[:, 0], abs=1e-9)
    right_a, right_b = (t[known] == result.target[known] for t in (result.top_a, result.top_b))
    assert result.flips[0].tolist() == [(right_a & right_b).sum(), (right_a & ~right_b).sum(), (~right_a & right_b).sum(), (~right_a & ~right_b).sum()]
    assert result.flips[1:].sum(0).tolist() == result.flips[0].tolist() and result.groups == ("all", "even", "odd")
    assert result.group_tokens.tolist() == [result.n_tokens, *[int((result.sequence % 2 == i).sum()) for i in (0, 1)]]
    assert result.accuracy_change[0, 0] == pytest.approx(result.only_b[0, 0] - result.only_a[0, 0])
    for values in (result.kl_summary, result.nll_a, result.nll_change, result.agreement, result.noise_summary):
        assert (values[:, 1] <= values[:, 0]).all() and (values[:, 0] <= values[:, 2]).all()


def test_mcnemar_by_hand():
    """1 of 6 against a coin: p = 2 · (1 + 6) / 64; Clopper and Pearson give 0.0042 to 0.6412."""
    found = mcnemar(1, 5)
    assert found.p == pytest.approx(14 / 64) and found.share == pytest.approx(1 / 6)
    assert (found.low, found.high) == pytest.approx((0.00421, 0.64123), abs=1e-4)
    assert mcnemar(20, 1).p < 0.001 and mcnemar(7, 7).p == 1
    empty = mcnemar(0, 0)
    assert empty.p == 1 and np.isnan(empty.share)


def test_quantiles_by_hand_and_their_interval():
    values = np.array([4.0, 1.0, 3.0, 2.0])
    assert quantiles(values, np.arange(4), 4, (0.25, 0.5, 0.95, 0.99))[:, 0].tolist() == [1, 2, 4, 4]
    assert np.isnan(quantiles(values, np.zeros(4, int), 1, (0.5,))[0, 1:]).all()
    draws = np.random.default_rng(0)
    inside = 0
    for seed in range(40):  # sequences of five equal tokens: as tokens the interval would be far too short
        own = draws.normal(size=40)
        _, low, high = quantiles(np.repeat(own, 5), np.repeat(np.arange(40), 5), 40, (0.5,), 200, seed)[0]
        inside += low <= 0 <= high
    assert inside >= 34


@pytest.mark.parametrize("family", ("gpt2", "llama"))
def test_a_removed_block_costs_and_is_not_drawn_as_a_change(family):
    a = model_of(family)
    b = a.copy("b")
    b.remove(frozenset({(1, "attn"), (1, "mlp")}))
    r = computed(a, b)
    assert r.kl_summary[0, 1] > 0.01 and r.agreement[0, 2] < 1
    assert set(r.weight_layer.tolist()) == {0, 2} and (r.weight_error == 0).all() and r.removed == ((1, "attn"), (1, "mlp"))
    block = sum(p.numel() for p in a.blocks[1].parameters())
    assert r.bits_a - r.bits_b == 32 * block
    assert subject.answer([run(r)]).startswith("B costs **")
    half = a.copy("half")
    half.remove(frozenset({(1, "mlp")}))
    assert model_bits(a) - model_bits(half) == 32 * sum(p.numel() for p in a.blocks[1].get_submodule(a.layout.mlp).parameters())
    for card in subject.figures([run(r)]):
        for draw in card.views.values():
            draw(THEMES["dark"])


def test_the_control_is_noise_of_the_size_of_the_change(rounded, result):
    a, b = rounded
    control = measure.noisy(a, b, seed=0)
    for layer, name, weight in a.matrices():
        size = (b.matrix(layer, name) - weight).norm()
        assert float((control.matrix(layer, name) - weight).norm()) == pytest.approx(float(size), rel=1e-4)
        row = result.weight_error[(result.weight_layer == layer) & (result.weight_name == name)]
        assert row == pytest.approx(float(size / weight.norm()), rel=1e-5)
    assert result.noise_summary[0, 0] > 0
    none = computed(a, b, dataclasses.replace(PARAMS, control="none"))
    assert np.isnan(none.noise).all() and np.array_equal(none.kl, result.kl) and "noise" not in subject.answer([run(none)])


def test_size_is_what_the_recipe_stores(rounded, result):
    a, b = rounded
    matrices = sum(w.numel() for _, _, w in a.matrices())
    assert result.bits_b == pytest.approx(sum(b.bits.values()) + 32 * (n_weights(a) - matrices))
    assert result.n_weights == n_weights(a)


def test_nothing_to_compare_is_said():
    a, other = model_of("gpt2"), model_of("gpt2")
    first, second = captures(a, other)
    second.ids = second.ids.flip(0)
    with pytest.raises(NotApplicable, match="different tokens"):
        subject.compute((first, second), PARAMS, Quiet())
    with pytest.raises(Refused, match="choose a second one"):
        door.requests("compression_cost", "demo/storyteller-a", None, None, {})


def test_models_of_two_shapes_are_compared_without_their_weights():
    r = computed(model_of("gpt2"), model_of("llama"))
    assert r.kl_summary[0, 0] > 0 and not len(r.weight_error) and np.isnan(r.noise).all()
    assert "weight_error" not in [card.name for card in subject.figures([run(r)])]


class Interrupted(Quiet):
    def __init__(self, after):
        self.after, self.kept, self.seen = after, None, []

    def step(self, i, n, message="", live=None):
        self.seen.append(i)
        if self.after is not None and len(self.seen) > self.after:
            raise KeyboardInterrupt

    def save(self, state, force=False):
        self.kept = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in state.items()}

    def saved(self):
        return self.kept


def test_resumed_and_stored_it_is_the_same(rounded, tmp_path):
    text = dict(n_sequences=20, length=16)
    whole = computed(*rounded, **text)
    cut = Interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        computed(*rounded, progress=cut, **text)
    assert cut.kept["start"] == 1
    cut.after, cut.seen = None, []
    again = computed(*rounded, progress=cut, **text)
    assert cut.seen[0] == 8
    arrays, tables, plain = encode(again)
    Store(tmp_path).put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    back = decode(subject.Result, Store(tmp_path).get("0" * 64))
    for field in dataclasses.fields(whole):
        one, other = getattr(whole, field.name), getattr(back, field.name)
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f") if isinstance(one, np.ndarray) else one == other, field.name


def test_answer_headlines_and_figures(result):
    one = [run(result)]
    text = subject.answer(one)
    assert "nats per token" in text and "Random noise of the same size" in text and "McNemar p" in text and "bits per weight" in text
    rows = subject.headlines(one)
    assert len(rows) == 4 and rows[0].low < rows[0].value < rows[0].high and "noise" in rows[0].null
    cards = subject.figures(one)
    assert [c.name for c in cards] == ["divergence", "strands", "flips", "weight_error", "positions", "worst_tokens", "passage"]
    for card in cards:
        assert card.data.num_rows and card.caption and card.alt and card.reading
        for draw in card.views.values():
            for theme in ("light", "dark"):
                assert draw(THEMES[theme]).layout.height == card.height
    table = next(c for c in cards if c.name == "passage").data
    assert table.num_rows == result.n_tokens and np.allclose(table["kl_nats"].to_numpy(), result.kl)


def test_estimate_grows_with_the_control():
    shape = Shape(6, 160, 640, 5, 942, 2_000_000)
    assert subject.cost(shape, 100, PARAMS) == 1.5 * subject.cost(shape, 100, dataclasses.replace(PARAMS, control="none"))


def test_the_page_without_b_says_what_is_missing_and_offers_one(home):
    from streamlit.testing.v1 import AppTest

    def app():
        from pages.shared.frame import page

        page("compression_cost")

    if not (REPO / "demo" / "models" / "storyteller-a").is_dir():
        pytest.skip("demo models are not built")
    shown = AppTest.from_function(app, default_timeout=120).run()
    assert not shown.exception and any("choose a second one to compare with" in m.value for m in shown.markdown)
    assert shown.button(key="compare").label == "Compare with A at 4 bits"


def test_a_healed_variant_stands_beside_itself_before(rounded):
    """B's recipe without its healing is a third model: its KL is that of the pair A, before, on the same tokens."""
    a, before = rounded
    b = planned(round_to_nearest, a, bits=4, group=8)[1]  # any nearer model
    plain = captures(a, b)
    r = subject.compute((*plain, dataclasses.replace(plain[1], subject=before)), PARAMS, Quiet())
    alone, healed = computed(a, before), computed(a, b)
    assert np.array_equal(r.before, alone.kl) and np.array_equal(r.kl, healed.kl) and np.allclose(r.before_summary, alone.kl_summary)
    assert "Before its healing it cost" in words.answer([run(r)]) and "healing" not in words.answer([run(healed)])
    fig = subject.figures([run(r)])[0].views[""](THEMES["light"])
    assert {t.name for t in fig.data} == {"A with noise", "B", "B before healing"}
    text = lambda steps: door.operators.parse(f"demo/storyteller-a{steps}")
    also = lambda steps: [v.written for v in subject.also(text(steps), PARAMS)]
    assert also("~gptq~heal:steps=5~heal:train=lora") == [text("~gptq").written] and also("~gptq") == also("") == []
    asked = door.request("compression_cost", ("demo/storyteller-a", "demo/storyteller-a~round_to_nearest~heal"), None, {})
    assert [v.written for v in door.also(asked)] == ["demo/storyteller-a~round_to_nearest"]
