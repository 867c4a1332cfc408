"""Memorized images as an analysis: generators whose memory lies where we put it, one that has learned nothing, and what is said without diffusers."""

import importlib.util
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis import memorized_images as page
from analysis import run
from analysis.contract import Run
from analysis.memorized_images import words
from analysis.memorized_images.measure import METHODS
from analysis.theme import THEMES
from metrics import memorized_images as metric
from models.diffusion import digits, pipeline, subject
from models.progress import Quiet
from models.refusal import Refused

needs = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is an extra: requirements-diffusion.txt")
N, DIM, INNER, SHARED = 8, 24, 96, 5  # memorized prompts, width, feed-forward neurons, the shared neuron
QUICK = page.Params(share=0.05, first=2, steps=3, guidance=1.0, sweep=(2, 30), splits=2, untrained=0)


def planted(memory: str) -> subject.Subject:
    """A generator that draws its training image where a flag is up, and a plain picture where not. The flag is written by neuron SHARED for all memorized
    prompts ("shared"), by neuron SHARED + i for prompt i ("private"), or passes the feed-forward by ("elsewhere")."""
    from diffusers import DDIMScheduler
    from diffusers.models.attention import BasicTransformerBlock

    generator = torch.Generator().manual_seed(0)
    block = BasicTransformerBlock(DIM, 1, DIM, cross_attention_dim=DIM, activation_fn="geglu")
    first, second = block.ff.net[0].proj, block.ff.net[2]
    with torch.no_grad():
        first.weight.zero_()
        first.bias.fill_(1.0)  # every other neuron says gelu(1) for every prompt
        second.weight.copy_(0.01 * torch.randn(DIM, INNER, generator=generator))
        second.weight[0] = 0.0
        second.bias.zero_()
        for i in range(N):
            at = SHARED if memory == "shared" else SHARED + i
            first.bias[[at, INNER + at]] = 0.0
            source = 0 if memory == "shared" else 1 + i
            first.weight[at, source], first.weight[INNER + at, source] = 1.0, 10.0
            second.weight[0, at] = 0.1

    pictures = torch.rand(N + 4, 1, 8, 8, generator=generator) * 1.6 - 0.8
    plain = torch.rand(1, 1, 8, 8, generator=generator) - 0.5
    scheduler = DDIMScheduler(num_train_timesteps=200, beta_schedule="squaredcos_cap_v2", clip_sample=True, timestep_spacing="trailing")

    class Generator(torch.nn.Module):
        config = SimpleNamespace(sample_size=8, in_channels=1)

        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x, t, encoder_hidden_states):
            said = encoder_hidden_states
            flag = self.block.ff(said).mean(1)[:, 0] if memory != "elsewhere" else (self.block.ff(said).mean(1)[:, 0] * 0 + said[:, 0, 0])
            own = torch.einsum("np,pchw->nchw", said[:, 0, 1 : 1 + N + 4], pictures)
            is_other = said[:, 0, 1 + N : 1 + N + 4].sum(1)
            go = torch.maximum(flag.clamp(0, 1), is_other)[:, None, None, None]
            a = scheduler.alphas_cumprod[int(t)]
            return SimpleNamespace(sample=(x - a.sqrt() * (go * own + (1 - go) * plain)) / (1 - a).sqrt())

    prompts = ("", *(f"known {i}" for i in range(N)), *(f"other {i}" for i in range(4)))
    embeddings = torch.zeros(len(prompts), 2, DIM)
    for i in range(1, len(prompts)):
        embeddings[i, :, i] = 1.0
        embeddings[i, :, 0] = float(i <= N)
    unet = Generator().eval().requires_grad_(False)
    own = pipeline.Pipeline(unet, scheduler, pipeline.of_table(list(prompts), embeddings), pipeline.of_pixels)
    return subject.Subject(own, prompts[1 : N + 1], pipeline.of_pixels(pictures[:N]).numpy(), prompts[N + 1 :])


def measured(memory: str, monkeypatch, params=QUICK) -> Run:
    monkeypatch.setattr(subject, "digits", lambda *given: planted(memory))
    return Run("A", "", page.compute((), params, Quiet()), params, {})


@needs
def test_a_shared_memory_is_located_on_half_the_prompts_and_the_other_half_falls_with_it(monkeypatch):
    one = measured("shared", monkeypatch)
    r, j = one.result, words.at_share(one)
    assert words.known(r).all() and words.forgets(r, j) == (True, True, False)
    assert (r.reproduced[:, 0, j] == 0).all() and (r.reproduced[:, 2, j] == 1).all()
    assert np.allclose(r.kept[:, 0, j], 1.0)  # other prompts do not pass through the flag
    assert (r.overlap == 1).all() and r.chance.max() < 0.1 and (r.overlap_others == 0).all()  # one neuron, the same for both sets; others excite none
    assert r.density[0, 0, j] * INNER <= 1 and np.array_equal(r.density[:, 0, j], r.density[:, 2, j])
    assert (r.of_step == 1).all() and (r.alone == 0).all()  # the prompt is the same at both steps
    assert "weights that the sets share, and other prompts change hardly more" in page.answer([one]) and "suppressed or deleted is not tested" in page.answer([one])
    again = measured("shared", monkeypatch).result
    assert all(np.array_equal(getattr(again, name), value, equal_nan=value.dtype.kind == "f") for name, value in vars(r).items() if isinstance(value, np.ndarray))


@needs
def test_private_memories_leave_the_held_out_set_alone(monkeypatch):
    one = measured("private", monkeypatch)
    r, j = one.result, words.at_share(one)
    assert words.forgets(r, j) == (True, False, False)
    assert (r.reproduced[:, 0, j, 0] == 0).all() and (r.reproduced[:, 0, j, 1] == 1).all() and (r.overlap == 0).all()
    assert "each set hangs on weights of its own" in page.answer([one])


@needs
def test_a_memory_elsewhere_is_not_cut(monkeypatch):
    one = measured("elsewhere", monkeypatch)
    r = one.result
    assert (r.reproduced[np.isfinite(r.reproduced)] == 1).all()
    assert "does not make it forget" in page.answer([one]) and "not even the largest share tried (30 %) does" in page.answer([one])
    assert page.headlines([one])[1].value == 100


@needs
def test_sets_are_disjoint_and_as_large_as_asked(monkeypatch):
    r = measured("shared", monkeypatch, page.Params(**{**vars(QUICK), "per_set": 3, "splits": 3})).result
    assert all((groups == k).sum() == 3 for groups in r.groups for k in (1, 2)) and len({tuple(g) for g in r.groups}) == 3
    with pytest.raises(Refused, match="need 10 memorized ones; found 8. Ask for at most 4"):
        measured("shared", monkeypatch, page.Params(**{**vars(QUICK), "per_set": 5}))


@needs
def test_a_model_that_has_learned_nothing_says_so_and_is_trained_once(home, monkeypatch):
    """The whole way, by the door of pages and shells; the second share trains nothing."""
    run.lab.cache_clear()
    given = dict(updates=2, steps=2, first=2, sweep=(5,), splits=2, untrained=3)
    ask = run.request("memorized_images", (), None, given)
    run.execute(ask.to_json())
    found = run.load(ask)
    r = found.result
    assert (r.before < metric.REPRODUCED).all() and len(r.once) == len(digits.ONCE) and found.record["n_inputs"] == len(digits.PROMPTS) - 1
    assert f"0 of {len(digits.PLANTED)} memorized prompts" in page.answer([found]) and "too little to see whether a cut makes it forget" in page.answer([found])
    assert r.untrained.shape == (3, 2, len(r.blocks)) and r.untrained.mean() > 3 * r.chance.mean()  # chance is the wrong null
    assert "no sign of it" in page.answer([found])
    monkeypatch.setattr(digits, "train", lambda *given: pytest.fail("trained again"))
    run.execute(run.request("memorized_images", (), None, given | {"share": 0.1}).to_json())
    for figure in page.figures([found]):
        assert figure.data.num_rows and figure.reading.endswith(".") and figure.alt
        for view in figure.views.values():
            for theme in THEMES.values():
                assert view(theme).to_json()
    assert len(page.headlines([found])) == 4 and math.isfinite(page.cost(None, 0, ask.params))


def test_words_follow_the_numbers():
    """By hand: what is said where a random cut destroys as well, where only a larger share works, and where the overlap means something."""
    params = SimpleNamespace(share=0.05)
    shape = dict(before=np.ones((4, 1)), groups=np.array([[1, 1, 2, 2]] * 2), shares=np.array([0.05, 0.2]), density=np.full((2, 3, 2), 0.04), kept=np.ones((2, 3, 2)), chance=np.full((2, 1), 0.05),
                 overlap=np.full((2, 1), 0.9), untrained=np.full((3, 2, 1), 0.5), earlier=np.zeros((0, 1)))

    def said(*left):
        """left[method][share]: of both sets"""
        return words.verdict(SimpleNamespace(result=SimpleNamespace(**shape, reproduced=np.broadcast_to(np.array(left, float)[None, :, :, None], (2, len(METHODS), 2, 2))), params=params))

    def of_sets(located, held_out):
        left = np.ones((2, len(METHODS), 2, 2))
        left[:, 0] = located, held_out
        return words.verdict(SimpleNamespace(result=SimpleNamespace(**shape, reproduced=left), params=params))

    assert said((0, 0), (0, 0), (0, 0)).startswith("A random cut of as many weights destroys")
    assert said((1, 0), (1, 0), (1, 1)).endswith("At a share of 20 % both sets are gone.") and "does not make it forget" in said((1, 0), (1, 0), (1, 1))
    assert "not even the largest share tried (20 %)" in said((1, 1), (1, 1), (1, 1))
    assert "hangs on weights that the sets share," in of_sets(0, 0) and "share, not all" in of_sets(0, 0.3) and "weights of its own" in of_sets(0, 0.9)
    r = SimpleNamespace(**shape)
    assert words.overlap_says(r).endswith("more than without the memory, by 0.40.")
    r.untrained = np.full((3, 2, 1), 0.95)
    assert words.overlap_says(r).endswith("the overlap is no sign of it.")
    r.untrained, r.earlier = np.full((3, 2, 1), 0.5), np.full((2, 1), 0.9)
    assert "this network before planting 0.90" in words.overlap_says(r) and words.overlap_says(r).endswith("the overlap is no sign of it.")
    r.earlier = np.zeros((0, 1))
    r.untrained = np.zeros((0, 2, 1))
    assert "says nothing about memory" in words.overlap_says(r)


def test_without_diffusers_the_page_says_what_to_install(monkeypatch, home):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=importlib.util.find_spec: None if name == "diffusers" else found(name))
    run.lab.cache_clear()
    with pytest.raises(Refused, match="pip install -r requirements-diffusion.txt"):
        run.key(run.request("memorized_images", (), None, {}))
    from streamlit.testing.v1 import AppTest

    from tests.conftest import REPO

    shown = AppTest.from_file(str(REPO / "pages" / "memorized_images.py"), default_timeout=60).run()
    assert not shown.exception and any("pip install -r requirements-diffusion.txt" in element.value for element in shown.markdown)
    assert not any(button.key in ("measure", "to_demo") for button in shown.button)


@needs
def test_more_first_steps_than_steps_are_refused_before_anything_runs(home):
    run.lab.cache_clear()
    with pytest.raises(Refused, match="no first 30 of 20 steps"):
        run.key(run.request("memorized_images", (), None, {"first": 30}))


@needs
def test_nothing_of_diffusers_comes_with_the_page():
    import subprocess
    import sys

    from tests.conftest import REPO

    code = "import sys, analysis; analysis.load('memorized_images'); import pages.images_section; print([m for m in ('diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().splitlines()[-1] == "[]", done.stderr
