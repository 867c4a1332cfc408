"""Vector quantisation: weighted k-means and a column's compensation by hand, lossless with enough entries, no stage makes it worse, bits."""

import pytest
import torch

from metrics.calibration import matrix_inputs
from metrics.codebook import codebook, nearest
from metrics.damage import matrix_damage
from metrics.solvers import inverse_factor
from models.layout import Site
from models.refusal import Refused
from models.shape import Matrix, shape_of
from operators import vector_quant
from operators.vector_quant import Books, Params, books_of, coded, vectors_of, whole
from tests.operator_bench import FAMILIES, model_of, planned, text_for


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(n_out=12, n_in=40, tokens=200, seed=0):
    g = generator(seed)
    x = torch.randn(tokens, n_in, generator=g, dtype=torch.float64) @ torch.randn(n_in, n_in, generator=g, dtype=torch.float64)
    return torch.randn(n_out, n_in, generator=g, dtype=torch.float64), inverse_factor(x.T @ x, tokens)


def test_by_hand():
    """W 2×3 with columns (0,0), (4,4), (1,1) counting 1, 1, 3, two entries: (0,0) and (1,1) share ¾·(1,1), which costs 2·(9/16 + 3/16) = 3/2."""
    w = torch.tensor([[0.0, 4.0, 1.0], [0.0, 4.0, 1.0]])
    found = min((codebook(vectors_of(w, 2).reshape(-1, 2), torch.tensor([1.0, 1, 3]), 2, 20, generator(seed)) for seed in range(4)), key=lambda c: float(c.objective[-1]))
    assert sorted(map(tuple, found.entries.tolist())) == [(0.75, 0.75), (4.0, 4.0)] and float(found.objective[-1]) == 1.5
    even = min((codebook(vectors_of(w, 2).reshape(-1, 2), torch.ones(3), 2, 20, generator(seed)) for seed in range(4)), key=lambda c: float(c.objective[-1]))
    assert sorted(map(tuple, even.entries.tolist())) == [(0.5, 0.5), (4.0, 4.0)] and float(even.objective[-1]) == 1.0


def test_a_column_makes_up_for_the_one_before_by_hand():
    """W = 0.4 everywhere, 2×2, entries (0,0) and (1,1), C = [[2, 1], [1, 2]]: column 0 goes to 0, column 1 to 0.4 + 0.4·½ = 0.6, so to 1."""
    factor = inverse_factor(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 2, damping=0.0)
    done = coded(torch.full((2, 2), 0.4), factor, Books(torch.tensor([[0.0, 0], [1, 1]]), None, None, torch.tensor([], dtype=torch.int64), torch.zeros(1)))
    assert done.codes.tolist() == [[0, 1]] and done.solved.weight.tolist() == [[0, 1], [0, 1]]


def test_vectors_run_down_a_column():
    w = torch.arange(12.0).view(4, 3)
    assert vectors_of(w, 2)[1, 2].tolist() == [8, 11] and torch.equal(whole(vectors_of(w, 2)), w)


@pytest.mark.parametrize("k", (2, 7, 16))
def test_kmeans_never_gets_worse_and_every_entry_is_the_mean_of_its_vectors(k):
    x, weights = torch.randn(120, 3, generator=generator()), torch.rand(120, generator=generator(1)) + 0.1
    found = codebook(x, weights, k, 100, generator())
    assert len(found.entries) == k and bool((found.objective.diff() <= 0).all()) and found.objective[-1] < found.objective[0]
    index, distance = nearest(x, found.entries)
    assert float((weights * distance).sum()) == pytest.approx(float(found.objective[-1]), rel=1e-5)
    for i in range(k):
        mean = (x * weights[:, None])[index == i].sum(0) / weights[index == i].sum()
        torch.testing.assert_close(found.entries[i], mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.entries, codebook(x, 8 * weights, k, 100, generator()).entries)  # only relative weights count


def test_an_entry_for_each_vector_is_lossless():
    w, factor = problem()
    w = w.to(torch.float16).double()
    books = books_of(w, factor.hessian.diagonal(), Params(entries=500, length=4), generator())
    done = coded(w, factor, books)
    assert len(books.first) == 3 * 40 and torch.equal(done.solved.weight, w) and float(done.solved.loss.sum()) == 0


def test_loss_is_half_the_quadratic_form():
    w, factor = problem()
    for params in (Params(entries=8, length=2), Params(entries=8, length=4, residual=4, outliers=0.1)):
        done = coded(w, factor, books_of(w, factor.hessian.diagonal(), params, generator()))
        change = done.solved.weight - w
        assert float(done.solved.loss.sum()) == pytest.approx(float(0.5 * torch.trace(change @ factor.hessian @ change.T)), rel=1e-9)


def test_a_residual_stage_never_raises_the_kmeans_error():
    w, factor = problem()
    importance = factor.hessian.diagonal()
    books = books_of(w, importance, Params(entries=8, length=4, residual=4), generator())
    x = vectors_of(w, 4).reshape(-1, 4)
    index, before = nearest(x, books.first)
    after = nearest(x - books.first[index], books.residual)[1]
    counts = importance.expand(3, -1).reshape(-1)
    assert float((counts * after).sum()) < 0.9 * float((counts * before).sum())


def test_outlier_columns_are_the_loudest_and_have_their_own_book():
    w, factor = problem()
    importance = factor.hessian.diagonal()
    books = books_of(w, importance, Params(entries=200, length=4, outliers=0.1), generator())
    assert books.columns.tolist() == sorted(importance.argsort(descending=True)[:4].tolist()) and len(books.outlier) == 4 * 3
    done = coded(w, inverse_factor(torch.eye(40).double(), 1, damping=0.0), books)  # nothing to make up for
    torch.testing.assert_close(done.solved.weight[:, books.columns], w[:, books.columns], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_compensation_pays_and_so_do_more_entries(family):
    model = model_of(family)
    inputs = matrix_inputs(text_for(model), True)

    def damage(variant):
        return sum(d.output_error for d in matrix_damage(model, variant, inputs))

    plan, few = planned(vector_quant, model, length=2, entries=8)
    _, many = planned(vector_quant, model, length=2, entries=16)
    _, residual = planned(vector_quant, model, length=2, entries=16, residual=8)
    assert damage(residual) < damage(many) < damage(few)
    plain = model.copy("nearest entries, nothing made up for")
    for m in shape_of(model).matrices:
        vectors, book = vectors_of(model.matrix(m.layer, m.name), 2), plan.books[m.key].float()
        plain.set_matrix(m.layer, m.name, whole(book[nearest(vectors.reshape(-1, 2), book)[0]].view(vectors.shape)))
    assert damage(few) < 0.95 * damage(plain)


def test_bits():
    """8-vectors of 256 entries on a 4096² matrix take 1.002 bits a weight: 8/8 + 256·8·16/4096²."""
    big = Matrix(0, "up", "mlp", 4096, 4096, Site(0, "mlp_in"))
    assert vector_quant.stored_bits(big, Params(entries=256, length=8), 256, 0, 0) / 4096**2 == pytest.approx(1 + 256 * 8 * 16 / 4096**2) == pytest.approx(1.002, abs=1e-4)
    small = Matrix(0, "up", "mlp", 4, 10, Site(0, "mlp_in"))
    params = Params(entries=4, length=2, residual=2, outliers=0.1)
    # books (4 + 2 + 2)·2·16, 9 columns of 2 vectors at 2 + 1 bits, one outlier column of 2 vectors at 1 bit, and its place in 4 bits
    assert vector_quant.stored_bits(small, params, 4, 2, 2) == 256 + 9 * 2 * 3 + 2 + 4


def test_impossible_sizes_are_refused_in_words():
    shape = shape_of(model_of("gpt2"))
    with pytest.raises(Refused, match="do not divide the 48 rows"):
        vector_quant.check(Params(length=5), shape)
    with pytest.raises(Refused, match="256 entries for the 192 vectors of attn.c_attn would save nothing; at most 96"):
        vector_quant.check(Params(length=4, which="attn"), shape)
