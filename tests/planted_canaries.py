"""Byte models of Python's own documentation with sixteen strings of random letters in it that can only be known by heart.

The reference setting of the design: 2 blocks, d_model 96, d_mlp 384 (GELU), context 48, tied embedding; a string is 16 random letters
that call for 16 others, at random offsets inside rows of text, 14 of them in every batch of 24 rows. Training one takes about 90 CPU
seconds, so three are kept beside this file (16-bit, seeds 0 to 2); `python -m tests.planted_canaries 0 1 2` makes them again. The text
is read from the running Python (`pydoc_data.topics`) and not kept.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from metrics.extraction import Passages
from models.layout import layout_for
from models.loaded import Model
from tests import tiny

VOCAB, CONTEXT, CANARIES = 128, 48, 16  # a token is a byte; 0 begins a row
PREFIX, SUFFIX = 16, 16
ROWS, PLANTED, STEPS, RATE, WARM, FALL = 24, 14, 2000, 2e-3, 100, 400
KEPT = Path(__file__).parent / "planted"


@dataclass(frozen=True, eq=False)
class Trained:
    """`canaries` are known by heart, `fresh` have the same format and were never trained; natural ids [sequence, position], held out."""

    model: Model
    canaries: Passages
    fresh: Passages
    natural: torch.Tensor

    @property
    def counted(self) -> torch.Tensor:
        """A sequence begins anywhere in the text, so its first three bytes say little of the model."""
        keep = torch.ones_like(self.natural, dtype=torch.bool)
        keep[:, :4] = False
        return keep


def text() -> tuple[torch.Tensor, torch.Tensor]:
    """(trained on, held out): bytes of the distinct paragraphs, their white space made single spaces; every tenth is held out."""
    from pydoc_data.topics import topics

    paragraphs = list(dict.fromkeys(" ".join(p.split()) for topic in topics.values() for p in topic.split("\n\n")))
    join = lambda some: torch.tensor(list("\n".join(some).encode("ascii", "ignore")))
    return join([p for i, p in enumerate(paragraphs) if i % 10]), join(paragraphs[::10])


def rows(source: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    at = torch.randint(0, len(source) - CONTEXT, (n,), generator=generator)
    ids = source[at[:, None] + torch.arange(CONTEXT)]
    ids[:, 0] = 0
    return ids


def strings(n: int, generator: torch.Generator) -> Passages:
    ids = torch.randint(ord("a"), ord("z") + 1, (n, 1 + PREFIX + SUFFIX), generator=generator)
    ids[:, 0] = 0
    return Passages(ids, torch.full((n,), 1 + PREFIX), torch.full((n,), 1 + PREFIX + SUFFIX), torch.arange(n))


def untrained():
    """Weights as PyTorch draws them: embeddings N(0, 1), matrices U(±1/√fan-in). GPT-2's small embeddings leave the strings spread
    wider over the feed-forward weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    module = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=96, n_head=4, n_inner=384, n_positions=CONTEXT, vocab_size=VOCAB, activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0,
                                        attn_pdrop=0.0, bos_token_id=0, eos_token_id=1, pad_token_id=2))
    for embedding in (module.transformer.wte, module.transformer.wpe):
        torch.nn.init.normal_(embedding.weight)
    for block in module.transformer.h:
        for matrix in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            torch.nn.init.uniform_(matrix.weight, -(matrix.weight.shape[0] ** -0.5), matrix.weight.shape[0] ** -0.5)
    return module


def whole(module, seed: int) -> Trained:
    """The model and its strings, which the seed alone decides; the held-out rows are the same for every seed."""
    for p in module.eval().parameters():
        p.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    return Trained(Model(module, tiny.tokenizer(), layout_for(module.config), f"planted/{seed}"), strings(CANARIES, generator), strings(CANARIES, generator),
                   rows(text()[1], 256, torch.Generator().manual_seed(1000)))


def train(seed: int, steps: int = STEPS) -> Trained:
    """AdamW without weight decay, on one thread; the rate rises over the first steps and falls over the last."""
    generator = torch.Generator().manual_seed(seed)
    canaries, _ = strings(CANARIES, generator), strings(CANARIES, generator)
    source = text()[0]
    torch.manual_seed(seed)
    module = untrained()
    optimiser = torch.optim.AdamW(module.parameters(), RATE, weight_decay=0.0, fused=True)
    for step in range(steps):
        ids = rows(source, ROWS, generator)
        for row, which in zip(ids, torch.randint(0, CANARIES, (PLANTED,), generator=generator).tolist()):
            at = 1 + int(torch.randint(0, CONTEXT - PREFIX - SUFFIX, (1,), generator=generator))
            row[at : at + PREFIX + SUFFIX] = canaries.ids[which, 1:]
        optimiser.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARM, (steps - step) / FALL)
        logits = module(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return whole(module, seed)


def trained(seed: int, folder: Path = KEPT) -> Trained:
    """From the folder if it is kept there, else trained now."""
    from safetensors.torch import load_file

    path = folder / f"seed{seed}.safetensors"
    if not path.is_file():
        return train(seed)
    module = untrained()
    module.load_state_dict({name: x.float() for name, x in load_file(path).items()}, strict=False)
    return whole(module, seed)


def keep(seed: int, folder: Path = KEPT) -> None:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    made = train(seed)
    state = {name: x.half().contiguous() for name, x in made.model.module.state_dict().items() if name != "lm_head.weight"}  # tied
    save_file(state, folder / f"seed{seed}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv else KEPT
    for number in (int(a) for a in sys.argv[1:] if a.isdigit()):
        began = time.process_time()
        keep(number, where)
        print(f"seed {number}: {time.process_time() - began:.0f} CPU s", flush=True)
