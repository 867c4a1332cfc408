"""Do the config and the weights belong together? Asked of transformers itself, on the meta device, before anything is loaded.

The model class is built without memory and given meta tensors of the shapes that the headers list. transformers then
reports what it would have filled with random numbers, dropped or resized, with its own renaming and tying rules; the real
load (checkpoints.load) takes the same path with the same names.
"""

from __future__ import annotations

import contextlib
import logging
import re
from dataclasses import dataclass

from models import configs
from models.configs import CleanConfig
from models.refusal import Refused
from models.weights import Weights

_BLOCK = re.compile(r"(?:^|\.)(?:h|layers|layer|blocks|block)\.(\d+)\.")
TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}
MAX_BUFFERS = 1 << 30  # bytes; real models have megabytes
MUCH_MORE = 64  # announced blocks beyond this and beyond those found are not even built on meta
BUILD_ERRORS = (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError, AssertionError, ZeroDivisionError, OverflowError, MemoryError, ImportError)


@dataclass(frozen=True)
class Verdict:
    """The comparison of config and weights. `mismatched` holds (name, shape found, shape expected)."""

    architecture: str  # class name, for instance LlamaForCausalLM
    n_blocks_found: int
    n_blocks_expected: int | None
    n_found: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    float32_bytes: int  # parameters and buffers of the built model
    left_out: tuple[str, ...]  # config fields that were not believed

    @property
    def agrees(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)


class Disagreement(Refused):
    """Config and weights do not fit; the three parts are what an error card shows."""

    def __init__(self, found: str, expected: str, todo: str, details: tuple[str, ...], verdict: Verdict | None = None):
        super().__init__(f"This checkpoint and its config disagree. Found {found}; expected {expected}. {todo}", details=details)
        self.found, self.expected, self.todo, self.verdict = found, expected, todo, verdict


def n_blocks(weights: Weights) -> int:
    """Number of different block indices in the tensor names (`h.3.`, `layers.3.`, `blocks.3.`)."""
    return len({match[1] for match in map(_BLOCK.search, weights.tensors) if match})


def verdict(config: CleanConfig, weights: Weights) -> Verdict:
    """Compare on the meta device; Refused when the class cannot be built at all."""
    import torch

    announced, found = configs.n_layers(config.fields), n_blocks(weights)
    if announced is not None and announced > max(MUCH_MORE, 2 * found):
        raise Disagreement(
            f"{found} blocks of weights in {weights.files[0]}, {len(weights.tensors)} tensors", f"{announced:,} blocks, from config.json",
            f"Set the number of layers to {found}, or add the missing shards, then open it again.", (),
        )
    odd = sorted({t.dtype for t in weights.tensors.values()} - set(TORCH))
    if odd:
        raise Refused(f"The weights are stored as {', '.join(odd)}; this app runs {', '.join(TORCH)}. Dequantise the model and save it again; its tensors can still be inspected.")
    built, left_out = configs.build(config)
    _bounded_buffers(built)
    empty = {name: torch.empty(t.shape, dtype=getattr(torch, TORCH[t.dtype]), device="meta") for name, t in weights.tensors.items()}
    model, info = assemble(built, empty, "float32", {"": "meta"}, ignore_mismatched_sizes=True)
    size = sum(t.numel() * (4 if t.is_floating_point() else t.element_size()) for t in (*model.parameters(), *model.buffers()))
    return Verdict(
        type(model).__name__, found, announced, len(weights.tensors),
        tuple(sorted(info["missing_keys"])), tuple(sorted(info["unexpected_keys"])),
        tuple(sorted((name, tuple(had), tuple(wanted)) for name, had, wanted in info["mismatched_keys"])),
        size, config.left_out + left_out,
    )


def _bounded_buffers(config) -> None:
    """Masks and tables that the class makes for itself, before they are made: positions × positions can be petabytes."""
    import torch

    kind = model_class(config)
    try:
        with quiet(), torch.device("meta"):
            model = kind(config)
    except BUILD_ERRORS as error:
        raise Refused(f"No {kind.__name__} can be built from this config.json: {configs.first_line(error)}. Use the one saved with the weights.") from error
    size = sum(b.numel() * b.element_size() for b in model.buffers())
    if size > max(MAX_BUFFERS, 4 * sum(p.numel() for p in model.parameters())):
        raise Refused(f"config.json asks for {size / 1e9:,.0f} GB of masks and tables beside the weights (usually from its number of positions). Correct it to what the weights were saved with.")


def model_class(config) -> type:
    """transformers' causal language model for a config object."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def require(verdict: Verdict, weights: Weights) -> Verdict:
    """The verdict itself where all fits, otherwise Disagreement with counts, the list and what to do."""
    if verdict.agrees:
        return verdict
    details = (
        *(f"missing: {name}" for name in verdict.missing),
        *(f"unexpected: {name}" for name in verdict.unexpected),
        *(f"mismatched: {name} is {_shape(had)}, config wants {_shape(wanted)}" for name, had, wanted in verdict.mismatched),
    )
    counts = [f"{len(part)} {word}" for part, word in (
        (verdict.missing, "would be random"), (verdict.unexpected, "would be dropped"), (verdict.mismatched, "have another shape"))if part]
    found, wanted = verdict.n_blocks_found, verdict.n_blocks_expected
    if wanted is not None and found != wanted:
        todo = f"Set the number of layers in config.json to {found}, or add the missing shards, then open it again."
        expected = f"{wanted} blocks, from config.json: of the tensors {', '.join(counts)}"
    else:
        todo = "Use the config.json that was saved with these weights, then open it again."
        expected = f"the tensors of a {verdict.architecture} as config.json describes it: {', '.join(counts)}"
    raise Disagreement(f"{found} blocks of weights in {weights.files[0]}, {verdict.n_found} tensors", expected, todo, details, verdict)


def assemble(config, state: dict, dtype: str, device_map: dict | str, **options):
    """(model, loading info) from tensors by name: transformers' own loading, without files, prompts, progress bars or tables."""
    import torch

    kind = model_class(config)
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    try:
        with quiet():
            return kind.from_pretrained(
                None, config=config, state_dict=state, dtype=getattr(torch, dtype), device_map=device_map, attn_implementation=attention,
                output_loading_info=True, trust_remote_code=False, use_safetensors=True, **options,
            )
    except BUILD_ERRORS as error:
        raise Refused(f"No {kind.__name__} can be built from this config.json: {configs.first_line(error)}. Use the one saved with the weights.") from error


@contextlib.contextmanager
def quiet():
    """transformers' loading table and bar off inside the block: what they would say is in the verdict."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level, bars = logger.level, transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
