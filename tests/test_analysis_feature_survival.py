"""Feature survival: a removed direction is named and nothing else, A against A loses nothing, correlations and fates by hand, controls."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import analysis.feature_survival as subject
from analysis import run as door
from analysis.contract import Run
from analysis.feature_survival import measure, words
from analysis.feature_survival.measure import FATES
from analysis.theme import THEMES
from cache.codec import decode, encode
from cache.store import Store
from metrics.feature_contexts import feature_logits, windows
from metrics.matched_control import matched
from metrics.sae_quality import recovered
from models.layout import Site, weight
from models.progress import Quiet
from models.refusal import NotApplicable, Refused
from models.saes import Sae, load_sae, shelf
from models.saes.inside import activations, emptied, replacing, through
from operators import round_to_nearest, wanda
from tests.operator_bench import Text, model_of, planned, text_for

REMOVED = 5


@dataclass(eq=False)
class Fixed(Text):
    variant: str = "tiny/gpt2"


def ask(a, b, sae, progress=None, **more):
    text = text_for(a, n_sequences=40, length=24)
    return subject.compute(tuple(Fixed(m, text.ids, text.keep) for m in (a, b)), subject.Params(**{"sae": sae, "resamples": 60, **more}), progress or Quiet())


def run(result, **more):
    return Run("A → B", "demo/a → demo/b", result, subject.Params(**more), {})


def rotation(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]


def dictionary(model, home, name="mlp_out", layer=1):
    """A standard SAE whose features are orthonormal directions, each reading its own (above rounding's reach) and no other."""
    q = rotation(16)
    sae = Sae(q, torch.full((16,), -1e-3), q.T.contiguous(), torch.zeros(16), "standard", Site(layer, name), model="tiny/gpt2")
    return q, shelf.keep(sae, home)


@pytest.fixture
def planted(home):
    """B writes nothing along one feature's direction at the SAE's site."""
    a = model_of("gpt2")
    q, name = dictionary(a, home)
    b = a.copy("planted")
    keeping = torch.eye(16) - torch.outer(q[:, REMOVED], q[:, REMOVED])
    out = b.blocks[1].get_submodule(b.layout.mlp_output)
    b.set_matrix(1, b.layout.mlp_output, keeping @ weight(out), keeping @ out.bias)
    return a, b, name


def test_the_removed_direction_is_the_one_dead_feature(planted):
    a, b, name = planted
    r = ask(a, b, name, control="none")
    x = activations(b, Site(1, "mlp_out"), text_for(a).ids) @ rotation(16)
    assert float(x[..., REMOVED].abs().max()) < 1e-5  # the plant
    assert r.fired[0, REMOVED] > 10 and r.fired[1, REMOVED] == 0 and r.worst[0] == REMOVED
    others = np.delete(r.fate[0], REMOVED)
    assert r.fate[0, REMOVED] == FATES.index("dead") and set(others) <= {FATES.index("kept"), -1}
    assert np.nanmin(np.delete(r.correlation[1], REMOVED)) > 1 - 1e-6
    assert r.damaged[0, 0] == pytest.approx(1 / (r.fate[0] >= 0).sum())
    assert f"#{REMOVED}" in words.label(r, 0)


def test_a_model_against_itself_loses_nothing(planted):
    a, _, name = planted
    r = ask(a, a, name)
    assert np.nanmin(r.correlation[1]) == 1.0 and set(r.fate[0]) <= {FATES.index("kept"), -1} and r.damaged[0].tolist() == [0.0] * 3
    assert r.control == "" and "Nothing is lost" in words.answer([run(r)])
    for field in ("explained", "mse", "loss", "recovered"):
        assert getattr(r, field)[0].tolist() == getattr(r, field)[1].tolist()
    assert r.explained[0, 0] < 1  # ReLU of an orthonormal dictionary keeps one sign only


def test_a_born_feature_and_a_dead_one_change_places_when_the_models_do(planted):
    a, b, name = planted
    forward, back = ask(a, b, name, control="none"), ask(b, a, name, control="none")
    assert np.array_equal(forward.fired[0], back.fired[1]) and np.allclose(np.nan_to_num(forward.correlation[1]), np.nan_to_num(back.correlation[1]), atol=1e-9)
    assert back.fate[0, REMOVED] == FATES.index("born") and (back.fate[0] == FATES.index("dead")).sum() == 0


def test_fates_and_correlations_by_hand():
    fired = np.array([[20, 20, 20, 0, 0, 3], [20, 18, 0, 15, 3, 30]])
    kind = measure.fates(fired, np.array([0.95, 0.5, np.nan, np.nan, np.nan, 0.1]), least=10, below=0.9)
    assert [FATES[i] if i >= 0 else "" for i in kind] == ["kept", "distorted", "dead", "born", "", ""]
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 4.0, 3.0])
    sums = np.array([4, x.sum(), y.sum(), x @ x, y @ y, x @ y])
    assert measure.correlations(sums) == pytest.approx(0.6) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert np.isnan(measure.correlations(np.array([4, 4.0, 10, 4.0, 30, 10])))  # one side does not vary
    assert recovered(1.0, 1.5, 3.0) == 0.75 and np.isnan(recovered(2.0, 2.0, 1.0))


def test_sums_in_groups_give_the_correlation_of_all_tokens(planted):
    a, b, name = planted
    r = ask(a, b, name, control="none")
    sae, text = load_sae(name, door.home()), text_for(a, n_sequences=40, length=24)
    counted = text.keep.clone()
    counted[:, 0] = False
    x, y = (sae.encode(activations(m, sae.site, text.ids))[counted].double().numpy() for m in (a, b))
    both = [f for f in range(16) if x[:, f].any() and y[:, f].any()]
    assert len(both) > 8 and np.allclose(r.correlation[1][both], [np.corrcoef(x[:, f], y[:, f])[0, 1] for f in both], atol=1e-6)
    assert np.isnan(np.delete(r.correlation[1], both)).all()
    assert np.array_equal(r.fired[0], (x > 0).sum(0)) and np.allclose(r.mean[1], y.mean(0), atol=1e-6)
    error = ((activations(b, sae.site, text.ids)[counted].double().numpy() - sae.decode(torch.tensor(y, dtype=torch.float32)).double().numpy()) ** 2).sum(1).mean()
    assert r.mse[1, 0] == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out", "attn_out", "z"])
def test_splicing_what_is_there_changes_nothing_and_zeroing_does(family, site):
    model, text = model_of(family), text_for(model_of(family))
    place = Site(1, site)
    plain = model.logits(text.ids)
    with replacing(model, place, lambda x: x.clone()):
        assert torch.equal(model.logits(text.ids), plain)
    with replacing(model, place, emptied):
        changed = model.logits(text.ids)
        assert not torch.allclose(changed, plain) and torch.equal(changed[:, 0], plain[:, 0])
        assert float(activations(model, place, text.ids)[:, 1:].abs().max()) == 0 or site != "resid_pre"
    assert torch.equal(model.logits(text.ids), plain)
    d = activations(model, place, text.ids).shape[-1]
    identity = Sae(torch.cat([torch.eye(d), -torch.eye(d)], 1), torch.zeros(2 * d), torch.cat([torch.eye(d), -torch.eye(d)]), torch.zeros(d), "standard", place)
    with replacing(model, place, through(identity)):
        assert torch.allclose(model.logits(text.ids), plain, atol=1e-5)


def test_controls_have_the_size_of_what_they_stand_for(planted):
    a, _, name = planted
    pruned, rounded = planned(wanda, a, sparsity=0.5)[1], planned(round_to_nearest, a, bits=3, group=8)[1]
    for b, kind in ((pruned, ("pruned",)), (rounded, ("rounded",))):
        control, done = matched(a, b, 0)
        assert done == kind
        for layer, matrix, weights in a.matrices():
            own, other = control.matrix(layer, matrix), b.matrix(layer, matrix)
            if kind == ("pruned",):
                assert int((own == 0).sum()) == int((other == 0).sum()) and torch.equal(own[own != 0], weights[own != 0])
            else:
                assert not torch.equal(own, weights)
    r = ask(a, pruned, name)
    assert len(r.fired) == 3 and r.control == "as many random zeros" and np.isfinite(r.damaged).all() and (r.damaged[:, 1] <= r.damaged[:, 2]).all()
    assert ask(a, pruned, name, control="noise").control == "random noise of the same size"


def test_result_is_stored_and_drawn(planted, tmp_path):
    a, b, name = planted
    r = ask(a, planned(wanda, b, sparsity=0.5)[1], name)
    arrays, tables, plain = encode(r)
    store = Store(tmp_path / "store")
    store.put("a" * 64, arrays=arrays, tables=tables, record={"plain": plain})
    again = decode(measure.Result, store.get("a" * 64))
    assert all(np.array_equal(getattr(again, f.name), getattr(r, f.name), equal_nan=True) for f in dataclasses.fields(r) if isinstance(getattr(r, f.name), np.ndarray) and getattr(r, f.name).dtype.kind == "f")
    figures = subject.figures([run(again)])
    assert [f.name for f in figures] == ["fates", "correlation", "rates", "reconstruction", "worst", "contexts"]
    for f in figures:
        assert f.data.num_rows and f.reading and f.alt
        for draw in f.views.values():
            for theme in THEMES.values():
                draw(theme).to_json()
    assert "dead on B" in subject.answer([run(again)]) and len(subject.headlines([run(again)])) == 4


def test_windows_stay_in_their_sequence():
    ids, keep = np.arange(40).reshape(2, 20), np.ones((2, 20), bool)
    keep[1, 15:] = False
    at = windows(ids, keep, np.array([1, 21, 34, -1]))
    assert at[0].tolist() == [-1] * 7 + [0, 1, 2, 3, 4] and at[1].tolist() == [-1] * 7 + [20, 21, 22, 23, 24]
    assert at[2].tolist() == [26, 27, 28, 29, 30, 31, 32, 33, 34, -1, -1, -1] and (at[3] == -1).all()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_promoted_tokens_are_the_direct_path(family):
    """A long step along a feature at the end of the stream moves the logits of a token with no other content as the feature says."""
    model = model_of(family)
    d = 16
    sae = Sae(torch.eye(d), torch.zeros(d), rotation(d), torch.zeros(d), "standard", Site(2, "resid_post"))
    logits = feature_logits(model, sae, np.array([3]))[0]
    norm, unembed = (model.module.get_submodule(p) for p in (model.layout.final_norm, model.layout.unembed))
    bias = norm.bias if getattr(norm, "bias", None) is not None else 0.0
    with torch.no_grad():
        direct = unembed(norm(1e4 * sae.W_dec[3]) - bias)
    direct = direct - direct.mean()
    assert torch.allclose(direct / direct.norm(), logits / logits.norm(), atol=1e-4)


def test_what_cannot_be_compared_is_refused_in_words(planted, home):
    a, b, name = planted
    with pytest.raises(Refused, match="There is no SAE"):
        ask(a, b, "demo/saes/none")
    with pytest.raises(Refused, match="Train one"):
        subject.reads(("demo/nobody",), subject.Params())
    wrong = shelf.keep(Sae(torch.eye(8), torch.zeros(8), torch.eye(8), torch.zeros(8), "standard", Site(1, "resid_post"), model="x/y"), home)
    with pytest.raises(Refused, match="reads 8 channels"):
        ask(a, b, wrong)
    deep = shelf.keep(Sae(torch.eye(16), torch.zeros(16), torch.eye(16), torch.zeros(16), "standard", Site(9, "resid_post"), model="x/y"), home)
    with pytest.raises(Refused, match="reads at block 9"):
        ask(a, b, deep)
    text, other = text_for(a), text_for(a, seed=3)
    with pytest.raises(NotApplicable, match="different tokens"):
        subject.compute((Fixed(a, text.ids, text.keep), Fixed(b, other.ids, other.keep)), subject.Params(sae=name), Quiet())
