"""The capture engine against transformers' own outputs, plain hooks and TransformerLens's bridge, on tiny random models."""

import tracemalloc

import numpy as np
import pytest
import torch

from kernels.gram import Gram
from kernels.mlp_capture import MlpCapture
from kernels.moments import Moments
from kernels.sign_codes import SignCodes
from kernels.similarity import Similarity
from kernels.top_k import TopK
from models.fused import capture_of
from models.layout import Site, layout_for
from models.loaded import Model
from models.refusal import NotApplicable, Refused
from models.stream import Request, logits, stream

VOCABULARY, LAYERS, WIDTH = 97, 3, 24


def make(family: str, dtype=torch.float32) -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        module = GPT2LMHeadModel(GPT2Config(n_layer=LAYERS, n_embd=WIDTH, n_head=3, vocab_size=VOCABULARY, n_positions=32, **ends))
    elif family == "llama":
        shape = {"hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
        module = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **shape, **ends))
    else:
        shape = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 3}
        module = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, **shape, **ends))
    return Model(module.to(dtype).eval(), None, layout_for(module.config), f"random {family}")


@pytest.fixture(scope="module", params=["gpt2", "llama", "neox"])
def model(request):
    return make(request.param)


@pytest.fixture(params=["gpt2", "llama", "neox"])
def family_model(request):
    return lambda dtype: make(request.param, dtype)


@pytest.fixture(scope="module")
def gpt2():
    return make("gpt2")


@pytest.fixture(scope="module")
def text():
    """Seven sequences of 19 tokens, three of them padded on the right."""
    ids = torch.randint(0, VOCABULARY, (7, 19), generator=torch.Generator().manual_seed(1))
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[1, 11:], keep[4, 1:], keep[6, 18:] = False, False, False
    return ids, keep


def hidden(model, ids):
    with torch.no_grad():
        return model.module(ids, output_hidden_states=True, use_cache=False).hidden_states


def test_residual_stream_equals_transformers_own(model, text):
    ids, keep = text
    states = hidden(model, ids)
    requests = [Request(Moments, (Site(i, name),)) for i in range(LAYERS) for name in ("resid_pre", "resid_post")]
    found = stream(model, ids, keep, [*requests, Request(Moments, (Site(None, "final"),))], batch=3)
    for i in range(LAYERS):
        expected = Moments(WIDTH)
        expected.add(states[i][keep], impl="reference")
        torch.testing.assert_close(found[2 * i].mean, expected.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[2 * i].m2, expected.m2, rtol=1e-5, atol=1e-6)
        if i + 1 < LAYERS:
            torch.testing.assert_close(found[2 * i + 1].mean, found[2 * i + 2].mean, rtol=1e-12, atol=1e-12)
    final = states[-1][keep].to(torch.float64)
    torch.testing.assert_close(found[-1].mean, final.mean(0), rtol=1e-5, atol=1e-6)


def test_every_site_means_what_it_says(model, text):
    """Each site against the sums the architecture is made of."""
    ids, keep = text
    seen = {}

    class Keep:
        def __init__(self, name):
            self.name = name

        def add(self, x, keep=None, start=0):
            seen[self.name] = x.clone()

    names = ["resid_pre", "attn_in", "z", "attn_out", "mlp_in", "mlp_pre", "mlp_post", "mlp_out", "resid_post"]
    names += ["mlp_up"] if model.layout.mlp_gated else []
    names += [] if model.layout.parallel else ["resid_mid"]
    stream(model, ids, None, [Request(Keep(name), (Site(1, name),)) for name in names], batch=len(ids))
    block = model.blocks[1]
    module = block.get_submodule
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    with torch.no_grad():
        close(seen["attn_in"], module(model.layout.attn_norm)(seen["resid_pre"]))
        close(seen["attn_out"], module(model.layout.attn_output)(seen["z"]))
        close(seen["mlp_out"], module(model.layout.mlp_output)(seen["mlp_post"]))
        close(seen["mlp_pre"], module(model.layout.mlp_input)(seen["mlp_in"]))
        act = module(model.layout.mlp).act_fn if model.layout.mlp_gated else module(model.layout.mlp).act
        close(seen["mlp_post"], act(seen["mlp_pre"]) * seen.get("mlp_up", 1.0))
        if model.layout.parallel:
            close(seen["resid_post"], seen["resid_pre"] + seen["attn_out"] + seen["mlp_out"])
        else:
            close(seen["resid_mid"], seen["resid_pre"] + seen["attn_out"])
            close(seen["mlp_in"], module(model.layout.mlp_norm)(seen["resid_mid"]))
            close(seen["resid_post"], seen["resid_mid"] + seen["mlp_out"])


def test_many_statistics_in_one_pass_equal_one_at_a_time(gpt2, text, tmp_path):
    ids, keep = text
    makers = [
        (Moments, (Site(0, "mlp_post"),), lambda s: s.variance),
        (Gram, (Site(0, "mlp_post"),), lambda s: s.matrix),
        (lambda n: SignCodes(n, sink=tmp_path / f"{n}.bin"), (Site(2, "mlp_pre"),), lambda s: torch.from_numpy(np.array(s.codes()))),
        (Similarity, (Site(0, "resid_pre"), Site(2, "resid_post")), lambda s: s.histogram),
        (lambda n: TopK(n, 3), (Site(1, "resid_mid"),), lambda s: s.positions),
    ]
    passes = []
    handle = gpt2.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        together = stream(gpt2, ids, keep, [Request(make, sites) for make, sites, _ in makers], batch=4, exclude_first=True)
    finally:
        handle.remove()
    assert len(passes) == 2  # seven sequences in batches of four, once
    for (make, sites, value), found in zip(makers, together):
        alone = stream(gpt2, ids, keep, [Request(make, sites)], batch=4, exclude_first=True)[0]
        assert torch.equal(value(alone), value(found))


@pytest.mark.parametrize("batch", [1, 2, 7, 50])
def test_the_size_of_batches_does_not_show(gpt2, text, batch):
    """The model's own products may differ in the last float32 digits with the batch, so they are taken from one run."""
    ids, keep = text
    fixed = {}
    for i in range(len(ids)):
        fixed[i] = hidden(gpt2, ids[i : i + 1])[1]

    class Replayed:
        """Feeds the statistics the same activations whatever the batch."""

        def __init__(self):
            self.moments, self.codes, self.top = Moments(WIDTH), SignCodes(WIDTH), TopK(WIDTH, 4)

        def add(self, x, keep=None, start=0):
            first = start // ids.shape[1]
            same = torch.cat([fixed[first + j][0] for j in range(len(x) // ids.shape[1])])
            torch.testing.assert_close(x, same, rtol=1e-4, atol=1e-5)
            for statistic in (self.moments, self.codes, self.top):
                statistic.add(same, keep=keep, start=start)

    found = stream(gpt2, ids, keep, [Request(Replayed(), (Site(0, "resid_post"),))], batch=batch, exclude_first=True)[0]
    counted = keep.clone()
    counted[:, 0] = False
    whole = torch.cat([fixed[i][0] for i in range(len(ids))])
    expected = Replayed()
    for statistic in (expected.moments, expected.codes, expected.top):
        statistic.add(whole, keep=counted.reshape(-1), impl="reference")
    assert found.moments.count == int(counted.sum())
    torch.testing.assert_close(found.moments.m2, expected.moments.m2, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.moments.mean, expected.moments.mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found.codes.codes(), expected.codes.codes())
    assert torch.equal(found.top.positions, expected.top.positions) and torch.equal(found.top.values, expected.top.values)


def test_padding_and_first_position_leave_no_trace(gpt2, text):
    """Whatever stands in the padding, the figures are the same; dropping the mask is noticed."""
    ids, keep = text
    other = torch.where(keep, ids, (ids + 31) % VOCABULARY)
    requests = [Request(Moments, (Site(1, "mlp_post"),)), Request(Gram, (Site(1, "resid_post"),))]
    first, second = stream(gpt2, ids, keep, requests), stream(gpt2, other, keep, requests)
    assert torch.equal(first[0].mean, second[0].mean) and torch.equal(first[1].matrix, second[1].matrix)
    unmasked = stream(gpt2, other, None, requests)
    assert not torch.allclose(unmasked[0].mean, first[0].mean)
    without = stream(gpt2, ids, keep, requests, exclude_first=True)
    assert without[0].count == first[0].count - len(ids) and not torch.allclose(without[0].mean, first[0].mean)


def test_logits_are_made_only_when_asked_for(gpt2, text):
    ids, keep = text
    heads = []
    handle = gpt2.module.lm_head.register_forward_hook(lambda *_: heads.append(1))
    blocks = []
    last = gpt2.blocks[2].register_forward_hook(lambda *_: blocks.append(1))
    try:
        stream(gpt2, ids, keep, [Request(Moments, (Site(1, "resid_post"),))])
        assert not heads and not blocks  # stopped after the second of three blocks
        gram = stream(gpt2, ids, keep, [Request(Gram, (Site(None, "logits"),))])[0]
        assert heads and blocks
    finally:
        handle.remove(), last.remove()
    rows = torch.cat([block for _, block in logits(gpt2, ids, batch=2)])
    expected = gpt2.logits(ids).reshape(-1, VOCABULARY)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)
    assert [start for start, _ in logits(gpt2, ids, batch=2)] == [0, 38, 76, 114]
    kept = expected[keep.reshape(-1)].to(torch.float64)
    torch.testing.assert_close(gram.matrix, kept.T @ kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, text):
    ids, keep = text
    model = make("gpt2", dtype)
    states = hidden(model, ids)
    moments, likeness = stream(
        model, ids, keep, [Request(Moments, (Site(1, "resid_pre"),)), Request(Similarity, (Site(1, "resid_pre"), Site(1, "resid_post")))]
    )
    kept = states[1][keep].to(torch.float64)
    torch.testing.assert_close(moments.mean, kept.mean(0), rtol=1e-6, atol=1e-9)
    assert 0.5 < likeness.cosine_mean <= 1.0


def test_hooks_are_gone_after_success_refusal_and_failure(gpt2, text):
    ids, keep = text
    before = gpt2.logits(ids)
    hooks = lambda: [(*m._forward_hooks, *m._forward_pre_hooks) for m in gpt2.module.modules()]  # noqa: E731
    theirs = hooks()  # transformers' own, which record hidden states

    class Broken:
        def add(self, x, keep=None, start=0):
            raise RuntimeError("broken on purpose")

    stream(gpt2, ids, keep, [Request(Moments, (Site(0, "z"),))])
    with pytest.raises(RuntimeError, match="on purpose"):
        stream(gpt2, ids, keep, [Request(Moments, (Site(0, "z"),)), Request(Broken(), (Site(1, "z"),))])
    with pytest.raises(Refused, match="blocks 0–2"):
        stream(gpt2, ids, keep, [Request(Moments, (Site(0, "z"),)), Request(Moments, (Site(3, "z"),))])
    with pytest.raises(NotApplicable, match="gated"):
        stream(gpt2, ids, keep, [Request(Moments, (Site(0, "mlp_up"),))])
    with pytest.raises(Refused, match="at least one sequence"):
        stream(gpt2, ids[:0], keep[:0], [Request(Moments, (Site(0, "z"),))])
    assert hooks() == theirs
    assert torch.equal(gpt2.logits(ids), before)


def test_progress_counts_sequences_and_can_stop_the_pass(gpt2, text):
    ids, keep = text
    steps = []

    class Progress:
        def step(self, i, n, message="", live=None):
            steps.append((i, n))
            if i >= 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(gpt2, ids, keep, [Request(Moments, (Site(0, "z"),))], batch=2, progress=Progress())
    assert steps == [(2, 7), (4, 7)]
    assert not gpt2.blocks[0].attn.c_proj._forward_pre_hooks


def test_statistics_can_be_used_outside_inference_mode(gpt2, text):
    ids, keep = text
    gram = stream(gpt2, ids, keep, [Request(Gram, (Site(0, "mlp_post"),))])[0]
    gram.merge(gram)  # in place
    weight = torch.zeros(gram.n_channels, dtype=torch.float64, requires_grad=True)
    (gram.matrix @ weight).sum().backward()
    assert weight.grad is not None


def test_memory_of_the_accumulators_does_not_grow_with_the_corpus(gpt2, tmp_path):
    """numpy's and Python's peak over ten times the tokens; per-token codes go to a file."""
    ids = torch.randint(0, VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(2))

    def peak(n):
        requests = [
            Request(lambda c: SignCodes(c, sink=tmp_path / f"{n}.bin"), (Site(0, "mlp_pre"),)),
            Request(Moments, (Site(0, "mlp_post"),)),
            Request(Similarity, (Site(0, "resid_pre"), Site(0, "resid_post"))),
        ]
        stream(gpt2, ids, None, requests)  # compiled and warm
        tracemalloc.start()
        stream(gpt2, ids.repeat(n, 1), None, requests)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    assert peak(10) < 1.25 * peak(1) + 20_000


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_bridge_gives_the_same_figures(family, text):
    """TransformerLens on the same weights: names of sites and figures must agree with ours."""
    from models.bridge import share

    ids, keep = text
    model = make(family)
    names = {"resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
    found = stream(model, ids, keep, [Request(Moments, (Site(1, name),)) for name in names], batch=3)
    cosine = stream(model, ids, keep, [Request(Similarity, (Site(1, "resid_pre"), Site(1, "resid_post")))])[0]
    bridge = share(model.module)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
    for moments, hook in zip(found, names.values()):
        expected = Moments(WIDTH)
        expected.add(cache[f"blocks.1.{hook}"][keep], impl="reference")
        torch.testing.assert_close(moments.mean, expected.mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(moments.m2, expected.m2, rtol=1e-4, atol=1e-6)
    a, b = (cache[f"blocks.1.hook_{name}"][keep].to(torch.float64) for name in ("resid_pre", "resid_post"))
    assert cosine.cosine_mean == pytest.approx(float(torch.cosine_similarity(a, b).mean()), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_activation_computed_while_looking_changes_nothing(family_model, text, dtype):
    """Logits, moments of mlp_post and codes of mlp_pre as from the model's own activation."""
    model = family_model(dtype)
    ids, keep = text
    apart = [*(Request(Moments, (Site(i, "mlp_post"),)) for i in range(LAYERS)), *(Request(SignCodes, (Site(i, "mlp_pre"),)) for i in range(LAYERS))]
    fused = [Request(capture_of(model), (Site(i, "mlp_act"),)) for i in range(LAYERS)]
    expected, found = stream(model, ids, keep, apart, batch=3), stream(model, ids, keep, fused, batch=3)
    near = dict(rtol=1e-5, atol=1e-6) if dtype == torch.float32 else dict(rtol=2e-2, atol=2e-3)
    for capture, moments, codes in zip(found, expected[:LAYERS], expected[LAYERS:]):
        assert capture.moments.count == moments.count == int(keep.sum())
        torch.testing.assert_close(capture.moments.mean, moments.mean, **near)
        torch.testing.assert_close(capture.moments.abs_max, moments.abs_max, **near)
        if dtype == torch.float32:
            assert np.array_equal(capture.codes.codes(), codes.codes()) and torch.equal(capture.codes.on_counts, codes.on_counts)
    (last,) = stream(model, ids, keep, [Request(Moments, (Site(None, "final"),))])
    _, beside = stream(model, ids, keep, [fused[0], Request(Moments, (Site(None, "final"),))])
    torch.testing.assert_close(beside.mean, last.mean, **near)
    assert all("forward" not in vars(block.get_submodule(model.layout.mlp)) for block in model.blocks)


def test_the_activation_is_computed_by_one_and_put_back_after_an_error(gpt2, text):
    ids, keep = text
    site = (Site(1, "mlp_act"),)
    with pytest.raises(Refused, match="ask for it once"):
        stream(gpt2, ids, keep, [Request(capture_of(gpt2), site), Request(capture_of(gpt2), site)])

    class Broken(MlpCapture):
        def activate(self, *given, **more):
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        stream(gpt2, ids, keep, [Request(lambda n: Broken(n, "gelu_tanh"), site)])
    assert "forward" not in vars(gpt2.blocks[1].mlp)


def test_a_forward_set_on_the_module_is_put_back(gpt2, text):
    """As accelerate sets one on layers that it brings from disk."""
    mlp, ids = gpt2.blocks[0].mlp, text[0]
    own = type(mlp).forward.__get__(mlp)
    mlp.forward = own
    try:
        stream(gpt2, ids, None, [Request(capture_of(gpt2), (Site(0, "mlp_act"),))])
        assert vars(mlp)["forward"] is own
    finally:
        del mlp.forward
    with pytest.raises(Refused, match="Block 9 does not exist"):
        stream(gpt2, ids, None, [Request(capture_of(gpt2), (Site(9, "mlp_act"),))])


def test_statistics_accumulate_where_the_model_runs_and_come_home(gpt2, text):
    """A statistic that says it lies on another device is brought to the activations, once, and back at the end."""
    moves = []

    class Elsewhere(Moments):
        away = torch.device("meta")

        @property
        def device(self):
            return self.away

        def to(self, device):
            moves.append(str(device))
            self.away = torch.device(device)

    ids, keep = text
    requests = [Request(make, (Site(layer, "z"),)) for layer, make in enumerate((Elsewhere, Elsewhere(WIDTH), Moments))]
    first, second, third = stream(gpt2, ids, keep, requests, batch=2)
    assert moves == ["cpu", "cpu", "meta", "meta"] and first.count == second.count == third.count == int(keep.sum())
    for statistic in (Moments(4), Gram(4), MlpCapture(4, "relu")):
        statistic.add(torch.randn(9, 4))
        statistic.to("cpu")
        assert statistic.device == torch.device("cpu")
