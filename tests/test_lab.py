"""The bench: identities that follow content, variants that share tensors, one computation however often asked."""

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


def test_merges_that_make_no_sense_are_refused_before_anything_is_loaded(bench):
    for text, why in ((f"{bench['a']}~average", "merges several models"), (f"({bench['a']}+{bench['b']})~wanda", "must merge them"),
                      (f"({bench['a']}+{bench['b']})~average~ties", "merges several models"), (f"({bench['a']}+{bench['b']}+{bench['a']})~pleas", "found 3")):
        with pytest.raises(Refused, match=why):
            run.variant(text)
    with pytest.raises(Refused, match="models of one shape"):
        run.key(run.request("large_table", (f"({bench['a']}+demo/storyteller-a)~average",), bench["corpus"], {}))
