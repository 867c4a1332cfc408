"""What operator tests share: tiny models as operators get them, and a calibration text without a store."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from models.corpus import Tokens
from models.layout import layout_for
from models.loaded import Model
from models.progress import Quiet
from models.stream import stream
from tests import tiny

FAMILIES = ("gpt2", "llama")


def model_of(family: str, seed: int = 0, **shape) -> Model:
    """A tiny random model whose weights are large enough that changing them changes the logits."""
    module = {"gpt2": tiny.gpt2, "llama": tiny.llama}[family](seed=seed, **shape)
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        p.requires_grad_(False)
        if p.dim() == 2:
            p.copy_(torch.randn(p.shape, generator=generator) * (0.25 if min(p.shape) > 8 else 0.5))
        elif "bias" in name:
            p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
        else:
            p.copy_(1 + torch.randn(p.shape, generator=generator) * 0.2)
    return Model(module, tiny.tokenizer(), layout_for(module.config), f"tiny/{family}")


@dataclass(eq=False)
class Text:
    """A stand-in for models.capture.Capture: same methods, nothing kept."""

    subject: Model
    ids: torch.Tensor
    keep: torch.Tensor
    start: Model | None = None  # what the subject was made from, where that matters

    @contextmanager
    def model(self):
        yield self.subject

    @contextmanager
    def original(self):
        yield self.start or self.subject

    @property
    def tokens(self):
        return Tokens(self.ids.numpy(), self.keep.numpy(), {}, {})

    def beside(self, written):
        return text_for(self.subject, seed=7)

    def measure(self, requests, *, exclude_first=False, batch=8, progress=None):
        return stream(self.subject, self.ids, self.keep, requests, batch=batch, exclude_first=exclude_first, progress=progress)

    def keep_plan(self, name, parameters, make, plan_class, progress=None, beside=()):
        return make(progress or Quiet())

    def find_plan(self, name, parameters, make, plan_class):
        return None

    def keep_plans(self, name, parameters, make, plan_class, progress=None):
        return make(progress or Quiet(), list(range(len(parameters))))


def text_for(model: Model, n_sequences: int = 20, length: int = 24, seed: int = 0) -> Text:
    """Random tokens; the last sequences are padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 32, (n_sequences, length), generator=generator)
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[-2:, length // 2 :] = False
    ids[~keep] = 2
    return Text(model, ids, keep)


def planned(operator, model: Model, params=None, **fields):
    """(plan, variant) of an operator on a tiny model, decided on `text_for` where it is calibrated."""
    params = params or operator.Params(**fields)
    plan = operator.decide(model, params, text_for(model) if operator.calibrated(params) else None, Quiet())
    variant = model.copy("variant")
    operator.apply(variant, plan)
    return plan, variant


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    return {f"{layer}.{name}": w.clone() for layer, name, w in model.matrices()}
