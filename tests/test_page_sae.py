"""An SAE made elsewhere is opened on the pages that read one; what is no SAE is refused in words, and nobody's folders are read for others."""

import pytest

from tests.conftest import REPO
from tests.test_opening import link, typed
from tests.test_pages import button, slow  # noqa: F401
from tests.test_saes import lens


@pytest.fixture(params=("feature_browser", "feature_survival", "data_selection"))
def page(home, slow, request):  # noqa: F811
    from streamlit.testing.v1 import AppTest

    def open_page(**query):
        test = AppTest.from_file(str(REPO / "pages" / f"{request.param}.py"), default_timeout=120)
        for name, value in query.items():
            test.query_params[name] = value
        return test.run()

    return open_page


def test_a_folder_becomes_the_sae_of_the_page(page, tmp_path):
    folder = lens(tmp_path / "mine")
    test = typed(page(a="demo/storyteller-a", b="demo/storyteller-a~gptq"), "open_sae", str(folder))
    button(test, "open_sae_go").click().run()
    assert not test.exception and link(test, "sae").startswith("saes/")


def test_a_folder_without_an_sae_is_refused_in_words(page, tmp_path):
    test = typed(page(a="demo/storyteller-a", b="demo/storyteller-a~gptq"), "open_sae", str(tmp_path / "nothing"))
    button(test, "open_sae_go").click().run()
    assert not test.exception and "expected one with cfg.json" in "".join(e.value for e in test.error) and link(test, "sae") is None


def test_serving_others_no_folder_can_be_named(page, monkeypatch):
    monkeypatch.setenv("MICROTOME_PUBLIC", "1")
    test = page(a="demo/storyteller-a", b="demo/storyteller-a~gptq")
    assert not test.exception and not any(t.key == "open_sae" for t in test.text_input)
