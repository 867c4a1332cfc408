"""Arithmetic heads as a whole: planted heads found exactly and all others exactly zero, knock-outs, what a change kills, empty controls,
resuming, what is kept, every figure; and what the shipped models show."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

import analysis.arithmetic_heads as subject
from analysis import run as door
from analysis.arithmetic_heads import reading, tables, words
from analysis.arithmetic_heads import knockout as knockouts
from analysis.arithmetic_heads.glance import look
from analysis.arithmetic_heads.knockout import masks, means
from analysis.arithmetic_heads.scan import scan
from analysis.contract import Run, Shape
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.bootstrap import rank_correlation
from metrics.patching.one_token import knocked_out
from metrics.prompts.arithmetic_set import from_key
from metrics.prompts.wordings import CHANGES, OPERATORS, WORDINGS
from models.params import key_params, read_params
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from tests import planted
from tests.conftest import DATA, REPO
from tests.operator_bench import Text, model_of
from tests.test_analysis_layer_redundancy import Interrupted

@pytest.fixture(autouse=True, scope="module")
def few_questions():
    """Twelve questions in each transfer set are enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knockouts, "ASKED", 12)
        yield


PARAMS = subject.Params(prompts=30, top=2, resamples=100, integrated_steps=4)


def text_of(model):
    ids = torch.randint(4, model.config.vocab_size, (4, 20), generator=torch.Generator().manual_seed(0))
    return Text(model, ids, torch.ones_like(ids, dtype=torch.bool))


def computed(model, params=PARAMS, progress=None):
    return subject.compute((text_of(model),), params, progress or Quiet())


def run(label, result, params=PARAMS, of="demo/adder"):
    return Run(label, of, result, params, {})


@pytest.fixture(scope="module")
def adder():
    return computed(planted.model())


@pytest.fixture(scope="module")
def pair():
    """A: two heads each write half of the first number. B: one of them is cut off and the other writes it all."""
    a = planted.model(twin=True)
    b = a.copy("b")
    for head, gain in ((0, 0.0), (1, 2.0)):
        name = b.layout.attn_output
        weight = b.matrix(1, name).clone()
        weight[:, head * planted.D_HEAD : (head + 1) * planted.D_HEAD] *= gain
        b.set_matrix(1, name, weight)
    return [run("A", computed(a), of="demo/adder"), run("B", computed(b), of="demo/adder~cut")]


def named(r, heads):
    return {(int(r.blocks[i]), h) for i, h in heads}


# ---- planted


def test_the_planted_heads_are_found_exactly_and_all_others_are_exactly_zero(adder):
    r = adder
    assert named(r, reading.key_heads(r, 0, 5.0)) == planted.PLANTED
    others = np.ones((3, 4), bool)
    for layer, head in planted.PLANTED:
        others[layer, head] = False
    assert np.abs(r.head_effect[..., others]).max() == 0.0 and np.abs(r.faster_effect[..., others]).max() < 1e-6
    effects = reading.heads(r, 0)[..., 0]
    assert all(effects[x] < -0.9 for x in planted.PLANTED) and (reading.heads(r, 0, validation=True)[..., 2][~others] < -0.9).all()
    assert r.hooked_gap < 1e-5 and r.n_hooked == 18


def test_other_numbers_find_the_heads_that_carry_numbers(adder):
    """The head that reads the operator gives the same in both runs: it is no key head there."""
    assert named(adder, reading.key_heads(adder, 1, 5.0)) == planted.PLANTED - {(0, 1)}
    assert abs(reading.heads(adder, 1)[0, 1, 0]) < 1e-6


def test_only_the_planted_mlp_carries_the_answer(adder):
    mlps = reading.mlps(adder, 0, 0, 0)[:, 0]
    assert mlps[2] < -0.9 and np.abs(mlps[:2]).max() == 0.0
    assert adder.cosine[3, 2, 0] == pytest.approx(1, abs=1e-4) and abs(adder.cosine[4, 2, 0]) < 1e-4


def test_with_frozen_mlps_no_planted_head_has_a_direct_path(adder):
    """The heads only feed the MLP: the convention decides, and is named."""
    assert reading.key_heads(adder, 0, 5.0, 1) == []
    one = run("A", adder, dataclasses.replace(PARAMS, mlps="frozen"))
    assert subject.answer([one]).startswith("**No head** of 12 takes 5 % of the answer’s logit away") and "MLPs frozen" in subject.answer([one])


def test_knocking_out_planted_heads_ends_it_and_random_ones_do_nothing(adder):
    accuracy = adder.right.mean(-1)
    assert (accuracy[:, 0] == 0).all() and (accuracy[1:, 2:] == 1).all()  # one random head may be the third planted one: ranks hold two
    assert adder.accuracy[0, 0] == 1 and adder.accuracy[0, 1] == 0 and adder.sets[0] == "new wordings"
    for k, mask in ((k, masks(adder, int(k), 20, 0)) for k in adder.counts):
        assert mask.sum((1, 2)).tolist() == [k] * 22
        top = mask[:2].any(0)
        assert not (mask[2:] & top).any()


def test_heads_look_where_they_were_made_to_look(adder):
    share = adder.attention[..., 0]
    assert share[0, 1, 1] > 0.999 and share[1, 0, 0] > 0.999 and share[1, 2, 2] > 0.999
    assert np.allclose(share.sum(-1), 1, atol=1e-5) and share[0, 0].max() < 0.9


def test_the_lens_sees_the_answer_after_the_block_that_writes_it(adder):
    answer = str(adder.guess[-1, 0])
    assert answer in planted.NUMBERS and answer not in set(adder.guess[:3, 0]) and str(adder.tracked[-1]) == answer
    assert adder.pattern.shape == (3, 4, len(adder.token)) and adder.prompt == str(adder.text[0]).rstrip()


def test_a_prompt_of_ones_own():
    r = look(planted.model(), "9 - 4 = ")
    assert r.token.tolist() == ["<bos>", "9", "-", "4", "="] and str(r.guess[-1, 0]) == "5" and r.tracked.tolist() == ["9", "4", "5"]
    assert r.pattern[0, 1].argmax() == 2 and r.pattern[1, 0].argmax() == 1 and r.pattern[1, 2].argmax() == 3
    for text, found in (("   ", "1 tokens"), ("1 " * 40, "41 tokens")):
        with pytest.raises(Refused, match=found):
            look(planted.model(), text)


# ---- nothing there


def test_a_model_that_cannot_add_has_no_arithmetic_heads():
    """Negative control: with the planted MLP gone nothing is answered, and nothing is said about heads."""
    model = planted.model()
    model.remove(frozenset({(2, "mlp")}))
    one = run("A", computed(model))
    assert one.result.n_inputs == 0 and one.result.asked.num_rows > 0
    for ask in (subject.answer, subject.figures, subject.headlines):
        with pytest.raises(NotApplicable, match=r"answers 0 of 360 \+, 0 of 360 −, .* prompts correctly; expected at least 30"):
            ask([one])


def test_a_vocabulary_without_numbers_is_told():
    with pytest.raises(NotApplicable, match="no answer is a single token"):
        subject.answer([run("A", computed(model_of("gpt2")))])


def test_too_few_heads_to_rank():
    with pytest.raises(NotApplicable, match="has 2 attention heads"):
        computed(model_of("llama", n_layers=1, n_heads=2, n_kv=1))


def test_one_operator_alone(adder):
    r = computed(planted.model(), dataclasses.replace(PARAMS, operators="minus", faster="none"))
    assert set(r.operator.tolist()) == {OPERATORS.index("minus")} and np.isnan(r.faster_effect).all()
    assert named(r, reading.key_heads(r, 0, 5.0)) == planted.PLANTED
    for card in subject.figures([run("A", r, dataclasses.replace(PARAMS, operators="minus", faster="none"))]):
        assert card.name != "agreement" and all(draw(THEMES["light"]).data for draw in card.views.values())


# ---- A against B


def test_the_head_that_a_change_killed_is_told_and_the_one_that_took_over_is_not(pair):
    a, b = (x.result for x in pair)
    assert named(a, reading.key_heads(a, 0, 5.0)) == planted.PLANTED | {(1, 1)}
    assert named(a, reading.killed(a, b, 0, 5.0)) == {(1, 0)} and named(a, reading.killed(b, a, 0, 5.0)) == set()
    found = reading.both(a, b, 0)
    assert found.common and found.n == a.n_discovery and found.difference[1, 0, 0] == pytest.approx(-found.a[1, 0, 0])  # B − A: 0 − (−1)
    assert found.b[1, 0, 0] == 0 and found.b[1, 1, 0] < -0.9
    assert "**B has lost 1 of 4** (L1H0 −32.8 % to 0 %" in subject.answer(pair) and f"on {a.n_discovery} prompts that both answer" in subject.answer(pair)
    assert [c.name for c in subject.figures(pair)][1] == "lost" and "Lost: L1H0; 1 of 1 in the other wordings too" in subject.figures(pair)[1].reading
    other = dataclasses.replace(b, head_effect=np.where(b.validation[:, None, None], a.head_effect, b.head_effect))  # B changed in the sought wordings only
    assert named(a, reading.killed(a, other, 0, 5.0)) == {(1, 0)} and named(a, reading.killed(a, other, 0, 5.0, validation=True)) == set()


def test_difference_is_b_minus_a(pair):
    figure = subject.figures(pair)[0].views["B − A"](THEMES["light"])
    z = np.array(figure.data[0].z, float)
    assert z[1, 0] > 30 and abs(z[0, 0]) < 1e-9  # orange: the answer no longer depends on that head
    assert np.array(subject.figures(pair[::-1])[0].views["B − A"](THEMES["light"]).data[0].z, float)[1, 0] < -30


def test_a_removed_block_is_told_and_its_heads_are_gone(pair):
    less = planted.model(twin=True)
    less.remove(frozenset({(2, "attn")}))
    r = computed(less)
    assert np.isnan(r.head_effect[..., 2, :]).all() and r.no_attention.tolist() == [False, False, True] and reading.n_heads(r) == 8
    assert not {i for i, _ in reading.ranked(r, 0)} & {2} and not masks(r, 2, 20, 0)[:, 2].any()
    runs = [pair[0], run("B", r, of="demo/adder~drop")]
    texts = " ".join(a.text for a in subject.figures(runs)[0].views["B"](THEMES["light"]).layout.annotations)
    assert "removed" in texts and np.isnan(reading.both(pair[0].result, r, 0).b[2]).all()


def test_a_change_that_kills_the_skill_is_told_in_a_sentence(pair):
    model = planted.model(twin=True)
    model.remove(frozenset({(2, "mlp")}))
    runs = [pair[0], run("B", computed(model), of="demo/adder~dead")]
    assert "**B answers 0 of" in subject.answer(runs) and "the skill is gone as a whole" in subject.answer(runs)
    assert subject.figures(runs)[1].name == "strongest" and subject.headlines(runs)[-1].value == "0"
    with pytest.raises(NotApplicable):
        subject.answer(runs[::-1])


def test_another_checkpoint_is_not_compared_head_by_head(pair, adder):
    runs = [pair[0], run("B", adder, of="demo/other")]
    assert "another checkpoint" in subject.answer(runs) and "lost" not in [c.name for c in subject.figures(runs)]
    assert "B − A" not in subject.figures(runs)[0].views


def test_runs_that_share_too_few_prompts_are_not_paired(pair):
    a, b = (x.result for x in pair)
    few = dataclasses.replace(b, key=np.array([f"{k}:x" if i > 5 else k for i, k in enumerate(b.key)]))
    found = reading.both(a, few, 0)
    assert not found.common and found.n == 6 and np.isnan(found.difference).all() and np.isfinite(found.b).all()
    assert named(a, reading.killed(a, few, 0, 5.0)) == {(1, 0)}


# ---- numbers by hand


@dataclasses.dataclass(frozen=True, eq=False)
class Small:
    operator: np.ndarray
    validation: np.ndarray
    head_effect: np.ndarray
    no_attention: np.ndarray
    n_heads: int = 2


def small():
    """Two operators of three and one discovery prompts, one prompt to validate, one block of two heads."""
    effect = np.zeros((2, 2, 3, 5, 1, 2), np.float32)
    effect[0, 0, 0, :, 0, 0] = [-0.1, -0.2, -0.3, -0.6, 0.9]
    effect[0, 0, 0, :, 0, 1] = [0.1, 0.1, 0.1, -0.14, 0.9]
    return Small(np.array([0, 0, 0, 1, 1]), np.array([False] * 4 + [True]), effect, np.array([False]))


def test_means_and_key_heads_by_hand():
    r = small()
    assert reading.heads(r, 0)[0, :, 0] == pytest.approx([(-0.2 - 0.6) / 2, (0.1 - 0.14) / 2])
    assert reading.heads(r, 0, operator=0)[0, :, 0] == pytest.approx([-0.2, 0.1]) and reading.heads(r, 0, validation=True)[0, 0, 0] == pytest.approx(0.9)
    assert reading.ranked(r, 0) == [(0, 0), (0, 1)] and reading.key_heads(r, 0, 5.0) == [(0, 0)] and reading.key_heads(r, 0, 1.0) == [(0, 0), (0, 1)]


def test_prompts_whose_logit_is_not_above_zero_are_left_out():
    r = small()
    r.head_effect[0, 0, 0, 0] = np.nan
    reading.heads.cache_clear()
    assert reading.heads(r, 0)[0, 0, 0] == pytest.approx((-0.25 - 0.6) / 2)


def test_accuracy_after_a_knock_out_weighs_operators_alike(adder):
    operator = adder.operator[adder.validation]
    right = np.zeros((1, 1, len(operator)), bool)
    right[0, 0, operator == 0] = True
    one = dataclasses.replace(adder, right=right)
    assert tables.accuracy(one, np.ones(len(operator), bool))[0, 0] == pytest.approx(0.5)
    assert tables.accuracy(one, operator == 0)[0, 0] == 1 and tables.accuracy(one, operator == 1)[0, 0] == 0


# ---- keeping, resuming


def test_a_resumed_scan_is_bit_for_bit_the_whole_one(monkeypatch):
    import analysis.arithmetic_heads.scan as module

    monkeypatch.setattr(module, "CHUNK", 32)
    model, params = planted.model(), dataclasses.replace(PARAMS, faster="gradients")
    whole, cut = scan(model, params, Quiet()), Interrupted(after=60)
    with pytest.raises(KeyboardInterrupt):
        scan(model, params, cut)
    assert cut.kept and 0 < cut.kept["done"] < 120
    cut.after = None
    resumed = scan(model, params, cut)
    for field in dataclasses.fields(module.Scan):
        one, two = getattr(whole, field.name), getattr(resumed, field.name)
        assert one.equals(two) if isinstance(one, pa.Table) else np.array_equal(one, two, equal_nan=np.asarray(one).dtype.kind == "f"), field.name


def test_the_result_survives_the_store(tmp_path, adder):
    arrays, tables_, plain = encode(adder)
    Store(tmp_path).put("0" * 64, arrays=arrays, tables=tables_, record={"plain": plain})
    back = decode(subject.Result, Store(tmp_path).get("0" * 64))
    for field in dataclasses.fields(adder):
        one, two = getattr(adder, field.name), getattr(back, field.name)
        assert one.equals(two) if isinstance(one, pa.Table) else np.array_equal(one, two, equal_nan=np.asarray(one).dtype.kind == "f"), field.name
    assert back.n_inputs == adder.n_inputs == 120


def test_another_prompt_or_file_does_not_scan_again():
    """The scan and the knock-outs are kept under the parameters that they depend on; the look at one prompt is made anew."""
    class Kept(Text):
        made: list = []

        def keep_plan(self, name, parameters, make, plan_class, progress=None):
            self.made.append((name, tuple(sorted(parameters))))
            return make(progress or Quiet())

    text = text_of(planted.model())
    subject.compute((Kept(text.subject, text.ids, text.keep),), PARAMS, Quiet())
    wanted = dict(Kept.made)
    assert set(wanted) == {"arithmetic scan", "arithmetic knock-outs"}
    fields = set(key_params(PARAMS))
    for name, names in wanted.items():
        assert set(names) <= fields and not set(names) & {"prompt", "threshold", "change", "mlps", "measure"}
    assert "word_problems" not in wanted["arithmetic scan"] and {"top", "baseline", "draws", "word_problems"} <= set(wanted["arithmetic knock-outs"])


def test_a_clicked_head_stands_first_where_heads_are_looked_at(pair):
    card = subject.figures(pair[:1])[1]
    dots = card.views[""](THEMES["light"]).data
    rows = [float(y) for trace in dots for y in trace.y]
    assert set(map(str, rows)) == set(card.links) and card.links[str(rows[1])].startswith("arithmetic_heads?a=demo/adder&")
    name = card.links[str(rows[-1])].rpartition("head=")[2]
    one = dataclasses.replace(pair[0], params=dataclasses.replace(PARAMS, head=name))
    assert reading.name(one.result, reading.closest(one, 8)[0]) == name != reading.name(one.result, reading.closest(pair[0], 8)[0])
    query = dict(part.split("=", 1) for part in card.links[str(rows[1])].partition("?")[2].split("&"))
    assert read_params(subject.Params, {k: v for k, v in query.items() if k not in ("a", "b", "corpus")}) == dataclasses.replace(PARAMS, head=query["head"])


def test_what_is_only_shown_is_no_part_of_the_key():
    assert not {"change", "mlps", "measure", "threshold", "head"} & set(key_params(PARAMS))


# ---- tuning


def test_precise_tuning_is_compared_with_random_heads_and_every_matrix():
    params = dataclasses.replace(PARAMS, tuning="compare", tuning_steps=4, tuning_rate=1e-3, top=3, operators="plus", faster="none")
    r = computed(planted.model(), params)
    assert r.arms == ("before", "3 ranked heads", *(f"3 random heads, draw {d}" for d in (1, 2, 3)), "every matrix")
    assert set(r.arm_heads[1].split(".")) == {"L0H1", "L1H0", "L1H2"} and not set(r.arm_heads[2].split(".")) & set(r.arm_heads[1].split("."))
    assert r.arm_weights.tolist()[:5] == [0] + [3 * 4 * 176 * 44] * 4 and r.loss.shape == (5, 4) and np.isfinite(r.loss).all()
    assert r.tuned_accuracy.shape == (6, 3, 3) and r.tuned_accuracy[0, 0, 0] == 1 and (r.tuned_n > 0).all()
    one = run("A", r, params)
    card = {c.name: c for c in subject.figures([one])}["tuning"]
    assert card.data.num_rows == 18 and card.views[""](THEMES["light"]).data and "points" in card.reading


# ---- words and figures


def test_the_answer_names_heads_convention_and_null(adder):
    text = subject.answer([run("A", adder)])
    assert text.startswith("**3 of 12 heads** take at least 5 % of the answer’s logit away when patched with the run without the operator "
                           "(MLPs recomputed): **L0H1** −102 %")
    assert "With other numbers: 2 (L1H" in text and "leaves **0 %** of the answers in other wordings right; 2 random heads leave 100 % (100 to 100)" in text
    key, strongest, left, control = subject.headlines([run("A", adder)])
    assert key.value == "3 of 12" and strongest.value == pytest.approx(-102,
                                                                       abs=1) and left.value == 0 and left.null == "100 to 100 %" and control.unit == "points"


@pytest.mark.parametrize("n_runs", (1, 2))
@pytest.mark.parametrize("shown", ({}, {"change": "other numbers", "mlps": "frozen", "measure": "log-probability"}))
def test_every_figure_draws_in_every_look_and_carries_its_data(pair, n_runs, shown):
    runs = [dataclasses.replace(x, params=dataclasses.replace(PARAMS, **shown)) for x in pair[:n_runs]]
    cards = subject.figures(runs)
    assert [c.name for c in cards] == ["effects", "lost" if n_runs == 2 else "strongest", "knockout", "transfer", "attention", "mlp_roles", "pattern",
                                       "lens", "overlap", "agreement", "prompts"]
    for card in cards:
        assert isinstance(card.data, pa.Table) and card.data.num_rows > 0
        assert card.reading.endswith(".") and card.caption.endswith(".") and card.alt.endswith(".") and card.height <= 700
        for draw in card.views.values():
            for theme in THEMES.values():
                figure = draw(theme)
                assert figure.data and figure.layout.template.layout.font.size == 12 and not figure.layout.title.text
    data = {c.name: c.data for c in cards}
    assert data["effects"].num_rows == n_runs * 2 * 2 * 3 * 3 * (12 + 3)  # counterfactual, convention, measure, operators and all, heads and MLPs
    assert data["attention"].num_rows == n_runs * 12 * 5 and data["knockout"].num_rows == n_runs * 3 * pair[0].result.right[..., 0].size
    assert set(data["prompts"]["wording"].to_pylist()) <= {w.name for w in WORDINGS}


def test_agreement_is_what_the_stored_numbers_say(adder):
    exact, activation = reading.heads(adder, 0, 0, 1)[..., 0], adder.faster_effect[0, 0, 1]
    assert rank_correlation(exact.ravel(), activation.ravel()).rho > 0.8
    wanted = {"counterfactual": CHANGES[0], "measure": "log-probability", "block": 0, "head": 1}
    rows = [x for x in tables.agreement([run("A", adder)]).to_pylist() if all(x[k] == v for k, v in wanted.items())]
    assert len(rows) == 1 and rows[0]["activation patching"] == pytest.approx(activation[0,
                                                                                         1]) and rows[0]["path, MLPs recomputed"] == pytest.approx(exact[0, 1])


def test_grouped_queries_are_named():
    r = dataclasses.replace(small_result(), n_kv=2)
    assert "heads share one key and value" in subject.figures([run("A", r)])[0].reading
    assert {row["head"]: row["kv_group"] for row in tables.attention([run("A", r)]).to_pylist()} == {0: 0, 1: 0, 2: 1, 3: 1}


def small_result():
    return computed(planted.model(), dataclasses.replace(PARAMS, operators="plus", faster="none"))


def test_cost_grows_with_what_is_asked():
    shape = Shape(6, 160, 640, 8, 942, 2_000_000)
    cost = lambda **fields: subject.cost(shape, 2048, dataclasses.replace(subject.Params(), **fields))
    assert cost() < cost(prompts=200) and cost(faster="none") < cost() < cost(tuning="compare") and cost(operators="plus") < cost()


# ---- files


@pytest.mark.skipif(not (DATA / "tasks").is_dir(), reason="the data sets are not here")
def test_a_file_of_word_problems_joins_the_transfer_sets(home):
    from models.corpus import register_text

    name = register_text(DATA / "tasks" / "svamp" / "SVAMP.json", home)
    text = text_of(planted.model())
    text.lab = type("Lab", (), {"home": home})()
    r = subject.compute((text,), dataclasses.replace(PARAMS, word_problems=name, operators="plus", faster="none"), Quiet())
    assert name.removeprefix("text/") not in r.sets  # every question is longer than this model's 24 tokens
    with pytest.raises(Refused, match="No text is registered"):
        subject.compute((text,), dataclasses.replace(PARAMS, word_problems="text/gone"), Quiet())


# ---- the shipped models


@pytest.mark.skipif(not (REPO / "demo/models/storyteller-a/model.safetensors").is_file(), reason="the demo model is not trained yet")
@pytest.mark.parametrize("name,operator,numbers", [("storyteller-a", {(0, 4)}, {(0, 3), (0, 6)}), ("storyteller-llama", {(1, 1)}, {(0, 7)})])
def test_the_shipped_models_hang_on_few_heads(name, operator, numbers, home):
    """A head or two react to the operator, others carry the numbers; they hold in other wordings and end the skill, random ones do not."""
    model = door.lab(home).model(door.variant(f"demo/{name}"))
    door.lab.cache_clear()
    r = scan(model, dataclasses.replace(PARAMS, prompts=36, faster="none", largest=6), Quiet())
    assert set(r.operator.tolist()) == {0, 1, 2}  # ÷ was never taught, and is left out
    keys = named(r, reading.key_heads(r, 0, 5.0))
    assert operator <= keys and len(keys) <= 3 and numbers <= named(r, reading.key_heads(r, 1, 5.0))
    assert all(reading.heads(r, 0, validation=True)[x][2] < -0.05 for x in operator)
    prompts = [from_key(model.tokenizer, str(k)) for k in r.key[r.validation]]
    own = torch.tensor([p.answer for p in prompts])
    left = knocked_out(model, [p.ids for p in prompts], own, masks(r, 4, 20, 0), means(r, "mean without operator")[:, None]).double().mean(1)
    assert (left[:2] < 0.6).all() and left[2:].mean() > 0.9 and left[2:].min() > left[:2].max()
    assert r.hooked_gap < 1e-4
