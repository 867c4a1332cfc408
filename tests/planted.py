"""A GPT-2 made by hand that adds and subtracts in every wording, with three heads and one MLP whose work is known.

    L0H1  looks at the operator (+, plus, sum, −, …) and writes which it is; where there is none, at <bos>, and writes that
    L1H0  if there is an operator, looks at the first number and writes it;  L1H2 the same for the last number
    MLP 2 one neuron for each problem: fires where operator, first and last number are those, and writes the answer

All other heads have random Q, K and V, and W_O zero; the other MLPs add nothing. With `twin`, L1H0 and L1H1 each write half of the
first number, so that the model needs both. LayerNorm's gain and bias undo it for the number of ones that END holds at each place.
"""

import re

import torch

from metrics.prompts.wordings import FORMS, NULLS, WORDINGS, problems
from models.layout import layout_for
from models.loaded import Model

PLANTED = {(0, 1), (1, 0), (1, 2)}
NUMBERS = [str(n) for n in range(19)]
OPERATOR_WORDS = {"plus": ("+", "plus", "sum"), "minus": ("-", "minus", "difference")}
N_POSITIONS, D_HEAD, N_HEADS = 24, 44, 4
SHARP = 40.0  # score of what a head looks for, over everything else


def words() -> list[str]:
    text = " ".join(w.text for w in WORDINGS) + " " + " ".join(v for form in (*FORMS.values(), *NULLS.values()) for v in form.values())
    found = dict.fromkeys(re.findall(r"\w+|[^\w\s]", re.sub(r"\{\w+\}", " ", text)))
    return ["<bos>", "<eos>", "<pad>", "<unk>", *NUMBERS, *(w for w in found if not w.isdigit())]


def tokenizer():
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words())}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "isolated")])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def model(twin: bool = False, seed: int = 0) -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    vocab = words()
    token = {w: i for i, w in enumerate(vocab)}
    d = N_HEADS * D_HEAD
    at = len(vocab)  # channels: one for each token, then
    position, at = at, at + N_POSITIONS
    operator, at = at, at + 3  # plus, minus, none
    first, at = at, at + 19
    last, at = at, at + 10
    answer, at = at, at + 19
    assert at <= d
    torch.manual_seed(seed)
    neurons = [(o, p) for o, name in enumerate(OPERATOR_WORDS) for p in problems(name, 9)]
    config = GPT2Config(n_layer=3, n_embd=d, n_head=N_HEADS, n_inner=len(neurons), n_positions=N_POSITIONS, vocab_size=len(vocab), activation_function="relu",
                        tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    module = GPT2LMHeadModel(config).eval().requires_grad_(False)
    module.transformer.wte.weight.zero_()[torch.arange(len(vocab)), torch.arange(len(vocab))] = 1.0
    module.transformer.wpe.weight.zero_()[torch.arange(N_POSITIONS), position + torch.arange(N_POSITIONS)] = 1.0
    for block in module.transformer.h:
        block.attn.c_attn.bias.zero_()
        for conv in (block.attn.c_proj, block.mlp.c_proj, block.mlp.c_fc):
            conv.weight.zero_(), conv.bias.zero_()
    _undo(module.transformer.h[0].ln_1, 2), _undo(module.transformer.h[1].ln_1, 3), _undo(module.transformer.h[2].ln_2, 5)
    numbers = torch.tensor([token[n] for n in NUMBERS])

    q, k, v, o = _parts(module.transformer.h[0].attn, 1)
    module.transformer.h[0].attn.c_attn.bias[D_HEAD] = SHARP * D_HEAD**0.5  # the query: always the same
    for i, names in enumerate(OPERATOR_WORDS.values()):
        for name in names:
            k[token[name], 0] = 1.0
            v[token[name], i] = 1.0
        o[i, operator + i] = 1.0
    k[token["<bos>"], 0], v[token["<bos>"], 2], o[2, operator + 2] = 0.5, 1.0, 1.0

    for heads, slot, slope, n in (((0, 1) if twin else (0,), first, -8.0, 19), ((2,), last, 8.0, 10)):
        for head in heads:
            q, k, v, o = _parts(module.transformer.h[1].attn, head)
            q[operator : operator + 2, 0] = D_HEAD**0.5
            k[numbers, 0] = 10 * SHARP
            k[position : position + N_POSITIONS, 0] = slope * torch.arange(N_POSITIONS)
            v[numbers, torch.arange(19)] = 1.0
            o[torch.arange(n), slot + torch.arange(n)] = 1 / len(heads)

    mlp = module.transformer.h[2].mlp
    for j, (o_index, p) in enumerate(neurons):
        mlp.c_fc.weight[[operator + o_index, first + p.a, last + p.b], j] = 1.0
        mlp.c_fc.bias[j] = -2.5
        mlp.c_proj.weight[j, answer + p.answer] = 4.0
    module.lm_head.weight.zero_()[numbers, answer + torch.arange(19)] = 1.0
    return Model(module, tokenizer(), layout_for(config), "planted/adder")


def _undo(norm, ones: int) -> None:
    """LayerNorm that leaves a vector of that many ones among zeros as it is."""
    d = norm.weight.numel()
    norm.weight.fill_((ones / d - (ones / d) ** 2 + norm.eps) ** 0.5)
    norm.bias.fill_(ones / d)


def _parts(attn, head: int) -> tuple[torch.Tensor, ...]:
    """Views of one head's Q, K, V [d, d_head] and O [d_head, d], set to zero."""
    d, here = attn.c_proj.weight.shape[0], slice(head * D_HEAD, (head + 1) * D_HEAD)
    parts = [attn.c_attn.weight[:, i * d : (i + 1) * d][:, here] for i in range(3)] + [attn.c_proj.weight[here]]
    for part in parts:
        part.zero_()
    return tuple(parts)
