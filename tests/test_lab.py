"""The bench: identities that follow content, variants that share tensors, one computation however often asked."""

import shutil

import numpy as np
import pytest
import torch

import analysis
import operators
from analysis import run
from models import checkpoints
from models.corpus import register_text
from models.lab import Lab
from models.refusal import Refused
from models.variant import parse
from tests import tiny
from tests.conftest import DATA
from tests.probes import large_table, trainer, two_models

PROBES = {"large_table": large_table, "trainer": trainer, "two_models": two_models}


@pytest.fixture
def bench(home, tmp_path, monkeypatch):
    """A lab with one tiny GPT-2, one text, and the probe analyses beside the real ones."""
    real = analysis.load
    monkeypatch.setattr(analysis, "load", lambda name: PROBES[name] if name in PROBES else real(name))
    run.lab.cache_clear()
    alias = checkpoints.register(tiny.save(tiny.gpt2(), tmp_path / "tiny-a"), home)
    other = checkpoints.register(tiny.save(tiny.gpt2(seed=1), tmp_path / "tiny-b"), home)
    words = tiny.text().split()
    (tmp_path / "words.txt").write_text("\n\n".join(" ".join(words[i : i + 40]) for i in range(0, len(words), 40)))
    source = register_text(tmp_path / "words.txt", home)
    yield dict(home=home, a=f"shelf/{alias}", b=f"shelf/{other}", corpus=f"{source}:8x32", folder=tmp_path / "tiny-a", lab=run.lab(home))
    run.lab.cache_clear()


def compute(bench, name, *variants, progress=None, **params):
    request = run.request(name, variants, bench["corpus"], params)
    run.execute(request.to_json(), progress)
    return run.load(request)


def test_a_large_table_comes_back_whole(bench):
    result = compute(bench, "large_table", bench["a"]).result
    assert result.pairs.num_rows == len(result.counts) > 100
    assert result.total == int(result.counts.sum()) == 8 * 31


def test_two_models_are_one_request_and_their_order_matters(bench):
    (request,) = run.requests("two_models", bench["a"], bench["b"], bench["corpus"], {})
    (swapped,) = run.requests("two_models", bench["b"], bench["a"], bench["corpus"], {})
    assert run.key(request) != run.key(swapped)
    assert compute(bench, "two_models", bench["a"], bench["b"]).result.kl > 1e-3
    assert abs(compute(bench, "two_models", bench["a"], bench["a"]).result.kl) < 1e-12


def test_one_model_where_two_are_needed_is_refused(bench):
    with pytest.raises(Refused, match="compares 2 models"):
        run.requests("two_models", bench["a"], None, bench["corpus"], {})


class CutOff:
    """A progress that stops the run after `at` steps and remembers its last saved state."""

    def __init__(self, at=None, state=None):
        self.at, self.state = at, state

    def step(self, i, n, message="", live=None):
        if i == self.at:
            raise KeyboardInterrupt

    def save(self, state, force=False):
        self.state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}

    def saved(self):
        return self.state


@pytest.mark.parametrize("at", [1, 7, 19])
def test_a_trainer_resumed_ends_where_an_uninterrupted_one_ends(bench, at):
    whole = compute(bench, "trainer", bench["a"]).result
    first = CutOff(at)
    with pytest.raises(KeyboardInterrupt):
        trainer.compute(captures(bench), trainer.Params(), first)
    resumed = trainer.compute(captures(bench), trainer.Params(), CutOff(None, first.state))
    assert np.array_equal(whole.weight, resumed.weight) and np.array_equal(whole.losses, resumed.losses)


def captures(bench):
    request = run.request("trainer", (bench["a"],), bench["corpus"], {})
    return (bench["lab"].capture(request.variants[0], request.corpus),)


def test_the_second_time_nothing_is_computed(bench, monkeypatch):
    compute(bench, "large_table", bench["a"])
    monkeypatch.setattr(large_table, "compute", lambda *_: pytest.fail("computed again"))
    assert compute(bench, "large_table", bench["a"]).result.total == 8 * 31


def test_keys_follow_what_can_change_the_numbers(bench):
    def key(variant=bench["a"], corpus=bench["corpus"], **params):
        return run.key(run.request("large_table", (variant,), corpus, params))

    assert key() == key(top=99)  # display only
    different = [key(), key(least=2), key(bench["b"]), key(corpus=bench["corpus"] + ":nobos"), key(bench["a"] + "~drop_layers:blocks=1"), key(bench["a"] + "!bfloat16")]
    assert len(set(different)) == len(different)


def test_a_corpus_longer_than_the_context_is_refused_before_anything_runs(bench):
    source = bench["corpus"].rpartition(":")[0]
    with pytest.raises(Refused, match="65 tokens are longer than the context .* 64 tokens; .*:8x64"):
        run.key(run.request("large_table", (bench["a"],), f"{source}:8x65", {}))
    assert run.key(run.request("large_table", (bench["a"],), f"{source}:8x64", {}))


def test_weights_that_changed_behind_their_alias_are_refused(bench):
    tiny.save(tiny.gpt2(seed=5), bench["folder"])
    with pytest.raises(Refused, match="changed"):
        bench["lab"].identity(parse(bench["a"]))


def test_a_variant_shares_untouched_tensors_and_leaves_its_parent_alone(bench):
    lab, child = bench["lab"], operators.parse(bench["a"] + "~drop_layers:blocks=1")
    parent = lab.model(child.parent)
    before = {name: p.clone() for name, p in parent.module.named_parameters()}
    model = lab.model(child)
    assert model.layers == (0, 2) and parent.layers == (0, 1, 2)
    shared = {p.data_ptr() for p in parent.module.parameters()} & {p.data_ptr() for p in model.module.parameters()}
    assert len(shared) == len(before) - 4  # two output matrices and their biases are new
    assert all(torch.equal(before[name], p) for name, p in parent.module.named_parameters())


def test_a_steps_seed_draws_another_calibration_text(bench):
    def kept(seed):
        variant = operators.parse(f"{bench['a']}~wanda:sparsity=0.5,on={bench['corpus']}" + (f",seed={seed}" if seed else ""))
        return bench["lab"].plan(variant).kept

    same, other = kept(0), kept(1)
    assert any(not torch.equal(same[name], other[name]) for name in same)
    assert all(torch.equal(same[name], value) for name, value in kept(0).items())


def test_a_merge_is_a_variant_like_any_other(bench):
    """Written out it reads back equal; its text is cut by the first parent's tokenizer; an analysis runs on it, also with a step on top."""
    merged = operators.parse(f"({bench['a']}+{bench['b']})~average")
    assert run.keep_recipe(merged) == merged.written and run.variant(merged.written) == merged
    a, b, m = (bench["lab"].model(v) for v in (*merged.parents, merged))
    for (name, x), (_, y), (_, z) in zip(*(model.module.named_parameters() for model in (a, b, m))):
        assert torch.equal(((x.double() + y.double()) / 2).float(), z), name
    assert compute(bench, "large_table", merged.written).result.total == 8 * 31
    assert compute(bench, "two_models", bench["a"], merged.written + "~drop_layers:blocks=1").result.kl > 1e-3
    assert run.shape(merged).n_layers == 3
    with pytest.raises(Refused, match="not known here"):
        run.variant("v/000000000000")


def test_an_offloaded_model_gives_the_same_statistics_and_refuses_to_be_changed(home, tmp_path, monkeypatch):
    """Most layers on disk, read at each pass: moments agree to the bit; a recipe is refused in words."""
    from kernels.moments import Moments
    from models import bridge, checkpoints, selfcheck
    from models.corpus import parse as parse_corpus
    from models.corpus import register_text
    from models.layout import Site
    from models.stream import Request
    from operators import OPERATORS, parse

    model = "shelf/" + checkpoints.register(tiny.save(tiny.llama(), tmp_path / "llama"), home)
    (tmp_path / "words.txt").write_text(tiny.text())
    corpus = parse_corpus(register_text(tmp_path / "words.txt", home) + ":4x32")
    monkeypatch.setattr(checkpoints, "_room", lambda: {"cpu": 20_000})
    whole, offloaded = Lab(home, OPERATORS), Lab(home, OPERATORS, device="offload")
    assert "disk" in offloaded.model(parse(model)).module.hf_device_map.values()
    requests = [Request(Moments, (Site(i, name),)) for i in range(3) for name in ("resid_post", "mlp_post")]
    found, expected = (bench.capture(parse(model), corpus).measure(requests) for bench in (offloaded, whole))
    assert all(torch.equal(a.mean, b.mean) and a.count == b.count for a, b in zip(found, expected))
    with pytest.raises(Refused, match="offloaded"):
        offloaded.model(parse(model + "~drop_layers:blocks=1"))
    there = offloaded.model(parse(model))
    on_disk = next(i for i in range(3) if there.blocks[i].mlp.up_proj.weight.is_meta)
    for change in (lambda: list(there.matrices()), lambda: there.copy("x"), lambda: there.set_matrix(on_disk, "mlp.up_proj", torch.zeros(24, 16)), lambda: there.remove(frozenset({(on_disk, "mlp")}))):
        with pytest.raises(Refused, match="offloaded to disk"):
            change()
    with pytest.raises(Refused, match="offloaded to disk"):
        bridge.share(there.module)
    assert selfcheck.run(there.module, there.tokenizer).passed


def test_a_model_without_a_tokenizer_reads_token_numbers_and_nothing_else(home, tmp_path):
    """The sorting model's own folder, where it lies: its ids written as text come back as ids; words are refused with the way out."""
    from models.corpus import parse as parse_corpus
    from operators import OPERATORS, parse

    folder = tmp_path / "bare"
    tiny.gpt2().save_pretrained(folder)
    model = parse("shelf/" + checkpoints.register(folder, home))
    bench = Lab(home, OPERATORS)
    for name, text in (("ids.txt", "3 1 2 31\n\n0 5 6 7 8"), ("words.txt", "once upon a time"), ("beyond.txt", "1 2 32"), ("signs.txt", "1 2 ² 03")):
        (tmp_path / name).write_text(text)
    read = lambda name, cut: bench.tokens(model, parse_corpus(register_text(tmp_path / name, home) + cut))
    padded = read("ids.txt", ":2x5:padded")
    assert padded.ids.tolist() == [[3, 1, 2, 31, 0], [0, 5, 6, 7, 8]] and padded.keep.tolist()[0] == [True] * 4 + [False]
    assert bench.model(model).tokenizer.decode([3, 31]) == "3 31"
    for name, found in (("words.txt", "once"), ("beyond.txt", "32"), ("signs.txt", r"\?")):
        with pytest.raises(Refused, match=f"token numbers from 0 to 31 .* found {found}"):
            read(name, ":1x4")
    assert bench.tokens(model, parse_corpus("ids/uniform:3x8")).ids.max() < 32


@pytest.mark.skipif(not (DATA / "checkpoints" / "nano-gpt-sort").is_dir(), reason="the sorting model is not on this machine")
def test_the_sorting_model_sorts_what_is_written_as_numbers(home, tmp_path):
    from itertools import product

    from models.corpus import parse as parse_corpus
    from operators import OPERATORS, parse

    inputs = list(product(range(3), repeat=6))[::29]
    (tmp_path / "digits.txt").write_text("\n\n".join(" ".join(map(str, [*given, *sorted(given)])) for given in inputs))
    text = register_text(tmp_path / "digits.txt", home)
    model = parse("shelf/" + checkpoints.register(DATA / "checkpoints" / "nano-gpt-sort", home))
    bench = Lab(home, OPERATORS)
    tokens = bench.tokens(model, parse_corpus(f"{text}:{len(inputs)}x11:padded"))
    guesses = bench.model(model).logits(torch.from_numpy(tokens.ids)).argmax(-1)[:, 5:]
    assert guesses.tolist() == [sorted(given) for given in inputs]
    with pytest.raises(Refused, match="longer than the context .* 11 tokens"):
        bench.tokens(model, parse_corpus(f"{text}:4x12:padded"))
    request = run.request("layer_redundancy", (model.written,), f"{text}:20x11:padded", {})
    run.execute(request.to_json())
    assert run.load(request) is not None


def test_one_calibration_pass_serves_every_operator(home, tmp_path, monkeypatch):
    """Once Gram matrices have been gathered, those who need only moments read the same entry, bit for bit what their own pass gives."""
    from metrics import calibration
    from models.corpus import parse as parse_corpus

    v = parse("shelf/" + checkpoints.register(tiny.save(tiny.gpt2(), tmp_path / "tiny"), home))
    (tmp_path / "words.txt").write_text(tiny.text())
    text = parse_corpus(register_text(tmp_path / "words.txt", home) + ":16x24")
    own = calibration.matrix_inputs(Lab(home, operators.OPERATORS).capture(v, text), False)
    for kept in (home / "store").iterdir():
        if not kept.name.startswith("."):
            shutil.rmtree(kept)
    capture = Lab(home, operators.OPERATORS).capture(v, text)
    whole = calibration.matrix_inputs(capture, True)
    monkeypatch.setattr(type(capture), "measure", lambda *a, **k: pytest.fail("a second pass"))
    for again in (calibration.matrix_inputs(capture, True), calibration.matrix_inputs(capture, False)):
        assert again.gram.keys() == own.square_sum.keys() and not own.gram
        for site, values in own.square_sum.items():
            assert torch.equal(again.square_sum[site], values) and torch.equal(again.abs_mean[site], own.abs_mean[site])
            assert torch.equal(again.gram[site], whole.gram[site])


def test_merges_that_make_no_sense_are_refused_before_anything_is_loaded(bench):
    for text, why in ((f"{bench['a']}~average", "merges several models"), (f"({bench['a']}+{bench['b']})~wanda", "must merge them"),
                      (f"({bench['a']}+{bench['b']})~average~ties", "merges several models"), (f"({bench['a']}+{bench['b']}+{bench['a']})~pleas", "found 3")):
        with pytest.raises(Refused, match=why):
            run.variant(text)
    with pytest.raises(Refused, match="models of one shape"):
        run.key(run.request("large_table", (f"({bench['a']}+demo/storyteller-a)~average",), bench["corpus"], {}))
