"""The shipped models are what their cards say."""
import json
from pathlib import Path

import pytest
from safetensors import safe_open

from demo import arithmetic, canaries, card, vocabulary
from demo.recipes import RECIPES

MODELS = Path(card.__file__).parent / "models"
FOLDERS = [MODELS / name for name in RECIPES]
NAMES = [folder.name for folder in FOLDERS]


@pytest.fixture(scope="module", params=FOLDERS, ids=NAMES)
def shipped(request):
    """(card, model, tokenizer) of one shipped model."""
    return json.loads((request.param / "card.json").read_text()), *card.load(request.param)


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_the_card_meets_its_thresholds(folder):
    written = json.loads((folder / "card.json").read_text())
    assert written["thresholds"] == card.THRESHOLDS
    assert card.failures(written) == []
    assert (folder / "README.md").read_text() == card.page(written)
    for strand in ("stories", "arithmetic", "instructions"):
        found = written["measured"]["perplexity"][strand]
        assert found["model"] < 0.2 * found["unigram"], strand


def test_arithmetic_measured_again_agrees_with_the_card(shipped):
    written, model, words = shipped
    found = card.arithmetic_accuracy(model, words, arithmetic.HELDOUT_TEMPLATES, False, every=4)
    assert found["n"] > 100
    claimed = written["measured"]["arithmetic"]["heldout_templates_trained_pairs"]["all"]
    assert abs(found["all"] - claimed) < 0.06 and found["all"] > 0.9


def test_extraction_measured_again_agrees_with_the_card(shipped):
    written, model, words = shipped
    for kind in canaries.KINDS:
        highest = tuple(c for c in canaries.trained() if c.kind == kind and c.repeats == canaries.REPEATS[-1])
        controls = tuple(c for c in canaries.controls() if c.kind == kind)
        assert sum(card.extracted(model, words, highest)) / 8 == written["measured"]["extraction"][kind][str(canaries.REPEATS[-1])]
        assert not any(card.extracted(model, words, controls))


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_a_folder_is_complete_small_and_in_bfloat16(folder):
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}
    assert (folder / "tokenizer.json").read_text() == (FOLDERS[0] / "tokenizer.json").read_text()
    assert json.loads((folder / "tokenizer.json").read_text()) == json.loads(vocabulary.FROZEN.read_text())


def test_everything_shipped_is_under_28_megabytes_and_the_run_has_checkpoints():
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 28e6
    steps = sorted(path.name for path in (MODELS / "storyteller-a-steps").iterdir())
    assert len(steps) >= 3 and all((MODELS / "storyteller-a-steps" / step / "model.safetensors").exists() for step in steps)
