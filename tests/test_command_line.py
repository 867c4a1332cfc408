"""The command line from folder and text file to figures and data; each wrong input is one sentence and a non-zero exit."""

import json
import re
import sys
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

import analysis.__main__ as command_line
import operators.__main__ as operators_command_line
from analysis import bundle, run
from analysis.terminal import Bar, clock
from export import browser
from models.variant import Step, Variant
from tests import tiny

QUICK = ["--set", "removal_sequences=2", "--set", "spectra_sequences=2", "--set", "resamples=100", "--set", "cka_batch=16"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A home folder, a tiny model's folder and a text file, shared by this file's tests."""
    root = tmp_path_factory.mktemp("command")
    tiny.save(tiny.llama(), root / "my model")
    (root / "notes.txt").write_text(tiny.text())
    patch = pytest.MonkeyPatch()
    patch.setenv("MICROTOME_HOME", str(root / "home"))
    yield root
    patch.undo()


@pytest.fixture(scope="module")
def written(place):
    """The files of one run: A from a folder, B the same with a block removed, text from a file."""
    out = place / "out"
    arguments = ["layer_redundancy", str(place / "my model"), "--against", f"{place / 'my model'}~drop_layers:blocks=1", "--corpus", f"{place / 'notes.txt'}:4x32"]
    assert command_line.main([*arguments, *QUICK, "--formats", "html,csv,parquet", "--out", str(out)]) == 0
    return out


def requests(place):
    alias = command_line.model(str(place / "my model"))
    corpus = command_line.corpus(f"{place / 'notes.txt'}:4x32")
    return run.requests("layer_redundancy", alias, f"{alias}~drop_layers:blocks=1", corpus, command_line.settings(QUICK[1::2]))


def test_writes_figures_data_answer_and_provenance(written, place):
    names = {str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()}
    runs = [run.load(r, label) for r, label in zip(requests(place), "AB")]
    figures = run.analysis.load("layer_redundancy").figures(runs)
    assert names == {"answer.md", "captions.md", "provenance.json", "REPRODUCE.txt", *(f"figures/{f.name}.html" for f in figures),
                     *(f"data/{f.name}.{kind}" for f in figures for kind in ("csv", "parquet"))}
    for figure in figures:
        table = pyarrow.parquet.read_table(written / "data" / f"{figure.name}.parquet")
        assert table.schema.equals(figure.data.schema) and table.num_rows == figure.data.num_rows
        flat = pyarrow.csv.ParseOptions(newlines_in_values=True)
        assert pyarrow.csv.read_csv(written / "data" / f"{figure.name}.csv", parse_options=flat).num_rows == figure.data.num_rows
        assert figure.caption in (written / "captions.md").read_text()
    assert "Which blocks does the model not need?" in (written / "answer.md").read_text()


def test_nothing_written_names_a_path_of_this_machine(written, place):
    for path in written.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (str(place), str(Path.home()) + "/", str(run.REPO)):
                assert secret.encode() not in data, f"{path.name} names {secret}"


def test_provenance_holds_records_recipes_and_a_command_that_runs(written, place, capsys):
    facts = json.loads((written / "provenance.json").read_text())
    assert [r["label"] for r in facts["runs"]] == ["A", "B"]
    assert all({"key", "code", "identity", "corpus_identity", "params", "versions", "seconds"} <= set(r) for r in facts["runs"])
    recipes = [Variant.from_json(entry["recipe"]) for entry in facts["recipes"]]
    assert recipes == [r.variants[0] for r in requests(place)] and recipes[1].steps[0].operator == "drop_layers"
    import shlex

    line = shlex.split(facts["command"].replace("DIR", str(place / "again")))
    assert line[:3] == ["python", "-m", "analysis"] and facts["command"] in (written / "REPRODUCE.txt").read_text()
    assert command_line.main([*line[3:], "--formats", "csv"]) == 0
    again = sorted((place / "again" / "data").iterdir())
    assert again and all(p.read_bytes() == (written / "data" / p.name).read_bytes() for p in again)


def test_the_bundle_holds_the_same_in_a_fixed_order(place, written):
    import io
    import zipfile

    asked = requests(place)
    runs = [run.load(r, label) for r, label in zip(asked, "AB")]
    figures = run.analysis.load("layer_redundancy").figures(runs)[:2]
    wanted = bundle.Wanted(("svg", "parquet", "csv") if browser.find() else ("parquet", "csv"))
    data = bundle.bundle(asked, runs, figures, wanted)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert archive.testzip() is None and all(i.date_time == (1980, 1, 1, 0, 0, 0) for i in archive.infolist())
        assert json.loads(archive.read("provenance.json"))["runs"] == json.loads((written / "provenance.json").read_text())["runs"]
    drawn = [n for n in names if n.startswith("figures/")]
    assert len(drawn) == (sum(len(f.views) for f in figures) if browser.find() else 0)
    assert names[len(drawn):] == [f"data/{f.name}.{kind}" for f in figures for kind in ("parquet", "csv")] + ["answer.md", "captions.md", "provenance.json", "REPRODUCE.txt"]
    assert not any(name.startswith(("/", "..")) for name in names)


def test_only_named_fields_of_a_record_leave(place, written):
    asked = requests(place)
    runs = [run.load(r, label) for r, label in zip(asked, "AB")]
    runs[0].record["token"] = "hf_secret"
    runs[0].record["folder"] = "/home/someone/model"
    text = json.dumps(bundle.provenance(asked, runs))
    assert "hf_secret" not in text and "/home/someone" not in text


def test_a_figure_that_cannot_be_drawn_is_left_out_and_said(place, written, monkeypatch):
    monkeypatch.setattr(browser, "find", lambda: None)
    monkeypatch.setattr(browser, "shared", browser.Browser)
    asked = requests(place)[:1]
    runs = [run.load(asked[0], "A")]
    figures = run.analysis.load("layer_redundancy").figures(runs)[:1]
    made = dict(bundle.contents(asked, runs, figures, bundle.Wanted(("pdf", "csv"))))
    assert not any(name.startswith("figures/") for name in made) and f"data/{figures[0].name}.csv" in made
    assert "## Not drawn" in made["captions.md"].decode() and "apt install chromium" in made["captions.md"].decode()
    assert "pdf" not in bundle.Wanted.here().formats and "html" in bundle.Wanted.here().formats


def test_merged_models_travel_with_the_bundle(place, tmp_path, monkeypatch):
    """v/… is unknown on another machine until the bundle's recipes are read."""
    monkeypatch.setenv("MICROTOME_HOME", str(tmp_path / "elsewhere"))
    merged = Variant("merge", parents=tuple(Variant(f"demo/{letter * 300}") for letter in "abcdefgh"), steps=(Step("average"),))  # too long to be written out
    assert merged.written.startswith("v/")
    asked = (run.Request("layer_redundancy", (merged,), run.parse_corpus("demo/stories"), run.analysis.load("layer_redundancy").Params()),)
    assert bundle.command(asked).endswith("--recipes provenance.json --out DIR")
    file = tmp_path / "provenance.json"
    file.write_text(json.dumps({"recipes": [{"written": merged.written, "recipe": merged.to_json()}]}))
    with pytest.raises(command_line.Refused, match="not known here"):
        run.variant(merged.written)
    command_line.keep_recipes(file)
    assert run.variant(merged.written) == merged


WRONG = {
    "unknown analysis": (["layer_redundance", "MODEL"], "There is no analysis “layer_redundance”; known: layer_redundancy"),
    "unknown operator": (["layer_redundancy", "MODEL~wonder:x=1"], "There is no operator “wonder”"),
    "operator's parameter": (["layer_redundancy", "MODEL~drop_layers:bloks=1"], "There is no parameter “bloks”"),
    "block that is not there": (["layer_redundancy", "MODEL~drop_layers:blocks=77", "--corpus", "TEXT:2x16"], "77"),
    "unknown parameter": (["layer_redundancy", "MODEL", "--set", "sees=1"], "There is no parameter “sees”"),
    "value of a parameter": (["layer_redundancy", "MODEL", "--set", "seed=soon"], "seed = “soon” is not a whole number"),
    "setting without value": (["layer_redundancy", "MODEL", "--set", "seed"], "is not name=value"),
    "setting given twice": (["layer_redundancy", "MODEL", "--set", "seed=1", "--set", "seed=2"], "given twice"),
    "not a corpus": (["layer_redundancy", "MODEL", "--corpus", "stories"], "“stories” is not a corpus"),
    "unknown strand": (["layer_redundancy", "MODEL", "--corpus", "demo/stores"], "stores"),
    "text file missing": (["layer_redundancy", "MODEL", "--corpus", "./nowhere.txt"], "There is no file"),
    "text too short": (["layer_redundancy", "MODEL", "--corpus", "SHORT:2x64"], "fewer than one sequence"),
    "folder missing": (["layer_redundancy", "./nowhere"], "Found no folder"),
    "demo model missing": (["layer_redundancy", "demo/nobody"], "nobody"),
    "recipe unknown": (["layer_redundancy", "v/0123456789ab"], "is not known here"),
    "recipes file": (["layer_redundancy", "MODEL", "--recipes", "TEXT"], "holds no recipes"),
    "format": (["layer_redundancy", "MODEL", "--formats", "gif"], "“gif” is not a list of formats"),
    "size": (["layer_redundancy", "MODEL", "--size", "A4"], "“A4” is not a size"),
    "device": (["layer_redundancy", "MODEL", "--device", "tpu"], "“tpu” is not a device"),
    "out is a file": (["layer_redundancy", "MODEL", "--out", "TEXT"], "Cannot write to"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(case, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    (place / "short.txt").write_text("w1 w2 w3")
    arguments, said = WRONG[case]
    words = {"MODEL": str(place / "my model"), "TEXT": str(place / "notes.txt"), "SHORT": str(place / "short.txt")}
    arguments = [re.sub("MODEL|TEXT|SHORT", lambda m: words[m[0]], a) for a in arguments]
    assert command_line.main(["--out", str(place / "refused"), *arguments]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not re.match(r"\s*\d+%|PNG, SVG and PDF|  ", line)]  # progress, lists
    assert len(lines) == 1 and said in lines[0] and "Traceback" not in captured.err and captured.out == "", captured.err
    assert not (place / "refused").exists() or not any((place / "refused").iterdir())


def test_drawn_formats_asked_for_without_chromium_are_refused_at_once(place, capsys, monkeypatch):
    monkeypatch.setattr(browser, "find", lambda: None)
    assert command_line.main(["layer_redundancy", str(place / "my model"), "--formats", "svg", "--out", str(place / "none")]) == 1
    assert "apt install chromium" in capsys.readouterr().err and not (place / "none").exists()


@pytest.mark.parametrize("arguments", [[], ["layer_redundancy"], ["--nonsense"], ["layer_redundancy", "demo/x", "--corpu", "y"]])
def test_wrong_options_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        command_line.main(arguments)
    assert exit.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_lists(capsys):
    assert command_line.main(["--list"]) == 0 and operators_command_line.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "layer_redundancy" in out and "Which blocks does the model not need?" in out and "drop_layers" in out


def test_interrupted_is_clean(place, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", interrupt)
    assert command_line.main(["layer_redundancy", str(place / "my model"), "--corpus", f"{place / 'notes.txt'}:2x16", "--out", str(place / "none")]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Interrupted")


def test_a_variant_leaves_as_a_folder(place, capsys):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = place / "exported"
    assert operators_command_line.main(["export", f"{place / 'my model'}~drop_layers:blocks=1", str(target)]) == 0
    assert "1 of 3 blocks left out" in capsys.readouterr().out
    variant = run.variant(f"{command_line.model(str(place / 'my model'))}~drop_layers:blocks=1")
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        there = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()(input_ids=ids).logits
    assert (there - run.lab(run.home()).model(variant).logits(ids)).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(target)("w1 w2")["input_ids"] == tiny.tokenizer()("w1 w2")["input_ids"]
    assert str(place) not in (target / "README.md").read_text()
    assert operators_command_line.main(["export", str(place / "my model"), str(target)]) == 1
    assert "not an empty folder" in capsys.readouterr().err


class Terminal:
    def __init__(self, tty):
        self.text, self.tty = "", tty

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_bar_says_how_long_it_will_take():
    """4 of 10 steps in 8 s since the first: 12 s left; a second phase counts anew."""
    now, out = [100.0], Terminal(tty=True)
    bar = Bar("model", out, clock=lambda: now[0])
    bar.step(0, 10, "blocks")
    now[0] += 8
    bar.step(4, 10, "blocks")
    assert " 40%" in out.text and "12 s left" in out.text
    now[0] += 1
    bar.step(0, 3, "heads")
    assert out.text.rpartition("\r")[2].endswith("model  heads")


def test_a_log_gets_few_lines():
    now, out = [0.0], Terminal(tty=False)
    bar = Bar("model", out, clock=lambda: now[0])
    for i in range(100):
        now[0] += 0.5
        bar.step(i, 100)
    assert 4 <= len(out.text.splitlines()) <= 6 and "\r" not in out.text
    assert (clock(9.4), clock(65), clock(7390)) == ("9 s", "1:05", "2:03:10")


def test_steps_survive_a_home_folder_shortcut():
    """`~/` at the start of a path is the home folder, not a step."""
    assert run.operators.parse("demo/a~drop_layers:blocks=1").steps == (Step("drop_layers", (("blocks", (1,)),)),)
    with pytest.raises(command_line.Refused, match="Found no folder"):
        command_line.model("~/no-such-model-here~drop_layers:blocks=1")
    assert command_line.model("demo/a~drop_layers:blocks=1") == "demo/a~drop_layers:blocks=1"


def test_needs_nothing_heavy_to_say_what_is_wrong():
    """Options are read before torch is."""
    import subprocess

    code = "import sys, analysis.__main__ as m\ntry: m.main([])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=run.REPO, capture_output=True)


def test_the_command_is_safe_to_paste_and_sets_what_the_figures_show():
    """`!` would recall history in a shell; a display parameter changes figures, so it is part of the line."""
    import shlex

    (asked,) = run.requests("layer_redundancy", "demo/a!bfloat16", None, None, {"tokens": "after-first", "seed": "3"})
    line = run.command(asked)
    assert "'demo/a!bfloat16'" in line
    assert shlex.split(line)[3:] == ["layer_redundancy", "demo/a!bfloat16", "--corpus", asked.corpus.written, "--set", "tokens=after-first", "--set", "seed=3", "--out", "DIR"]


def test_a_file_given_for_a_parameter_is_registered_as_a_text(home, tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    given = command_line.settings([f"word_problems={tmp_path}/sums.jsonl", "prompt=/ 3 + 4", "seed=3"])
    assert given["word_problems"].startswith("text/sums-") and given["prompt"] == "/ 3 + 4" and given["seed"] == "3"
