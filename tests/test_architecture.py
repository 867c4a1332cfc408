"""The rooms and the direction of imports, file names and sizes, and what a page may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

ALLOWED = {  # folder -> first-party folders it may import
    "kernels": {"kernels"},
    "cache": {"cache"},
    "demo": {"demo", "models", "metrics"},
    "models": {"models", "kernels", "cache", "demo"},
    "metrics": {"metrics", "models", "kernels"},
    "operators": {"operators", "metrics", "models", "kernels"},
    "analysis": {"analysis", "metrics", "models", "kernels"},
    "export": {"export", "analysis", "models"},
    "jobs": {"jobs", "analysis", "models", "cache"},
    "pages": {"pages", "jobs", "export", "analysis", "operators", "metrics", "models", "cache", "demo"},
}
DOORS = {  # files that are doors: what they may import beyond their folder's row
    "analysis/run.py": {"cache", "operators"},
    "analysis/__main__.py": {"operators", "cache", "export"},
    "analysis/bundle.py": {"cache", "export"},
    "analysis/sweep.py": {"cache"},
    "analysis/report/__main__.py": {"export"},
    "analysis/frontier/__main__.py": {"export"},
    "operators/__main__.py": {"analysis"},
}
ROOMS = set(ALLOWED)
BANNED = {"utils", "helpers", "common", "misc", "base", "manager", "handler", "core"}
HEAVY = ("transformer_lens", "sae_lens", "sklearn", "numba", "datasets")


def sources():
    return sorted(p for room in ROOMS for p in (REPO / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(REPO)))
def test_imports_point_down(path):
    relative = str(path.relative_to(REPO))
    room = relative.split("/")[0]
    allowed = ALLOWED[room] | DOORS.get(relative, set())
    names = imported(path)
    for name in names:
        first = name.split(".")[0]
        assert first not in ROOMS or first in allowed, f"{relative} imports {name}"
        assert first != "streamlit" or room == "pages", f"{relative} imports streamlit"
    if room in ("analysis", "operators") and path.name not in ("__init__.py", "__main__.py"):
        own = relative.split("/")[1].removesuffix(".py")
        siblings = {p.stem for p in (REPO / room).glob("*.py")} | {p.name for p in (REPO / room).iterdir() if p.is_dir()}
        shared = {"contract", "compare", "plots", "order_marks", "theme", "run", "bundle", "terminal", "sweep", own}
        if own not in shared - {own}:
            others = {n.split(".")[1] for n in names if n.startswith(room + ".") and n.split(".")[1] in siblings - shared}
            assert not others, f"{relative} imports its sibling {others}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(REPO)))
def test_names_and_sizes(path):
    assert path.stem not in BANNED and not any(part in BANNED for part in path.relative_to(REPO).parts)
    assert len(path.read_text().splitlines()) <= 400, f"{path} is over 400 lines: is it still one thing?"


def test_what_is_redrawn_by_itself_goes_through_one_door():
    """pages/shared/redrawn.py says why."""
    assert [p.name for p in sorted((REPO / "pages").rglob("*.py")) if "st.fragment(run_every" in p.read_text()] == ["redrawn.py"]


def test_nothing_heavy_is_imported_by_pages_and_analyses():
    """A fresh interpreter imports every analysis and everything pages share; none of the slow libraries may come along."""
    pages = [f"pages.shared.{p.stem}" for p in (REPO / "pages" / "shared").glob("*.py") if p.stem != "__init__"]
    code = (
        "import sys, analysis, operators, importlib\n"
        f"for name in {pages!r}: importlib.import_module(name)\n"
        "for name in analysis.ANALYSES: analysis.load(name)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_nothing_strays_to_the_top():
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = {".ci", ".gitignore", ".streamlit", "Makefile", "README.md", "app.py", "pytest.ini", "requirements.txt", "requirements-diffusion.txt"}
    assert {name.split("/")[0] for name in listed.stdout.split()} <= ROOMS | files | {"benchmarks", "docs", "tests"}


def test_every_analysis_has_a_page_and_a_readme_row():
    import analysis

    readme = (REPO / "README.md").read_text()
    for name in analysis.ANALYSES:
        assert (REPO / "pages" / f"{name}.py").is_file()
        assert f"`{name}`" in readme


def test_every_operator_file_is_listed():
    import operators

    files = {p.stem for p in (REPO / "operators").glob("*.py")} - {"__init__", "__main__", "contract"}
    assert files == set(operators.OPERATORS)


def test_the_readme_tree_is_the_tree():
    from tests.readme_tree import between, tree

    assert between((REPO / "README.md").read_text())[1] == tree(), "run: python -m tests.readme_tree"


def test_every_operator_has_a_readme_row():
    import operators

    readme = (REPO / "README.md").read_text()
    for name in operators.OPERATORS:
        assert f"| `{name}` |" in readme
