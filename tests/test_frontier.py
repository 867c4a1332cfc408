"""The plane of recipes: the front by hand, seeds taken together, signs and words of the answer; and a sweep as one job that resumes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from analysis import frontier, run, sweep
from analysis.contract import Run
from analysis.frontier import points_of
from analysis.frontier.orders import orders
from analysis.frontier.drawing import mark, table
from analysis.theme import THEMES
from metrics.pareto import front
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.variant import Step, parse

A = parse("demo/a")


def test_the_front_by_hand():
    """(1, 9) (2, 5) (3, 6) (4, 2) (4, 3) (5, 2) (6, 1): 3 is farther than 2; of the fours the nearer; 5 is as far as 4 and larger."""
    size, distance = [3, 1, 6, 4, 2, 5, 4], [6, 9, 1, 2, 5, 2, 3]
    assert front(size, distance).tolist() == [1, 4, 3, 2]
    assert front([1, 1, 2], [3, 3, 3]).tolist() == [0, 1]  # equal points both stay; as far and larger does not
    assert front([np.nan, 2], [1, np.inf]).tolist() == [] and front([], []).tolist() == []


def test_no_point_of_a_front_is_beaten_and_all_others_are():
    rng = np.random.default_rng(0)
    size, distance = rng.integers(0, 12, (2, 200))
    kept = set(front(size, distance).tolist())
    beats = lambda j, i: size[j] <= size[i] and distance[j] <= distance[i] and (size[j], distance[j]) != (size[i], distance[i])
    assert kept == {i for i in range(200) if not any(beats(j, i) for j in range(200))}


def cost(kl, bits, agreement=0.9, noise=0.5, ratio=1.1, corpus="demo/mixed", n=8):
    """A result as the cost page keeps it, as far as the plane reads it."""
    three = lambda x: np.array([x, 0.9 * x, 1.2 * x])
    r = SimpleNamespace(kl_summary=np.stack([three(kl), three(0), three(0), three(10 * kl)]), noise_summary=np.stack([three(noise)] * 4),
                        agreement=np.array([[agreement, agreement - 0.02, agreement + 0.01]]), nll_change=np.log([[ratio, ratio, ratio]]), bits_a=3200.0, bits_b=float(bits),
                        n_weights=100, n_tokens=n)
    return Run("B", "", r, None, {"corpus": corpus})


def variant(operator, seed=0, **params):
    return A.then(Step(operator, tuple(params.items()), None, seed))


def planted():
    return [(variant("gptq", bits="4"), cost(0.02, 400)), (variant("gptq", seed=1, bits="4"), cost(0.04, 400)), (variant("gptq", seed=2, bits="4"), cost(0.03, 440)),
            (variant("wanda"), cost(0.2, 1600)), (variant("drop_layers", blocks="3"), cost(0.01, 2400)),
            (variant("drop_layers", blocks="3").then(Step("gptq")), cost(0.5, 300, noise=np.nan))]


def points():
    return points_of(planted(), A, lambda v: ", ".join(s.operator for s in v.steps))


def test_seeds_of_one_recipe_are_one_point_with_their_range():
    found = points()
    gptq = found[0]
    assert len(found) == 4 and len(gptq.seeds) == 3
    assert gptq.measures[0] == pytest.approx([0.03, 0.02, 0.04]) and gptq.bytes_range == (50.0, 55.0)
    assert found[1].measures[0] == pytest.approx([0.2, 0.18, 0.24])  # one seed: its interval over sequences
    assert gptq.measures[2] == pytest.approx([10.0, 10.0, 10.0]) and found[1].measures[2] == pytest.approx([10.0, 9.0, 12.0])  # 1 − agreement: ends change places
    assert [p.family for p in found] == ["gptq", "wanda", "drop_layers", "combined"]


def test_the_answer_says_where_b_stands_with_its_null():
    found = points()
    text = frontier.answer(found, variant("gptq", seed=1, bits="4").written)
    assert "range over 3 calibration seeds" in text and "noise of the same size costs 0.5" in text and "Nothing as small" in text
    text = frontier.answer(found, variant("wanda").written)
    assert "gptq is no larger" in text and "0.03" in text
    assert "3 are beaten by no other" in frontier.answer(found, None)
    assert "Nothing has been measured" in frontier.answer([], None)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_every_view_is_drawn_and_opens_its_cost(theme):
    (card,) = frontier.figures(points(), ("wanda", "gptq", "drop_layers"), variant("wanda").written)
    for view in card.views.values():
        fig = view(theme)
        written = {row[0] for trace in fig.data if trace.customdata is not None for row in trace.customdata}
        assert written == {p.written for p in points()} == set(card.links)
    assert all(link.startswith("compression_cost?a=demo/a&b=") for link in card.links.values())
    line = next(t for t in card.views["mean KL"](theme).data if t.line.shape == "hv")
    assert list(line.x) == sorted(line.x) and list(line.y) == sorted(line.y, reverse=True) and len(line.x) == 3


def test_marks_are_their_own_and_never_the_models_colours():
    theme = THEMES["light"]
    families = tuple(f"operator {i}" for i in range(36))
    marks = [mark(f, families, theme) for f in (*families, "combined")]
    assert len(set(marks)) == 37 > len(run.operators.OPERATORS) and not {theme.a, theme.b, theme.null_line, theme.quiet} & {colour for _, colour in marks}


def test_the_table_has_every_point_once():
    rows = table(points()).to_pylist()
    assert [row["bytes"] for row in rows] == sorted(row["bytes"] for row in rows) and sum(row["on_front"] for row in rows) == 3
    assert rows[0]["noise_mean_kl_nats"] is None and rows[-1]["operator"] == "drop_layers"


# the sweep


@pytest.fixture
def asked(home, monkeypatch):
    """Three requests and a count of what was computed; the second is refused while it runs, the third fails."""
    run.lab.cache_clear()
    requests = [run.request("layer_redundancy", ("demo/storyteller-a",), f"demo/stories:{n}x16", {}) for n in (2, 3, 4)]
    computed = []

    def compute(spec, progress):
        request = run.from_json(spec)
        computed.append(request.corpus.n_sequences)
        progress.step(1, 2, "half")
        if request.corpus.n_sequences == 3:
            raise NotApplicable("It has no MLP.")
        if request.corpus.n_sequences == 4:
            raise ZeroDivisionError
        key = run.key(request)
        run.store().put(key, record={"x": 1})
        return key

    return requests, computed, compute


class Steps(Quiet):
    def __init__(self):
        self.seen = []

    def step(self, i, n, message="", live=None):
        self.seen.append((i, n, message))


def test_one_that_fails_does_not_end_the_others(asked):
    requests, _, compute = asked
    progress = Steps()
    assert sweep.outcomes(requests) == [None] * 3
    sweep.execute(sweep.spec("many", requests), progress, compute)
    states = sweep.outcomes(requests)
    assert [o.state for o in states] == ["done", "not applicable", "failed"]
    assert states[1].why == "It has no MLP." and "ZeroDivisionError" in states[2].why and "Traceback" not in states[2].why
    assert list((run.home() / "logs").glob("sweep-*.log"))
    assert [i for i, _, _ in progress.seen] == sorted(i for i, _, _ in progress.seen) and {n for _, n, _ in progress.seen} == {3000}
    assert any(message.startswith("2 of 3, layer redundancy, storyteller-a: half") for _, _, message in progress.seen)


def test_a_cancelled_sweep_keeps_what_is_finished(asked):
    requests, computed, compute = asked

    class Stop(BaseException):
        pass

    def until_second(spec, progress):
        if len(computed):
            raise Stop
        return compute(spec, progress)

    with pytest.raises(Stop):
        sweep.execute(sweep.spec("many", requests), Quiet(), until_second)
    assert [o and o.state for o in sweep.outcomes(requests)] == ["done", None, None]


def test_what_is_stored_is_not_computed_again(home, monkeypatch):
    """The real door: the second sweep of the same requests takes everything from the store."""
    run.lab.cache_clear()
    tiny = {"removal_sequences": "2", "remove": "nothing", "spectra_sequences": "2", "resamples": "100"}
    requests = [run.request("layer_redundancy", ("demo/storyteller-a",), f"demo/stories:{n}x16", tiny) for n in (4, 5)]
    sweep.execute(sweep.spec("many", requests[:1]), Quiet())
    calls = []
    computing = run._compute
    monkeypatch.setattr(run, "_compute", lambda module, ask, *rest: (calls.append(ask.corpus.n_sequences), computing(module, ask, *rest)))
    sweep.execute(sweep.spec("many", requests), Quiet())
    assert calls == [5] and [o.state for o in sweep.outcomes(requests)] == ["done", "done"]


def test_a_request_that_cannot_be_asked_is_told_without_a_run(home):
    run.lab.cache_clear()
    bad = dataclasses.replace(run.request("layer_redundancy", ("demo/storyteller-a",), "demo/stories:2x16", {}), variants=(parse("demo/nobody"),))
    assert sweep.outcomes([bad])[0].state == "refused"
    with pytest.raises(Refused):
        run.key(bad)


# orders that papers report


def in_sequences(run, sums):
    """A result whose KL per sequence is known: three sequences of two tokens."""
    r = run.result
    r.sequence, r.strand = np.array([0, 0, 1, 1, 2, 2]), np.zeros(3, int)
    r.kl = np.repeat(np.array(sums, float) / 2, 2)
    return run


@pytest.fixture(autouse=True)
def known_sequences(monkeypatch):
    """Points of made-up results have tokens in three sequences."""
    original = cost
    monkeypatch.setitem(globals(), "cost", lambda kl, *rest, **more: in_sequences(original(kl, *rest, **more), (kl, kl, kl)))


def order_points(pairs):
    return points_of([(variant(operator, seed, **params), in_sequences(cost(0.1, bits), sums)) for operator, seed, params, bits, sums in pairs], A, lambda v: v.steps[-1].written)


def test_an_order_is_looked_for_between_recipes_that_store_as_much():
    found = orders(order_points([
        ("gptq", 0, {}, 400, (1, 2, 3)), ("gptq", 1, {}, 402, (1, 2, 2)), ("round_to_nearest", 0, {}, 400, (2, 4, 6)),  # closer everywhere
        ("gptq", 0, {"bits": "8"}, 800, (9, 9, 9)), ("wanda", 0, {}, 1000, (5, 5, 5)), ("magnitude", 0, {}, 1000, (4, 4, 4)),  # the other way round
        ("sparsegpt", 0, {"which": "mlp"}, 1000, (1, 1, 1)), ("low_rank", 0, {"keep": "0.6"}, 1500, (1, 5, 3)), ("low_rank", 0, {"keep": "0.6", "metric": "asvd"}, 1500, (2, 4, 3)),
    ]))
    by = {(o.closer.partition(":")[0], o.farther.partition(":")[0]): o for o in found}
    assert set(by) == {("gptq", "round_to_nearest"), ("wanda", "magnitude"), ("low_rank", "low_rank")}  # other sizes and other matrices are not compared
    gptq = by["gptq", "round_to_nearest"]
    assert gptq.difference[0] == pytest.approx((6 + 5 - 24) / 12) and gptq.verdict == "holds" and gptq.n == 6
    assert by["wanda", "magnitude"].difference == pytest.approx((0.5, 0.5, 0.5)) and by["wanda", "magnitude"].verdict == "reversed"
    assert by["low_rank", "low_rank"].difference[0] == 0 and by["low_rank", "low_rank"].verdict == "not shown"


def test_the_orders_are_a_card_of_their_own_where_there_are_any():
    points = order_points([("gptq", 0, {}, 400, (1, 2, 3)), ("round_to_nearest", 0, {}, 400, (2, 4, 6))])
    plane, card = frontier.figures(points, ("gptq", "round_to_nearest"))
    assert card.name == "orders" and "1 holds, of 1 pair that" in card.reading and card.data.to_pylist()[0]["verdict"] == "holds"
    for theme in THEMES.values():
        card.views[""](theme)
    assert len(frontier.figures(points[:1], ("gptq",))) == 1


def test_the_shell_compares_recipes(home, tmp_path, capsys):
    from analysis.frontier import __main__ as shell

    run.lab.cache_clear()
    given = ["demo/storyteller-a", "--operators", "round_to_nearest,share_blocks", "--corpus", "demo/mixed:4x32:padded", "--out", str(tmp_path / "out")]
    assert shell.main(given) == 0
    said = capsys.readouterr()
    assert "recipes" in said.out and (tmp_path / "out" / "data" / "frontier.csv").read_text().count("\n") == 7
    assert shell.main(["demo/storyteller-a", "--operators", "melt"]) == 1 and "no operator" in capsys.readouterr().err


def test_a_healed_recipe_keeps_its_mark_and_is_joined_to_the_one_before():
    gptq = variant("gptq", bits="4")
    measured = [*planted(), (gptq.then(Step("heal", (("steps", 20),), "demo/mixed")), cost(0.015, 400)), (A.then(Step("heal")), cost(0.3, 3200))]
    found = points_of(measured, A, lambda v: ", ".join(s.operator for s in v.steps))
    pairs = frontier.healings(found)
    assert [(q.label, p.label) for q, p in pairs] == [("gptq", "gptq, heal")] and pairs[0][1].family == "gptq" and pairs[0][1].healed
    assert [p.family for p in found][-1] == "heal"
    card = frontier.figures(found, ("gptq", "wanda", "drop_layers", "heal"))[0]
    fig = card.views["mean KL"](THEMES["light"])
    symbols = [s for t in fig.data if t.name == "gptq" for s in t.marker.symbol]
    assert sorted(symbols) == ["circle", "circle-open"] and "joins it to" in card.reading
    lines = [t for t in fig.data if t.mode == "lines" and t.x is not None and t.x[-1] is None]
    assert len(lines) == 1 and lines[0].y[:2] == (0.03, 0.015)
    assert "Open marks" not in frontier.figures(points(), ("gptq",))[0].reading


def test_a_sweep_can_heal_every_recipe(home):
    from analysis.frontier import recipes

    a = run.variant("demo/storyteller-a")
    plain, healed = (recipes.variants(a, (), ("round_to_nearest", "slice_gpt"), 1, heal) for heal in (False, True))
    added = [v for v in healed[0] if v.steps[-1].operator == "heal"]
    assert [v.written for v in healed[0] if v not in added] == [v.written for v in plain[0]]
    assert {v.steps[0].operator for v in added} == {"round_to_nearest"} and any("heal before slicing" in line for line in healed[1])
