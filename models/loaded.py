"""A variant in memory: the transformers model, its tokenizer and its map, and what has been done to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from models.layout import Layout, Site, blocks, is_conv1d, locate, weight
from models.refusal import Refused


@dataclass(eq=False)
class Model:
    """What operators and analyses work on.

    `module` is transformers' own implementation, in eval mode, nothing folded. `removed` holds (layer, "attn" | "mlp") of
    masked sublayers: their output is exactly zero, names and indices stay. `layers` are the blocks not wholly removed, by
    their index in the unmodified checkpoint.
    """

    module: torch.nn.Module
    tokenizer: object
    layout: Layout
    written: str
    removed: frozenset[tuple[int, str]] = frozenset()
    bits: dict[str, float] = field(default_factory=dict)  # parameter name -> bits stored, where a step changed it
    forward_only: tuple[str, ...] = ()  # in words, what steps changed in the forward alone (by hooks on this module); no weight file carries it

    @property
    def config(self):
        return self.module.config

    @property
    def blocks(self) -> torch.nn.ModuleList:
        return blocks(self.module, self.layout)

    @property
    def n_layers(self) -> int:
        """Blocks of the unmodified checkpoint."""
        return len(self.blocks)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(i for i in range(self.n_layers) if not {(i, "attn"), (i, "mlp")} <= self.removed)

    @property
    def device(self) -> torch.device:
        """Where token ids go. Offloaded layers have no tensors between their turns; accelerate brings them to the CPU or GPU."""
        held = (p.device for p in self.module.parameters() if p.device.type != "meta")
        return next(held, torch.device("cpu"))

    def site(self, layer: int | None, name: str) -> tuple[torch.nn.Module, str]:
        return locate(self.module, self.layout, Site(layer, name))

    def matrix(self, layer: int, name: str) -> torch.Tensor:
        """One block matrix as [out, in]; a view of the weights, not to be written to. Refused for a layer offloaded to disk."""
        found = weight(self.blocks[layer].get_submodule(name))
        self._require_whole(found)
        return found

    def _require_whole(self, *tensors: torch.Tensor) -> None:
        if any(t.is_meta for t in tensors):
            raise Refused(f"Some blocks of {self.written} are offloaded to disk, where weights can be neither read nor changed as a matrix. Load the model whole: choose bfloat16, or a machine with more memory.")

    def matrices(self) -> Iterator[tuple[int, str, torch.Tensor]]:
        """(layer, name, weight [out, in]) of every attention and MLP matrix of the blocks that are left."""
        for layer in self.layers:
            for name in self.layout.matrices():
                yield layer, name, self.matrix(layer, name)

    def set_matrix(self, layer: int, name: str, value: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Replace one block matrix by `value` [out, in] (and its bias [out]); tensors shared with a parent stay untouched."""
        module = self.blocks[layer].get_submodule(name)
        self._require_whole(weight(module))
        if value.shape != weight(module).shape:
            raise Refused(f"{name} of block {layer} is {tuple(weight(module).shape)}, not {tuple(value.shape)}.")
        stored = value.T.contiguous() if is_conv1d(module) else value.contiguous()
        module.weight = torch.nn.Parameter(stored.to(module.weight), requires_grad=False)
        if bias is not None:
            module.bias = torch.nn.Parameter(bias.to(module.weight), requires_grad=False)

    def set_parameters(self, values: dict[str, torch.Tensor]) -> None:
        """Replace parameters by name, shapes as they are; tensors shared with a parent stay untouched, tied parameters stay tied."""
        places: dict[int, list] = {}
        named: dict[str, torch.nn.Parameter] = {}
        for path, module in self.module.named_modules():
            for kind, parameter in module.named_parameters(recurse=False):
                places.setdefault(id(parameter), []).append((module, kind))
                named[f"{path}.{kind}"] = parameter
        for name, value in values.items():
            if value.shape != named[name].shape:
                raise Refused(f"{name} is {tuple(named[name].shape)}, not {tuple(value.shape)}.")
            new = torch.nn.Parameter(value.to(named[name]).contiguous(), requires_grad=False)
            for module, kind in places[id(named[name])]:
                setattr(module, kind, new)

    def remove(self, sublayers: frozenset[tuple[int, str]]) -> None:
        """Mask sublayers: zero the last matrix and bias of each, so that it adds exactly nothing to the stream."""
        for layer, kind in sorted(sublayers - self.removed):
            name = self.layout.attn_output if kind == "attn" else self.layout.mlp_output
            module = self.blocks[layer].get_submodule(name)
            bias = torch.zeros_like(module.bias) if module.bias is not None else None
            self.set_matrix(layer, name, torch.zeros_like(weight(module)), bias)
        self.removed = self.removed | sublayers

    def copy(self, written: str) -> Model:
        """A second skeleton over the same tensors: replacing a parameter in one leaves the other alone."""
        self._require_whole(*self.module.parameters())
        shared = {id(t): t for t in (*self.module.parameters(), *self.module.buffers())}
        module = copy.deepcopy(self.module, memo=shared)
        return Model(module, self.tokenizer, self.layout, written, self.removed, dict(self.bits), self.forward_only)

    def logits(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [sequence, position, vocab] of ids [sequence, position]; no gradient."""
        with torch.inference_mode():
            return self.module(input_ids=ids.to(self.device), attention_mask=mask, use_cache=False).logits
