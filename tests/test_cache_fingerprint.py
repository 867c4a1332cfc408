"""Keys: what is equal has one, what differs has another, what cannot be written down has none; and what counts as code."""

import dataclasses
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from cache.fingerprint import code_identity, fingerprint
from tests.conftest import REPO


@dataclasses.dataclass(frozen=True)
class Params:
    rank: int = 4
    scale: float = 0.1


@dataclasses.dataclass(frozen=True)
class Other:
    rank: int = 4
    scale: float = 0.1


class Named:
    def __init__(self, name):
        self.fingerprint = name


class Computed:
    def fingerprint(self):
        return "abc"


def test_known_value_never_moves():
    """Stores outlive versions of this file: written out by hand, because keys on people's disks hold it."""
    by_hand = b"s1:a" b"i1:1" b"f20:0x1.0000000000000p-1" b"n;" b"b1;" b"l8:i1:1i1:2" b"d8:s1:ky1:x"
    assert fingerprint("a", 1, 0.5, None, True, (1, 2), {"k": b"x"}) == hashlib.sha256(by_hand).hexdigest()


def test_equal_values_agree():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint((1, (2, 3))) == fingerprint([1, [2, 3]])  # JSON turns tuples into lists
    assert fingerprint(Params()) == fingerprint(Params(4, 0.1))
    assert fingerprint(float("nan")) == fingerprint(math.nan)
    assert fingerprint(np.float64(0.1)) == fingerprint(0.1)


DIFFERENT = [
    None, True, False, 0, 1, 2**70, -1, 0.0, -0.0, 1.0, math.nan, math.inf, 0.1 + 0.2, 0.3, "", "1", "None", b"", b"1", (), (1,), ((1,),), (1, 2), (12,),
    ("ab", "c"), ("a", "bc"), {}, {"a": 1}, {"a": "1"}, {1: "a"}, {"a": {"b": 1}}, {"a": 1, "b": None}, Params(), Other(), Params(5), Named("abc"), Named("abd"),
]


def test_different_values_differ():
    digests = [fingerprint(value) for value in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    assert fingerprint("a", "b") != fingerprint("ab") != fingerprint(("a", "b"))


def test_own_fingerprint_as_text_or_method():
    assert fingerprint(Named("abc")) == fingerprint(Computed())


def without_address(value):
    """The same name in every process: the suite's two workers must agree on what they collected."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize("value", [object(), {1, 2}, np.arange(3), np.int64(3), print, Params, Named, Named(3), 1j, [object()], {"a": {1}}, REPO], ids=without_address)
def test_what_cannot_be_written_down_is_refused(value):
    with pytest.raises(TypeError):
        fingerprint(value)


ANALYSIS = '''\
"""A question?

Words about it."""
import math
from analysis.contract import Figure
from analysis.plots import bars
from metrics import distance as far
from metrics.mean import mean

SCALE = 3.0  # metres
_COLOUR = "red"


def compute(x):
    """What it does."""
    # why
    from kernels.moments import moments
    text = """two

    lines"""
    return mean(x) * SCALE + far.away(x) + moments(x) + len(text) + math.pi


def _paint(x):
    return bars(x, _COLOUR)


def figures(runs):
    return [Figure(_paint(runs))]


def answer(runs):
    return "42"
'''

TREE = {
    "analysis/__init__.py": "ANALYSES = ('question',)\n",
    "analysis/question.py": ANALYSIS,
    "analysis/plots.py": "def bars(x, colour):\n    return x\n",
    "analysis/contract.py": "class Figure:\n    pass\n",
    "metrics/__init__.py": "",
    "metrics/mean.py": "from .deep.sum import total\n\ndef mean(x):\n    return total(x) / 2\n",
    "metrics/distance.py": "def away(x):\n    return 1\n\n\ndef answer(x):\n    return 5\n",
    "metrics/unused.py": "x = 1\n",
    "metrics/deep/__init__.py": "",
    "metrics/deep/sum.py": "def total(x):\n    return x + 1\n",
    "kernels/__init__.py": "VERSION = 1\n",
    "kernels/moments/__init__.py": "from kernels.moments import cpu, reference\n\ndef moments(x):\n    return cpu.run(x)\n",
    "kernels/moments/reference.py": "def run(x):\n    return 0\n",
    "kernels/moments/cpu.py": "def run(x):\n    return 0\n",
}


@pytest.fixture
def tree(tmp_path):
    place = tmp_path / "tree"
    for name, text in TREE.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def identity(place: Path, python: str = sys.executable, code: str = "from cache.fingerprint import code_identity\nimport analysis.question as q\nprint(code_identity(q))"):
    """In a fresh interpreter, as a fresh process would take it."""
    path = place.parent / "path"
    if not path.exists():
        path.mkdir()
        (path / "cache").symlink_to(REPO / "cache")
    done = subprocess.run([python, "-c", code], cwd=place, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{path}", "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SAME = {
    "comment": ("analysis/question.py", "# metres", "# kilometres"),
    "comment removed": ("analysis/question.py", "    # why\n", ""),
    "docstring": ("analysis/question.py", "What it does.", "What it really does,\n    at length."),
    "module docstring": ("analysis/question.py", "Words about it.", "Other words."),
    "blank lines": ("analysis/question.py", "\n\n\ndef _paint", "\n\n\n\n\n\ndef _paint"),
    "trailing space": ("analysis/question.py", "    # why\n", "    # why   \n   \n"),
    "order of imports": ("analysis/question.py", "from metrics import distance as far\nfrom metrics.mean import mean\n", "from metrics.mean import mean\nfrom metrics import distance as far\n"),
    "figure": ("analysis/question.py", "[Figure(_paint(runs))]", "[Figure(_paint(runs)), 2]"),
    "answer": ("analysis/question.py", '"42"', '"43"'),
    "colour": ("analysis/question.py", '"red"', '"blue"'),
    "drawing helper": ("analysis/question.py", "bars(x, _COLOUR)", "bars(x, _COLOUR) + bars(x, 0)"),
    "plots": ("analysis/plots.py", "return x", "return -x"),
    "contract": ("analysis/contract.py", "pass", "height = 3"),
    "registry of analyses": ("analysis/__init__.py", "'question',", "'question', 'another'"),
    "a module not imported": ("metrics/unused.py", "1", "2"),
    "a faster kernel": ("kernels/moments/cpu.py", "return 0", "return 0 * x"),
    "a package above": ("metrics/__init__.py", "", "x = 1\n"),
}

OTHER = {
    "constant": ("analysis/question.py", "SCALE = 3.0", "SCALE = 3.5"),
    "formula": ("analysis/question.py", "* SCALE", "/ SCALE"),
    "space inside text": ("analysis/question.py", "two\n\n    lines", "two\n\n\n    lines"),
    "trailing space inside text": ("analysis/question.py", "two\n", "two \n"),
    "hash inside text": ("analysis/question.py", "two\n", "two # 2\n"),
    "imported": ("metrics/mean.py", "/ 2", "/ 3"),
    "imported by the imported": ("metrics/deep/sum.py", "+ 1", "+ 2"),
    "imported as a module": ("metrics/distance.py", "return 1", "return 2"),
    "a metric that happens to be called answer": ("metrics/distance.py", "return 5", "return 6"),
    "a kernel's reference": ("kernels/moments/reference.py", "return 0", "return 1"),
    "imported inside a function": ("kernels/moments/__init__.py", "cpu.run(x)", "cpu.run(x + 1)"),
    "import of another thing": ("analysis/question.py", "from metrics.mean import mean", "from metrics.distance import away as mean"),
}

MANY = """
import sys, pathlib
from cache.fingerprint import code_identity, _witness
import analysis.question as q
place = pathlib.Path('.').resolve()
print(code_identity(q))
for line in sys.stdin.read().split('\\x00'):
    name, old, new = eval(line)
    text = (place / name).read_text()
    assert old in text, (name, old)
    kept = dict(_witness.texts)
    _witness.imports += 1
    _witness.texts[place / name] = (text.replace(old, new, 1), _witness.imports)
    print(code_identity(q))
    _witness.texts.clear(); _witness.texts.update(kept)
"""


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """The identity of the tree, and of the tree after each edit of SAME and OTHER."""
    place = tmp_path_factory.mktemp("edits") / "tree"
    for name, text in TREE.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    first = identity(place)
    edits = "\x00".join(repr(edit) for edit in [*SAME.values(), *OTHER.values()])
    path = place.parent / "path"
    done = subprocess.run([sys.executable, "-c", MANY], cwd=place, input=edits, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{path}"})
    assert done.returncode == 0, done.stderr
    unchanged, *after = done.stdout.split()
    assert [unchanged] == first
    return unchanged, dict(zip([*SAME, *OTHER], after, strict=True))


@pytest.mark.parametrize("edit", SAME)
def test_what_does_not_change_numbers_is_a_hit(identities, edit):
    assert identities[1][edit] == identities[0]


@pytest.mark.parametrize("edit", OTHER)
def test_what_may_change_numbers_is_a_miss(identities, edit):
    assert identities[1][edit] != identities[0]


def test_all_misses_differ_from_each_other(identities):
    assert len({identities[1][edit] for edit in OTHER}) == len(OTHER)


def test_identity_is_of_the_code_that_runs(tree):
    """An edit after the import does not change it; a new process sees it."""
    code = textwrap.dedent("""
        from cache.fingerprint import code_identity
        import analysis.question as q, pathlib, metrics.mean
        file = pathlib.Path('metrics/mean.py')
        file.write_text(file.read_text().replace('/ 2', '/ 9'))
        print(code_identity(q))
    """)
    before = identity(tree)
    assert identity(tree, code=code) == before
    assert identity(tree) != before


def test_a_module_imported_anew_has_its_new_identity(tree):
    code = textwrap.dedent("""
        from cache.fingerprint import code_identity
        import analysis.question as q, pathlib, importlib, metrics.mean
        print(code_identity(q), code_identity(q))
        file = pathlib.Path('metrics/mean.py')
        file.write_text(file.read_text().replace('/ 2', '/ 9'))
        importlib.reload(metrics.mean)
        print(code_identity(q))
    """)
    first, second, third = identity(tree, code=code)
    assert first == second != third and identity(tree) == [third]


def test_a_process_knows_when_its_code_is_outdated(tree):
    """A comment, a broken edit and a module that was never imported do not outdate it; a constant does, until it is back."""
    code = textwrap.dedent("""
        import os, pathlib, time
        from cache.fingerprint import outdated
        import analysis.question
        file, text, t = pathlib.Path('metrics/mean.py'), pathlib.Path('metrics/mean.py').read_text(), time.time()
        def write(path, content):
            global t
            t += 10
            path.write_text(content)
            os.utime(path, (t, t))
        print(outdated())
        write(file, text + '# a comment'); print(outdated())
        write(file, text.replace('/ 2', '/ (')); print(outdated())
        write(pathlib.Path('metrics/unused.py'), 'x = 9'); print(outdated())
        write(file, text.replace('/ 2', '/ 3')); print(outdated(), outdated())
        write(file, text); print(outdated())
    """)
    assert identity(tree, code=code) == ["False", "False", "False", "False", "True", "True", "False"]


def test_taken_when_modules_were_imported_before_the_cache(tree):
    code = "import analysis.question as q\nfrom cache.fingerprint import code_identity\nprint(code_identity(q))"
    assert identity(tree, code=code) == identity(tree)


def pythons():
    found = {}
    for minor in range(9, 16):
        path = shutil.which(f"python3.{minor}")
        if path and minor != sys.version_info.minor and subprocess.run([path, "-c", "1"], capture_output=True).returncode == 0:
            found[minor] = path
    return found


def test_same_identity_under_other_pythons(tree):
    """A store filled on one machine must hit on another."""
    others = pythons()
    if not others:
        pytest.skip("no other Python on this machine")
    source = (REPO / "cache" / "fingerprint.py").read_text()
    tricky = "x = f'{1:>{2}} # not a comment' + 'é' ; y = 2  # é\nz = ('a'  # one\n\n     'b')\n@(lambda f: f)\ndef g(): 'doc'\n"
    (tree / "metrics" / "mean.py").write_text(TREE["metrics/mean.py"] + tricky)
    (tree / "metrics" / "deep" / "sum.py").write_text(source + TREE["metrics/deep/sum.py"])
    assert {tuple(identity(tree, path)) for path in others.values()} == {tuple(identity(tree))}


def test_module_without_source_is_refused():
    with pytest.raises(TypeError, match="no source file"):
        code_identity(sys)


def test_a_module_of_this_project_has_an_identity():
    import models.params

    assert len(code_identity(models.params)) == 64
