"""Alignment of singular vectors, barriers, slopes, learned and activation orders: by hand, as identities, and on planted answers."""

import numpy as np
import pytest
import torch

from metrics.losses import NLL, RIGHT, TOKENS, sequence_losses
from metrics.permutation import singular
from metrics.permutation.activations import CrossMoments, activation_matching
from metrics.permutation.differentiable import mean_loss, taylor_barrier
from metrics.permutation.mixture import Mixture, barriers, grid, path_losses
from metrics.permutation.singular import Along, alignment, all_singular, chance_along, strangers, truncated
from metrics.permutation.sinkhorn import sinkhorn, sinkhorn_gradient, sinkhorn_matching
from metrics.permutation.spec import Spec, agreement, apply, identity, inverse, random_maps
from metrics.permutation.transformer import folded, symmetry_of
from tests.operator_bench import model_of, text_for

FAMILIES = ("gpt2", "llama")


def pieces_of(family, seed=0):
    model = model_of(family, seed)
    symmetry = symmetry_of(model)
    return symmetry, symmetry.pieces(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_r_of_a_network_with_itself_is_one_at_every_gamma(family):
    symmetry, a = pieces_of(family)
    vectors = all_singular(symmetry.spec, a)
    r = alignment(symmetry.spec, vectors, vectors)
    assert r.each() == pytest.approx(np.ones_like(r.each()), abs=1e-9) and r.total() == pytest.approx(np.ones(len(singular.GAMMAS)), abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_r_is_the_double_sum_and_the_product_of_polar_factors(family):
    symmetry, a = pieces_of(family)
    _, b = pieces_of(family, 1)
    maps = random_maps(symmetry.spec, torch.Generator().manual_seed(3))
    va, vb = all_singular(symmetry.spec, a), all_singular(symmetry.spec, b)
    r = alignment(symmetry.spec, va, vb, maps)
    moved = apply(symmetry.spec, b, maps)
    for i, name in enumerate(va):
        ua, sa, va_t = torch.linalg.svd(a[name].double(), full_matrices=False)
        ub, sb, vb_t = torch.linalg.svd(moved[name].double(), full_matrices=False)
        assert float(((ua @ va_t) * (ub @ vb_t)).sum()) == pytest.approx(r.sums[i, 0], abs=1e-9)
        k = 6  # γ = 0.3
        ra, rb = int((sa >= 0.3 * sa[0]).sum()), int((sb >= 0.3 * sb[0]).sum())
        double = sum(float((ua[:, x] @ ub[:, y]) * (va_t[x] @ vb_t[y])) for x in range(ra) for y in range(rb))
        assert (r.ranks_a[i, k], r.ranks_b[i, k]) == (ra, rb) and double == pytest.approx(r.sums[i, k], abs=1e-9)
    assert np.abs(r.each()).max() <= 1 + 1e-9 and np.abs(r.total()[0]) < 0.3


def test_a_flipped_sign_is_seen():
    """W = diag(3, 1), its unit 0 negated: the polar factor is diag(−1, 1), so R is 0; negated whole −1; γ = 0.5 keeps only the flipped one."""
    spec = Spec({"w": ("h", None)}, {"h": 2})
    w = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    vectors = lambda x: all_singular(spec, {"w": x})
    half = alignment(spec, vectors(w), vectors(torch.diag(torch.tensor([-1.0, 1.0])) @ w), gammas=np.array([0.0, 0.5]))
    assert half.total() == pytest.approx([0.0, -1.0], abs=1e-12)
    assert alignment(spec, vectors(w), vectors(-w), gammas=np.array([0.0])).total() == pytest.approx([-1.0])


def test_kept_counts_that_differ_by_hand():
    """s = (4, 1) against (4, 3) in the same directions: at γ = 0.5 one of two meets, R = 1 / √(1·2)."""
    spec = Spec({"w": ("h", None)}, {"h": 2})
    a, b = (all_singular(spec, {"w": torch.diag(torch.tensor(s))}) for s in ([4.0, 1.0], [4.0, 3.0]))
    assert alignment(spec, a, b, gammas=np.array([0.0, 0.5])).total() == pytest.approx([1.0, 2**-0.5])


def test_orders_change_vectors_never_values_and_zero_values_do_not_count():
    symmetry, a = pieces_of("llama")
    a["lm_head.weight"] = a["lm_head.weight"] * (torch.arange(16) < 5)
    before, after = (all_singular(symmetry.spec, p) for p in (a, apply(symmetry.spec, a, random_maps(symmetry.spec, torch.Generator().manual_seed(0)))))
    assert all(torch.allclose(before[k].s, after[k].s, atol=1e-10) for k in before) and len(before["lm_head.weight"].s) == 5
    r = alignment(symmetry.spec, before, before)
    assert r.total() == pytest.approx(np.ones(len(singular.GAMMAS)), abs=1e-9)
    assert alignment(symmetry.spec, before, after).total()[0] < 0.3


def test_large_and_small_vectors_add_up_to_the_matrix():
    symmetry, a = pieces_of("gpt2")
    vectors = all_singular(symmetry.spec, a)
    large, small = (truncated(symmetry.spec, vectors, 0.4, x) for x in (True, False))
    assert all(torch.allclose(large[k] + small[k], a[k].double(), atol=1e-5) for k in vectors)
    assert all(float((large[k] * small[k]).sum()) == pytest.approx(0, abs=1e-6) for k in vectors)


def test_along_by_hand_and_its_chance():
    along = Along(torch.eye(2))
    along.add(torch.tensor([[3.0, 4.0], [0.0, -2.0], [9.0, 9.0]]), torch.tensor([True, True, False]))
    assert along.mean() == pytest.approx([0.3, 0.9])
    x = torch.randn(20_000, 24, generator=torch.Generator().manual_seed(0))
    assert float((x[:, 0].abs() / x.norm(dim=1)).mean()) == pytest.approx(chance_along(24), rel=0.02)
    assert chance_along(1) == pytest.approx(1.0) and chance_along(2) == pytest.approx(2 / np.pi)


# ---- paths


def test_barriers_by_hand():
    """Losses 1, 5, 3 over λ = 0, ½, 1 against the line 1, 2, 3: 3 at the middle; with the middle at 1 the largest is 0 and the middle −1."""
    weights, counts = grid(3), np.ones(4)
    path = lambda middle: np.outer([1.0, middle, 3.0], np.ones(4))
    ends = np.outer([3.0, 1.0], np.ones(4))
    assert barriers(weights, path(5.0), counts, ends)[:, 0].tolist() == [3.0, 3.0]
    assert barriers(weights, path(1.0), counts, ends).tolist() == [[0.0] * 3, [-1.0] * 3]
    varied = path(5.0) + np.array([0, 0, 1, -1]) * np.array([0, 1, 0])[:, None]
    out = barriers(weights, varied, counts, ends)
    assert out[0, 0] == 3.0 and out[0, 1] < 3 < out[0, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_order_has_a_barrier_and_without_it_there_is_none(family):
    a = model_of(family)
    symmetry = symmetry_of(a)
    text, pieces = text_for(a), symmetry.pieces(a)
    maps = random_maps(symmetry.spec, torch.Generator().manual_seed(0))
    planted = apply(symmetry.spec, pieces, maps)

    def along(b):
        losses = path_losses(Mixture(a, [symmetry.joined(pieces), symmetry.joined(b)]), grid(5), text.ids, text.keep)
        return barriers(grid(5), losses[:, NLL], losses[0, TOKENS], losses[[-1, 0], NLL])

    logits = a.logits(text.ids)
    assert abs(along(planted)[1, 0]) > 0.05
    assert along(apply(symmetry.spec, planted, inverse(maps)))[:, 0] == pytest.approx([0, 0], abs=1e-6)
    assert torch.equal(a.logits(text.ids), logits)


def test_sequence_losses_are_the_plain_ones():
    model = model_of("gpt2")
    text = text_for(model)
    out = sequence_losses(model, text.ids, text.keep)
    logp = model.logits(text.ids, text.keep.long()).log_softmax(-1)
    for s in (0, len(text.ids) - 1):
        n = int(text.keep[s].sum()) - 1
        target = text.ids[s, 1 : n + 1]
        assert out[TOKENS, s] == n and out[NLL, s] == pytest.approx(-float(logp[s, :n].gather(1, target[:, None]).sum()), rel=1e-5)
        assert out[RIGHT, s] == int((logp[s, :n].argmax(-1) == target).sum())


def test_taylor_is_exact_for_a_quadratic_and_signed():
    """½ x² along 0 → 2: the path dips below the line by ½ at the middle; a double well of slopes −1 and +1 rises."""
    state = lambda x: {"x": torch.tensor([x], dtype=torch.float64)}
    quadratic = lambda s, i: 0.5 * (s["x"] ** 2).sum()
    assert taylor_barrier(state(0.0), state(2.0), quadratic, 1) == pytest.approx(0.5 * 1 - 0.5 * (0 + 2))
    assert taylor_barrier(state(0.0), state(2.0), lambda s, i: -quadratic(s, i), 2) == pytest.approx(0.5)
    lopsided = lambda s, i: (s["x"] ** 2).sum() + 3 * s["x"].sum()
    assert taylor_barrier(state(1.0), state(3.0), lopsided, 1, share=0.25) == pytest.approx((0.25 * 1 + 0.75 * 3) ** 2 - (0.25 * 1 + 0.75 * 9))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_as_a_function_of_parameters_is_the_models(family):
    model = model_of(family)
    text = text_for(model)
    symmetry = symmetry_of(model)
    state = symmetry.joined(symmetry.pieces(model))
    sums = sequence_losses(model, text.ids, text.keep)
    assert float(mean_loss(model, state, text.ids, text.keep)) == pytest.approx(sums[NLL].sum() / sums[TOKENS].sum(), rel=1e-5)
    near = {k: v + 0.003 * torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) * v.abs().mean() for k, v in state.items()}
    model.module.double()
    loss = lambda s, i: mean_loss(model, {k: v.double() for k, v in s.items()}, text.ids, text.keep)
    half = {k: (v.double() + near[k]) / 2 for k, v in state.items()}
    measured = float(loss(half, 0)) - (float(loss(state, 0)) + float(loss(near, 0))) / 2
    double = lambda s: {k: v.double() for k, v in s.items()}
    assert taylor_barrier(double(state), double(near), loss, 1) == pytest.approx(measured, rel=0.1) and abs(measured) > 1e-7


# ---- activations


@pytest.mark.parametrize("statistic", ["correlation", "inner product"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_find_a_planted_order(family, statistic):
    a = model_of(family)
    symmetry = symmetry_of(a)
    planted = random_maps(symmetry.spec, torch.Generator().manual_seed(0))
    b = symmetry.permuted(a, planted)
    text = text_for(a)
    found = activation_matching(a, b, symmetry, text.ids, text.keep, statistic)
    share = agreement(found, inverse(planted))
    if statistic == "correlation":
        assert share == {s: 1.0 for s in share}
    else:  # a unit with large activations may win another's place: the inner product is not the largest with itself
        assert np.mean(list(share.values())) > 0.9


def test_activations_find_a_planted_rotation():
    a = folded(model_of("gpt2"))
    symmetry = symmetry_of(a, rotate=True)
    planted = random_maps(symmetry.spec, torch.Generator().manual_seed(0))
    text = text_for(a)
    found = activation_matching(a, symmetry.permuted(a, planted), symmetry, text.ids, text.keep)
    assert agreement(found, inverse(planted))["resid"] == pytest.approx(1.0, abs=1e-3)


def test_cross_moments_by_hand_and_a_still_unit_matches_nothing():
    moments = CrossMoments()
    a, b = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), torch.tensor([[-2.0], [-4.0], [-6.0]])
    moments.add(a[:1], b[:1])
    moments.add(a[1:], b[1:])
    assert moments.correlation().tolist() == [[pytest.approx(-1.0)], [0.0]]
    assert moments.inner()[:, 0].tolist() == pytest.approx([-28 / 3, -20.0])


# ---- Sinkhorn


def test_sinkhorn_is_doubly_stochastic_and_its_gradient_the_true_one():
    x = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = sinkhorn(x, 500)
    assert p.sum(0).tolist() == pytest.approx([1] * 5) and p.sum(1).tolist() == pytest.approx([1] * 5)
    (unrolled,) = torch.autograd.grad((p * upstream).sum(), x)
    assert torch.allclose(sinkhorn_gradient(p.detach(), upstream), unrolled, atol=1e-8)


def test_sinkhorn_finds_a_planted_order_from_the_loss_alone_and_resumes():
    spec = Spec({"w": ("h", None), "b": ("h",)}, {"h": 6})
    a = {"w": torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), "b": torch.randn(6, generator=torch.Generator().manual_seed(1))}
    planted = random_maps(spec, torch.Generator().manual_seed(2))
    b = apply(spec, a, planted)
    loss = lambda p, i: sum((p[k] - a[k]).square().sum() for k in a)
    whole = sinkhorn_matching(spec, a, b, loss, steps=60)
    assert agreement(whole.maps, inverse(planted)) == {"h": 1.0} and whole.losses[-1] < 1e-9 < whole.losses[0]

    class CutOff:
        state = None

        def step(self, i, n, message="", live=None):
            if i == 30 and not self.resumed:
                raise KeyboardInterrupt

        def save(self, state, force=False):
            self.state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}

        def saved(self):
            return self.state

    progress = CutOff()
    progress.resumed = False
    with pytest.raises(KeyboardInterrupt):
        sinkhorn_matching(spec, a, b, loss, steps=60, progress=progress)
    progress.resumed = True
    again = sinkhorn_matching(spec, a, b, loss, steps=60, progress=progress)
    assert again.losses == whole.losses and torch.equal(again.maps["h"], whole.maps["h"])


@pytest.mark.parametrize("family", FAMILIES)
def test_learned_orders_are_legal(family):
    a, b = model_of(family), model_of(family, 1)
    symmetry = symmetry_of(a)
    text = text_for(a)
    loss = lambda pieces, i: mean_loss(a, symmetry.joined(pieces), text.ids[:4], text.keep[:4])
    start = random_maps(symmetry.spec, torch.Generator().manual_seed(0))
    learned = sinkhorn_matching(symmetry.spec, symmetry.pieces(a), symmetry.pieces(b), loss, start=start, steps=8)
    moved = symmetry.permuted(b, learned.maps)
    assert (moved.logits(text.ids) - b.logits(text.ids)).abs().max() < 1e-4 and learned.losses[-1] < learned.losses[0]
    assert any(not torch.equal(learned.maps[s], m) for s, m in start.items()) and identity(symmetry.spec).keys() == learned.maps.keys()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_strangers_keep_singular_values_and_nothing_else(family):
    model = model_of(family)
    symmetry = symmetry_of(model)
    pieces = symmetry.pieces(model)
    own = all_singular(symmetry.spec, pieces)
    other = strangers(symmetry.spec, pieces, own, torch.Generator().manual_seed(0))
    again = all_singular(symmetry.spec, other)
    assert list(other) == list(pieces) and all(other[n].shape == p.shape and other[n].dtype == p.dtype for n, p in pieces.items())
    assert all(torch.allclose(own[n].s, again[n].s, atol=1e-5) for n in own) and abs(alignment(symmetry.spec, own, again).total()[0]) < 0.1
    assert all(torch.equal(other[n].sort().values, p.sort().values) for n, p in pieces.items() if n not in own)
