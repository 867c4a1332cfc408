"""The MLP's activation computed by what looks at it: kernels.mlp_capture takes the place of the model's own activation call.

Only where the MLP is what its name says, output(f(input(x))) or output(f(gate(x)) · up(x)); its matrices are still called as
modules, so every hook on them works. Nothing else of the model changes, and everything is put back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from kernels.mlp_capture import MlpCapture
from models.loaded import Model
from models.refusal import NotApplicable, Refused

FUNCTIONS = {  # transformers' names -> kernels.mlp_capture's
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "silu": "silu", "swish": "silu", "relu": "relu",
}
PLAIN = ("GPT2MLP", "GPTNeoXMLP")
GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GemmaMLP", "Gemma2MLP", "Gemma3MLP")


def activation_of(model: Model) -> str:
    """The activation in kernels.mlp_capture's names; NotApplicable where the MLP cannot be fused."""
    config = model.config
    name = next((getattr(config, field) for field in ("activation_function", "hidden_activation", "hidden_act") if getattr(config, field, None)), "")
    mlp = type(model.blocks[0].get_submodule(model.layout.mlp)).__name__
    if name not in FUNCTIONS or mlp not in (*PLAIN, *GATED):
        raise NotApplicable(f"The activation of this MLP ({mlp}, {name or 'unnamed'}) cannot be computed and measured in one pass; known: "
                            f"{', '.join(FUNCTIONS)} in {', '.join((*PLAIN, *GATED))}. Ask for mlp_pre and mlp_post instead.")
    return FUNCTIONS[name]


@contextmanager
def activating(model: Model, layer: int, activate: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]) -> Iterator[None]:
    """While open, block `layer`'s MLP calls activate(pre [token, d_mlp], up or None) -> post for its activation."""
    if layer is None or not 0 <= layer < model.n_layers:
        raise Refused(f"Block {layer} does not exist; the model has blocks 0–{model.n_layers - 1}.")
    layout, block = model.layout, model.blocks[layer]
    mlp = block.get_submodule(layout.mlp)
    inner, outer = block.get_submodule(layout.mlp_input), block.get_submodule(layout.mlp_output)
    gate = block.get_submodule(layout.mlp_gated) if layout.mlp_gated else None

    def forward(x):
        pre = inner(x)
        up = None if gate is None else gate(x).flatten(0, -2)
        return outer(activate(pre.flatten(0, -2), up).view(pre.shape))

    before = vars(mlp).get("forward")  # accelerate's, where the layer is offloaded
    mlp.forward = forward  # found before the class's own; dropout is off in eval mode
    try:
        yield
    finally:
        if before is None:
            del mlp.forward
        else:
            mlp.forward = before


def capture_of(model: Model, **how) -> Callable[[int], MlpCapture]:
    """What a Request at the site `mlp_act` takes: `Request(capture_of(model, sink=path), (Site(3, "mlp_act"),))`."""
    activation = activation_of(model)
    return lambda n_channels: MlpCapture(n_channels, activation, device=model.device, **how)
