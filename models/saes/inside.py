"""An SAE inside its model: the activations it reads, and other activations put in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from models.layout import Site, locate
from models.loaded import Model
from models.refusal import Refused
from models.saes.dictionary import Sae


def require_fit(sae: Sae, model: Model) -> None:
    """Refused where the SAE cannot read this model's activations at its site."""
    if not 0 <= sae.site.layer < model.n_layers:
        raise Refused(f"{sae.name} reads at block {sae.site.layer}; {model.written} has blocks 0–{model.n_layers - 1}. Choose an SAE trained for this model.")
    found = width(model, sae.site)
    if found != sae.d_in:
        raise Refused(f"{sae.name} reads {sae.d_in} channels; {sae.site.written} of {model.written} has {found}. Choose an SAE trained for this model.")


def width(model: Model, site: Site) -> int:
    """Channels at a site."""
    return activations(model, site, torch.zeros(1, 1, dtype=torch.int64)).shape[-1]


def activations(model: Model, site: Site, ids: torch.Tensor) -> torch.Tensor:
    """float32 [sequence, position, channel] at a site for ids [sequence, position]; blocks after it are not run."""
    module, side = locate(model.module, model.layout, site)
    held = []

    def see(x):
        held.append(x)
        raise _Seen

    with torch.no_grad(), _attached(module, side, see):
        try:
            model.module.get_submodule(model.layout.base)(input_ids=ids.to(model.device), use_cache=False)
        except _Seen:
            pass
    return held[0].float()


class _Seen(Exception):
    """The site has been read; the rest of the forward is not needed."""


@contextmanager
def replacing(model: Model, site: Site, edit: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """While open, the activation x [sequence, position, channel] at a site is edit(x), whatever runs the model."""
    module, side = locate(model.module, model.layout, site)
    with _attached(module, side, edit):
        yield


@contextmanager
def _attached(module, side: str, edit) -> Iterator[None]:
    def before(module, args, kwargs):
        if args:
            return (edit(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": edit(kwargs["hidden_states"])}

    def after(module, args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    hook = module.register_forward_pre_hook(before, with_kwargs=True) if side == "input" else module.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


def through(sae: Sae) -> Callable[[torch.Tensor], torch.Tensor]:
    """The edit that puts the SAE's reconstruction in place of what it reads. The first token stays: its activation is unlike all
    others (it draws attention, not content), and SAEs are commonly trained without it."""

    def edit(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :1], sae.reconstruct(x[:, 1:]).to(x.dtype)], 1)

    return edit


def emptied(x: torch.Tensor) -> torch.Tensor:
    """The edit that zeroes a site, first token aside: the floor that “cross-entropy recovered” is counted from."""
    return torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], 1)
