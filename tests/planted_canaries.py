"""Tiny GPT-2 models trained in seconds on a made-up language with sixteen strings in it that can only be known by heart."""

from dataclasses import dataclass

import torch

from metrics.extraction import Passages
from models.layout import layout_for
from models.loaded import Model
from tests import tiny

VOCAB, WORDS, LETTERS = 64, 16, 26  # the language uses the first WORDS tokens after the special ones, canaries the first LETTERS
PREFIX, SUFFIX, OFFSET = 8, 16, 6  # canaries stand at random offsets inside the language
LENGTH = 1 + PREFIX + SUFFIX + OFFSET
CANARIES, STEPS, MORE, RATE = 16, 1000, 40, 4e-3  # at most STEPS; MORE after all are known, the rate falling
SPARSE = 1.0  # times the mean activation of each MLP in the loss: without it memory spreads over all neurons and no small cut reaches it


@dataclass(frozen=True, eq=False)
class Trained:
    """`canaries` are known by heart, `fresh` have the same format and were never trained; natural ids [sequence, position]."""

    model: Model
    canaries: Passages
    fresh: Passages
    natural: torch.Tensor

    @property
    def counted(self) -> torch.Tensor:
        """The first three tokens of a natural sequence follow no rule."""
        keep = torch.ones_like(self.natural, dtype=torch.bool)
        keep[:, :3] = False
        return keep


def strings(n: int, generator: torch.Generator) -> Passages:
    ids = torch.randint(4, 4 + LETTERS, (n, 1 + PREFIX + SUFFIX), generator=generator)
    ids[:, 0] = 0
    return Passages(ids, torch.full((n,), 1 + PREFIX), torch.full((n,), 1 + PREFIX + SUFFIX), torch.arange(n))


def sentences(n: int, following: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A language of order two: after each pair of words one of three, with 80, 15 and 5 %."""
    ids = torch.zeros(n, LENGTH, dtype=torch.int64)
    ids[:, 1:3] = torch.randint(4, 4 + WORDS, (n, 2), generator=generator)
    for at in range(3, LENGTH):
        pick = torch.multinomial(torch.tensor([0.8, 0.15, 0.05]), n, True, generator=generator)
        ids[:, at] = following[ids[:, at - 1] - 4, ids[:, at - 2] - 4, pick]
    return ids


def train(seed: int) -> Trained:
    """2 blocks, d_model 96, d_mlp 384, ReLU; 22 rows a step, 12 of them with a canary in the middle of the language. Stops soon after all
    canaries are known: more training only makes them harder to cut. Some 15 CPU seconds."""
    from transformers import GPT2Config, GPT2LMHeadModel

    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    following = torch.randint(4, 4 + WORDS, (WORDS, WORDS, 3), generator=generator)
    canaries = strings(CANARIES, generator)
    module = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=96, n_head=4, n_inner=384, n_positions=48, vocab_size=VOCAB, activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0,
                                        attn_pdrop=0.0, bos_token_id=0, eos_token_id=1, pad_token_id=2))
    optimiser = torch.optim.AdamW(module.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    fired: list[torch.Tensor] = []
    hooks = [block.mlp.c_proj.register_forward_pre_hook(lambda _, args: fired.append(args[0].mean())) for block in module.transformer.h]
    step = last = 0
    while step < STEPS and not (last and step > last + MORE):
        rows = sentences(22, following, generator)
        for row, which in zip(rows, torch.randperm(CANARIES, generator=generator)[:12].tolist()):
            at = 1 + int(torch.randint(0, OFFSET + 1, (1,), generator=generator))
            row[at : at + PREFIX + SUFFIX] = canaries.ids[which, 1:]
        optimiser.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50, 1 - (step - last) / (MORE + 1) if last else 1)
        fired.clear()
        logits = module(input_ids=rows, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()) + SPARSE * sum(fired)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if not last and step % 20 == 0:
            with torch.no_grad():
                said = module(input_ids=canaries.ids).logits[:, PREFIX:-1].argmax(-1)
            last = step if bool((said == canaries.ids[:, PREFIX + 1 :]).all()) else 0
    for hook in hooks:
        hook.remove()
    for p in module.eval().parameters():
        p.requires_grad_(False)
    return Trained(Model(module, tiny.tokenizer(), layout_for(module.config), f"planted/{seed}"), canaries, strings(16, generator), sentences(96, following, generator))
