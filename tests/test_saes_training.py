"""SAEs trained here: a planted dictionary is found again, a run cut off and resumed ends bit for bit alike, curves, cancel, a real site."""

import numpy as np
import pytest
import torch

from metrics.sae_quality import quality
from models.layout import Site
from models.progress import Quiet
from models.refusal import Refused
from models.saes.training import Recipe, fit, train
from tests.operator_bench import model_of, text_for

FEATURES, D = 24, 16


def world():
    """sae-lens's synthetic activations: known directions, each firing on its own with a known chance."""
    from sae_lens.synthetic import ActivationGenerator, FeatureDictionary

    torch.manual_seed(0)
    directions = FeatureDictionary(FEATURES, D)
    return directions, ActivationGenerator(FEATURES, torch.full((FEATURES,), 0.08))


def source(n=4096):
    directions, firing = world()

    def block(i):
        torch.manual_seed(1000 + i)
        with torch.no_grad():
            return directions(firing.sample(n))

    return directions.feature_vectors.detach(), block


def found(decoder, truth):
    """Mean over true directions of the best |cosine| with a learned one."""
    unit = lambda m: m / m.norm(dim=1, keepdim=True)
    return float((unit(decoder) @ unit(truth).T).amax(0).mean())


@pytest.mark.parametrize("kind, sparsity", [("topk", {"k": 2}), ("standard", {"penalty": 0.3})])
def test_a_planted_dictionary_is_found_again(kind, sparsity):
    truth, block = source()
    recipe = Recipe(kind, width=FEATURES, tokens=400_000, batch=512, rate=3e-3, **sparsity)
    trained = fit(block, recipe, Quiet())
    untrained = fit(block, Recipe(kind, width=FEATURES, tokens=512, batch=512, rate=1e-9, **sparsity), Quiet())
    assert found(trained.sae.W_dec, truth) > 0.85 > 0.75 > found(untrained.sae.W_dec, truth)
    assert trained.explained[-1] > 0.6 and trained.explained[-1] > trained.explained[0] and trained.step[-1] == recipe.steps
    if kind == "topk":
        assert trained.l0.max() <= 2


class Cut(Quiet):
    """Stops once at a step, and hands the state kept there to the next run."""

    def __init__(self, at=None):
        self.at, self.state, self.live = at, None, []

    def save(self, state, force=False):
        self.latest = {key: ({k: v.clone() if torch.is_tensor(v) else v for k, v in value.items()} if key == "weights" else value.clone() if torch.is_tensor(value) else value)
                       for key, value in state.items()}
        self.latest["moments"] = {i: {k: v.clone() for k, v in each.items()} for i, each in state["moments"].items()}

    def saved(self):
        return self.state

    def step(self, i, n, message="", live=None):
        self.live += [live] if live else []
        if i == self.at:
            self.at, self.state = None, self.latest
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "batchtopk"])
def test_a_run_cut_off_and_resumed_ends_where_a_whole_one_ends(kind):
    _, block = source(700)
    recipe = Recipe(kind, width=20, k=3, tokens=40 * 256, batch=256, seed=5)
    whole = fit(block, recipe, Quiet())
    progress = Cut(at=23)
    with pytest.raises(KeyboardInterrupt):
        fit(block, recipe, progress)
    torch.manual_seed(99)
    again = fit(block, recipe, progress)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(whole.sae, name), getattr(again.sae, name)), name
    assert np.array_equal(whole.loss, again.loss) and set(progress.live[0]) == {"loss", "L0", "explained variance", "dead features"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_any_site_can_be_trained_on_and_training_beats_none(family):
    model, text = model_of(family), text_for(model_of(family), n_sequences=64)
    site = Site(1, "mlp_out")
    before = torch.get_rng_state()
    sae = train(model, site, text.ids, text.keep, Recipe("topk", width=64, k=8, tokens=60_000, batch=256, rate=3e-3), Quiet()).sae
    assert torch.equal(torch.get_rng_state(), before) and sae.site == site and sae.model == f"tiny/{family}" and sae.d_in == 16
    bare = train(model, site, text.ids, text.keep, Recipe("topk", width=64, k=8, tokens=256, batch=256, rate=1e-9), Quiet()).sae
    good, bad = (quality(model, s, text.ids, text.keep) for s in (sae, bare))
    assert good.explained > 0.8 > bad.explained and good.l0 <= 8 and good.tokens.sum() == int(text.keep[:, 1:].sum())


def test_too_little_text_is_refused():
    with pytest.raises(Refused, match="usable tokens"):
        fit(lambda i: torch.zeros(1, 4), Recipe(), Quiet())
