"""What holds for every merge: equal parents give that parent, replays bit for bit, honest size; and each method by hand."""

import dataclasses
import math

import pytest
import torch

from cache.codec import decode, encode
from cache.store import Store
from metrics.losses import NLL, TOKENS, sequence_losses
from metrics.permutation.spec import random_maps
from metrics.permutation.transformer import symmetry_of
from models.params import fields_of
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.shape import shape_of
from operators import MERGES
from operators.contract import Storage
from operators.merging import average, breadcrumbs, fisher, fitting, parents, pcb, pleas, reversible, task_arithmetic, ties
from tests.conftest import REPO
from tests.operator_bench import FAMILIES, model_of, text_for

EVERY = [(name, family) for name in MERGES for family in FAMILIES]
every = pytest.mark.parametrize("name,family", EVERY, ids=["-".join(pair) for pair in EVERY])


def decided(name, models, params=None):
    operator = MERGES[name]
    params = params or operator.Params()
    operator.check(params, shape_of(models[0]))
    return operator.decide(tuple(models), params, text_for(models[0]) if operator.calibrated(params) else None, Quiet())


def merged(name, models, params=None, plan=None):
    out = models[0].copy("merged")
    MERGES[name].apply(out, plan or decided(name, models, params))
    return out


def apart(family):
    """A model and a neighbour of it, as fine-tuning would leave it."""
    a, b = model_of(family), model_of(family)
    generator = torch.Generator().manual_seed(7)
    b.set_parameters({name: p + 0.05 * torch.randn(p.shape, generator=generator) for name, p in b.module.named_parameters()})
    return a, b


@every
def test_is_described(name, family):
    operator = MERGES[name]
    assert operator.TITLE and "Use it" in operator.__doc__ and "Source" in operator.__doc__ and len(operator.__doc__.split()) > 60
    assert all(f.metadata["label"] for f, _ in fields_of(operator.Params)) and operator.PARENTS[0] == 2 and isinstance(operator.BASED, bool)
    assert f"| `{name}` |" in (REPO / "README.md").read_text()


@every
def test_equal_parents_give_that_parent(name, family):
    params, tolerance = MERGES[name].NEUTRAL
    a = model_of(family)
    ids = text_for(a).ids
    out = merged(name, (a, a.copy("again")), params)
    assert (out.logits(ids) - a.logits(ids)).abs().max() <= tolerance


@every
def test_merges_leave_the_parents_alone_and_replay_from_the_store(name, family, tmp_path):
    models = apart(family)
    before = [{n: p.clone() for n, p in m.module.named_parameters()} for m in models]
    ids = text_for(models[0]).ids
    plan = decided(name, models)
    arrays, tables, plain = encode(plan)
    store = Store(tmp_path)
    store.put("0" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    here, there = merged(name, models, plan=plan), merged(name, models, plan=decode(MERGES[name].Plan, store.get("0" * 64)))
    assert torch.equal(here.logits(ids), there.logits(ids)) and torch.equal(here.logits(ids), merged(name, models).logits(ids))
    assert all(torch.equal(b[n], p) for m, b in zip(models, before) for n, p in m.module.named_parameters())
    assert (here.logits(ids) - models[0].logits(ids)).abs().max() > 1e-4 and bool(torch.isfinite(here.logits(ids)).all())
    kept = MERGES[name].storage(models[0], plan)
    numbers = sum(p.numel() for p in here.module.parameters())
    assert isinstance(kept, Storage) and not kept.faster and len(kept.how) > 20
    assert kept.bits == 32 * numbers if name != "reversible" else kept.bits > 32 * numbers


def test_average_by_hand_with_weights():
    """3 : 1 of 1 and 5 is 2."""
    a, b = model_of("gpt2"), model_of("gpt2")
    for model, value in ((a, 1.0), (b, 5.0)):
        model.set_matrix(0, "mlp.c_fc", torch.full((64, 16), value))
    assert torch.equal(merged("average", (a, b), average.Params(weights=(3, 1))).matrix(0, "mlp.c_fc"), torch.full((64, 16), 2.0))
    with pytest.raises(Refused, match="does not weigh 2 parents"):
        decided("average", (a, b), average.Params(weights=(1, 2, 3)))


@pytest.mark.parametrize("align,stream", [("weights", "permuted"), ("weights", "rotated"), ("activations", "permuted"), ("learned", "rotated"), ("merge_many", "permuted")])
@pytest.mark.parametrize("family", FAMILIES)
def test_average_of_a_model_and_itself_in_another_order_is_the_model(family, align, stream):
    a = model_of(family)
    symmetry = symmetry_of(a)
    b = symmetry.permuted(a, random_maps(symmetry.spec, torch.Generator().manual_seed(0)))
    ids = text_for(a).ids
    plain = (merged("average", (a, b)).logits(ids) - a.logits(ids)).abs().max()
    out = merged("average", (a, b), average.Params(align=align, stream=stream, steps=2))
    limit = 1e-3 if align != "learned" else 1.0  # two steps of learning walk away from the exact answer
    assert (out.logits(ids) - a.logits(ids)).abs().max() < limit < plain
    assert out.config.tie_word_embeddings == (family == "gpt2" and stream == "permuted") and a.config.tie_word_embeddings == (family == "gpt2")


def test_a_merge_of_shortened_parents_is_short_only_where_all_are():
    a, b = apart("llama")
    a.remove(frozenset({(0, "attn"), (1, "mlp")}))
    b.remove(frozenset({(1, "mlp")}))
    a.bits["x"] = 1.0
    out = merged("average", (a, b))
    assert out.removed == {(1, "mlp")} and out.bits == {}
    assert out.matrix(0, "self_attn.o_proj").abs().max() > 0 and out.matrix(1, "mlp.down_proj").abs().max() == 0


def test_parents_of_other_shapes_are_refused():
    with pytest.raises(NotApplicable, match="different equations"):
        decided("average", (model_of("gpt2"), model_of("llama")))
    with pytest.raises(NotApplicable, match="one shape"):
        decided("average", (model_of("gpt2"), model_of("gpt2", n_layers=2)))
    with pytest.raises(Refused, match="different dtypes"):
        half = model_of("gpt2")
        half.module.bfloat16()
        decided("average", (model_of("gpt2"), half))
    with pytest.raises(Refused, match="leave nothing"):
        breadcrumbs.check(breadcrumbs.Params(small=0.9, large=0.2), None)
    with pytest.raises(Refused, match="do not fit 2 parents"):
        decided("reversible", apart("gpt2"), reversible.Params(restore=2))


def test_task_arithmetic_by_hand():
    """Base 1, fine-tunes 2 and 0.5: 1 + 0.4 · (1 − 0.5) = 1.2; with one fine-tune and −1 its change is taken away."""
    models = [model_of("gpt2") for _ in range(3)]
    for model, value in zip(models, (1.0, 2.0, 0.5)):
        model.set_matrix(1, "mlp.c_proj", torch.full((16, 64), value))
    assert merged("task_arithmetic", models).matrix(1, "mlp.c_proj")[0, 0] == pytest.approx(1.2)
    assert merged("task_arithmetic", models[:2], task_arithmetic.Params(scale=-1.0)).matrix(1, "mlp.c_proj")[0, 0] == pytest.approx(0.0)


def test_ties_by_hand():
    """keep 3 of 5. Task 0 (5, −4, 1, 0.5, 3) keeps 5, −4, 3; task 1 (−1, −2, 6, 4, 0.1) keeps −2, 6, 4. Signs + − + + +: means 5, −3, 6, 4, 3."""
    tasks = torch.tensor([[5.0, -4.0, 1.0, 0.5, 3.0], [-1.0, -2.0, 6.0, 4.0, 0.1]], dtype=torch.float64)
    assert ties.elect(tasks, 0.6).tolist() == [5.0, -3.0, 6.0, 4.0, 3.0]
    opposed = torch.tensor([[5.0, 1.0], [-2.0, 3.0]], dtype=torch.float64)  # the larger sum wins and the other is left out
    assert ties.elect(opposed, 1.0).tolist() == [5.0, 2.0]


def changed(base, entries):
    """The base with these numbers added to its matrix mlp.c_fc [64 out, 16 in], which GPT-2 stores transposed."""
    out, matrix = base.copy("fine-tune"), base.matrix(0, "mlp.c_fc").clone()
    for (row, column), value in entries.items():
        matrix[row, column] += value
    out.set_matrix(0, "mlp.c_fc", matrix)
    return out


def differs(out, base):
    """Where that matrix differs from the base's, and by how much; nothing else of the model may."""
    names = [n for n, p in out.module.named_parameters() if not torch.equal(p, dict(base.module.named_parameters())[n])]
    assert names == ["transformer.h.0.mlp.c_fc.weight"]
    change = out.matrix(0, "mlp.c_fc") - base.matrix(0, "mlp.c_fc")
    return {(i, j): round(float(change[i, j]), 4) for i, j in change.nonzero().tolist() if abs(change[i, j]) > 1e-5}


def test_ties_by_hand_on_a_matrix_that_is_not_square():
    """Three entries of the whole model are kept of each task. Task 1 keeps 5, −4, 3 and loses its 1; task 2 keeps −2, 6, 4 and loses its −1. Means of
    those with the elected sign: 5, (−4 − 2) / 2 = −3, 6, (3 + 4) / 2 = 3.5; at scale 2 twice that."""
    base = model_of("gpt2")
    keep = 3 / sum(p.numel() for p in base.module.parameters())
    models = (base, changed(base, {(0, 0): 5.0, (40, 3): -4.0, (2, 15): 1.0, (63, 1): 3.0}), changed(base, {(0, 0): -1.0, (40, 3): -2.0, (2, 15): 6.0, (63, 1): 4.0}))
    assert differs(merged("ties", models, ties.Params(keep=keep)), base) == {(0, 0): 5.0, (40, 3): -3.0, (2, 15): 6.0, (63, 1): 3.5}
    assert differs(merged("ties", models, ties.Params(keep=keep, scale=2.0)), base) == {(0, 0): 10.0, (40, 3): -6.0, (2, 15): 12.0, (63, 1): 7.0}


def test_breadcrumbs_by_hand():
    """Of ten entries 0.3 small and 0.2 large leave the middle five."""
    task = torch.tensor([[-9.0, 1.0, 5.0, -2.0, 8.0], [3.0, -4.0, 6.0, 7.0, 10.0]])
    assert breadcrumbs.crumbs(task, 0.3, 0.2).tolist() == [[0, 0, 5, 0, 8], [0, -4, 6, 7, 0]]


def test_pcb_by_hand():
    """Two tasks of two parameters, (1, −2) and (3, 1), nothing dropped. Within: sizes scaled to (0, 1) and (1, 0), squared, times 2, exponentials
    (1, e²) and (e², 1). Between: tanh of (1·4, −2·−1) and (3·4, 1·−1). β = (tanh 4, e² tanh 2), (e² tanh 12, −tanh 1), each scaled to 0–1: (0, 1) and
    (1, 0). The first parameter is task 1's 3, the second task 0's −2."""
    tasks = torch.tensor([[1.0, -2.0], [3.0, 1.0]], dtype=torch.float64)
    assert pcb.balance(tasks, 1.0).tolist() == pytest.approx([3.0, -2.0])
    assert pcb.clamped(torch.tensor([4.0, 1.0, 3.0, 2.0]), 0.25, 0.25).tolist() == [3.0, 2.0, 3.0, 2.0]
    assert pcb.scaled(torch.tensor([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5] and pcb.scaled(torch.ones(3)).tolist() == [0.0] * 3


def test_pcb_by_hand_on_a_matrix_that_is_not_square():
    """Of 11,408 parameters, nearly all 0, the largest size of each task is clamped to its second largest: the 5 to 2.

    τ₁ = 2, 1, 0, 1, 5 and τ₂ = 1, 0, 2, −2, 0. Sizes as shares of 2, squared, times 2, exponentials: e², e^½, 1, e^½, e² and e^½, 1, e², e², 1. β₁ = e² tanh 6,
    e^½ tanh 1, 0, e^½ tanh −1 (against the larger −2: it weighs nothing), e² tanh 25; β₂ = e^½ tanh 3, 0, e² tanh 4, e² tanh 2, 0. As shares of the largest, the first
    entry is (2 v + 1 w) / (v + w) with v = tanh 6 and w = e^−1.5 tanh 3 / tanh 4; each of the others belongs to one task: 1, 2, −2, and 2 of the 5."""
    base = model_of("gpt2")
    assert sum(p.numel() for p in base.module.parameters()) == 11_408
    models = (base, changed(base, {(1, 2): 2.0, (40, 3): 1.0, (63, 15): 1.0, (33, 0): 5.0}), changed(base, {(1, 2): 1.0, (17, 9): 2.0, (63, 15): -2.0}))
    v, w = math.tanh(6), math.exp(-1.5) * math.tanh(3) / math.tanh(4)
    assert differs(merged("pcb", models), base) == {(1, 2): pytest.approx((2 * v + w) / (v + w), abs=2e-4), (17, 9): 2.0, (33, 0): 2.0, (40, 3): 1.0, (63, 15): -2.0}


def test_fisher_information_is_that_of_its_definition():
    """One sequence of one token: the squared gradient of the log likelihood of the drawn token."""
    model = model_of("gpt2")
    ids, keep = torch.tensor([[5]]), torch.ones(1, 1, dtype=torch.bool)
    found = fisher.information(model, ids, keep, torch.Generator().manual_seed(0))
    module = model.copy("own").module
    own = {n: p.clone().requires_grad_() for n, p in module.named_parameters()}
    logp = torch.func.functional_call(module, own, kwargs=dict(input_ids=ids)).logits[0].log_softmax(-1)
    drawn = torch.multinomial(logp.detach().exp(), 1, generator=torch.Generator().manual_seed(0))[0, 0]
    gradient = dict(zip(own, torch.autograd.grad(logp[0, drawn], list(own.values()), allow_unused=True)))
    assert all(torch.allclose(found[n], g.double().square(), rtol=1e-3, atol=1e-9) for n, g in gradient.items() if g is not None)
    assert found["transformer.wpe.weight"][1:].abs().max() == 0 < found["transformer.wpe.weight"][0].abs().max()  # a position that was not read


def test_fisher_average_leans_to_the_model_that_depends_on_a_weight(monkeypatch):
    """F = 3 and 1 (floor 0) of weights 1 and 5: (3 · 1 + 1 · 5) / 4 = 2."""
    a, b = model_of("gpt2"), model_of("gpt2")
    for model, value in ((a, 1.0), (b, 5.0)):
        model.set_matrix(0, "mlp.c_fc", torch.full((64, 16), value))
    sizes = iter((3.0, 1.0))
    monkeypatch.setattr(fisher, "information", lambda model, *_: (lambda f: {n: torch.full(p.shape, f, dtype=torch.float64) for n, p in model.module.named_parameters()})(next(sizes)))
    out = merged("fisher", (a, b), fisher.Params(floor=1e-9))
    assert out.matrix(0, "mlp.c_fc").unique().tolist() == pytest.approx([2.0])


def test_reversible_by_hand_and_exact_with_a_whole_basis():
    """Rows (3, 0) and (0, 4) of two parents: the best single direction is the second's, so the first comes back as 0."""
    x = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)  # [row, in, parent]
    assert reversible.restored(x, 1, 0).tolist() == [[0.0, 0.0]] and reversible.restored(x, 1, 1)[0].tolist() == pytest.approx([0.0, 4.0])
    models = apart("llama")
    ids = text_for(models[0]).ids
    for i in (0, 1):
        out = merged("reversible", models, reversible.Params(basis=2, restore=i))
        assert (out.logits(ids) - models[i].logits(ids)).abs().max() < 1e-4
    plan = decided("reversible", models, reversible.Params(basis=2))
    rows = sum(p.numel() // p.shape[-1] for p in models[0].module.parameters())
    assert plan.numbers == 2 * sum(p.numel() for p in models[0].module.parameters()) + 4 * rows


@pytest.mark.parametrize("family,name", [("gpt2", "mlp.c_fc"), ("llama", "mlp.up_proj")], ids=FAMILIES)
def test_reversible_by_hand_on_a_matrix_that_is_not_square(family, name):
    """Row 20 is 3 at input 2 in A and 4 at input 5 in B: at right angles, so one direction keeps the longer, B's, and A's comes back as 0. Row 1 is 1 at
    input 7 in A and 2 there in B: one direction holds both. By columns, as GPT-2 stores it, row 20 would have come back whole."""
    a, b = model_of(family), model_of(family)
    for model, values in ((a, ((20, 2, 3.0), (1, 7, 1.0))), (b, ((20, 5, 4.0), (1, 7, 2.0)))):
        matrix = torch.zeros(model.matrix(0, name).shape)
        for row, column, value in values:
            matrix[row, column] = value
        assert matrix.shape[0] > 20 and matrix.shape[1] == 16
        model.set_matrix(0, name, matrix)
    nonzero = lambda restore: {(i, j): round(float(m[i, j]), 4) for m in [merged("reversible", (a, b), reversible.Params(restore=restore)).matrix(0, name)] for i, j in m.nonzero().tolist() if abs(m[i, j]) > 1e-6}
    assert nonzero(0) == {(1, 7): 1.0} and nonzero(1) == {(20, 5): 4.0, (1, 7): 2.0}
    rows = sum(p.numel() // (model_in(a, n) if p.dim() == 2 else p.numel()) for n, p in a.module.named_parameters())
    assert decided("reversible", (a, b)).numbers == sum(p.numel() for p in a.module.parameters()) + 2 * rows


def model_in(model, name):
    """Inputs of a matrix, however it is stored."""
    from models.layout import is_conv1d

    module = model.module.get_submodule(name.rpartition(".")[0])
    return module.weight.shape[0 if is_conv1d(module) else 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_pleas_with_nothing_apart_and_no_fitting_is_the_average_after_ordering(family):
    a, b = model_of(family), model_of(family, 1)
    ids = text_for(a).ids
    out = merged("pleas", (a, b), pleas.Params(partial=0.0, fit=False))
    plain = merged("average", (a, b), average.Params(align="weights"))
    assert (out.logits(ids) - plain.logits(ids)).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_pleas_with_all_units_apart_computes_the_mean_of_both_mlps(family):
    a, b = model_of(family), model_of(family, 1)
    symmetry = symmetry_of(a)
    out = merged("pleas", (a, b), pleas.Params(partial=1.0, fit=False))
    width = out.matrix(0, out.layout.mlp_output).shape[1]
    assert width == 2 * a.matrix(0, a.layout.mlp_output).shape[1] and getattr(out.config, "n_inner", None) in (width, None)
    from metrics.permutation.matching import weight_matching

    moved = symmetry.permuted(b, weight_matching(symmetry.spec, symmetry.pieces(a), symmetry.pieces(b)).maps)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    mlps = [m.blocks[1].mlp for m in (a, moved, out)]
    one, other, both = (mlp(x) for mlp in mlps)
    assert torch.allclose((one + other) / 2, both, atol=1e-5)


def test_regression_by_hand_and_ridge_towards_the_given_weights():
    """z = 2 x + 1 at x = 0, 1, 2: found exactly with a bias; with endless damping the given weight stays."""
    regression = fitting.Regression()
    x = torch.tensor([[0.0], [1.0], [2.0]])
    regression.add(x[:2], 2 * x[:2] + 1)
    regression.add(x[2:], 2 * x[2:] + 1)
    weight, bias = regression.solve(torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 0.0)
    assert float(weight) == pytest.approx(2.0) and float(bias) == pytest.approx(1.0)
    weight, _ = regression.solve(torch.full((1, 1), 7.0, dtype=torch.float64), None, 1e9)
    assert float(weight) == pytest.approx(7.0, rel=1e-6)


def test_on_two_models_trained_apart_order_helps_and_fitting_helps_more():
    """The demo pair: loss of the merge falls from plain to ordered to rotated, and from joined units to fitted ones; no promise of the parents' loss."""
    from models import checkpoints
    from models.corpus import parse
    from models.layout import layout_for
    from models.loaded import Model
    from tests.operator_bench import Text

    pair = []
    for name in ("storyteller-a", "storyteller-b"):
        module, tokenizer = checkpoints.load(checkpoints.resolve(f"demo/{name}", REPO), "float32", "cpu")
        pair.append(Model(module, tokenizer, layout_for(module.config), name))
    read = lambda text: (lambda t: (torch.from_numpy(t.ids), torch.from_numpy(t.keep)))(parse(text).tokens_for(pair[0].tokenizer, REPO))
    calibration, held = Text(pair[0], *read("demo/mixed:train:24x128")), read("demo/mixed:6x128")

    def loss(model):
        sums = sequence_losses(model, *held)
        return sums[NLL].sum() / sums[TOKENS].sum()

    def of(operator, **params):
        out = pair[0].copy("merged")
        operator.apply(out, operator.decide(tuple(pair), operator.Params(**params), calibration, Quiet()))
        return loss(out)

    parent = max(map(loss, pair))
    plain, ordered, rotated = of(average), of(average, align="weights"), of(average, align="weights", stream="rotated")
    joined, fitted = of(pleas, partial=0.25, fit=False), of(pleas, partial=0.25)
    assert parent + 0.3 < rotated < ordered - 0.5 < plain - 1.0
    assert parent < fitted < joined - 0.5 and joined < ordered


def test_every_merge_has_its_place():
    assert set(MERGES) == {p.stem for p in (REPO / "operators" / "merging").glob("*.py")} - {"__init__", "parents", "fitting"}
    assert all(dataclasses.is_dataclass(m.Plan) and m.Plan.__dataclass_params__.frozen for m in MERGES.values())
    assert parents.shares((), 4) == [0.25] * 4
