"""SAE training as an analysis: it learns more than an untrained one, lands on the shelf under its content's name, and draws."""

from dataclasses import dataclass

import pytest

import analysis.sae_training as subject
from analysis.contract import Run
from analysis.theme import THEMES
from models.corpus import parse
from models.progress import Quiet
from models.refusal import Refused
from models.saes import load_sae, saes_for
from models.variant import Variant, parse as parse_variant
from tests.operator_bench import Text, model_of, text_for


@dataclass(eq=False)
class Here(Text):
    corpus: object = parse("demo/stories:20x24")
    variant: Variant = Variant("demo/tiny")

    def beside(self, written):
        assert ":train:" in written
        return text_for(self.subject, n_sequences=64, seed=7)


def test_an_sae_of_a_merge_is_that_merge_s(home):
    model = model_of("gpt2")
    text = text_for(model)
    here = Here(model, text.ids, text.keep)
    object.__setattr__(here, "variant", parse_variant("(demo/tiny+demo/other)~average~wanda:sparsity=0.5"))
    r = subject.compute((here,), subject.Params(site="mlp_out", layer=1, width=16, k=4, tokens=1024, batch=256), Quiet())
    assert [s.name for s in saes_for(parse_variant("(demo/tiny+demo/other)~average"), home)] == [r.sae] and saes_for(parse_variant("(demo/tiny+demo/other)~ties"), home) == []


def test_a_trained_sae_is_better_than_none_and_lands_on_the_shelf(home):
    model = model_of("gpt2")
    text = text_for(model)
    params = subject.Params(site="mlp_out", layer=1, width=48, k=8, tokens=20_000, batch=256, rate=3e-3)
    r = subject.compute((Here(model, text.ids, text.keep),), params, Quiet())
    assert r.measured[1] > 0.6 > r.untrained[1] and r.measured[0] <= 8 and r.site == "mlp_out.1" and r.steps == 78
    assert [s.name for s in saes_for("demo/tiny", home)] == [r.sae] and load_sae(r.sae, home).d_sae == 48
    assert r.explained_interval[0] <= r.measured[1] <= r.explained_interval[1]
    run = Run("A", "demo/tiny", r, params, {})
    for f in subject.figures([run]):
        for draw in f.views.values():
            draw(THEMES["light"]).to_json()
        assert f.data.num_rows
    assert r.sae in subject.answer([run]) and len(subject.headlines([run])) == 4


def test_what_makes_no_sense_is_refused(home):
    model = model_of("gpt2")
    text = text_for(model)
    with pytest.raises(Refused, match="more than the 4 features"):
        subject.compute((Here(model, text.ids, text.keep),), subject.Params(width=4), Quiet())
    with pytest.raises(Refused, match="test split"):
        subject.compute((Here(model, text.ids, text.keep, corpus=parse("demo/stories:train:20x24")),), subject.Params(), Quiet())
