"""From a name to a loaded model, checked at each step: resolve → check → load.

    resolve("demo/storyteller-a", home)   files, config, content hash; no weights read into memory, no torch imported
    check(checkpoint)                     config against tensor names and shapes, on the meta device
    load(checkpoint)                      (model, tokenizer): every tensor from the file, none random, none dropped

Sources: `demo/<name>`, `shelf/<alias>` (uploads and registered folders, models/shelf.py) and `owner/name` of a hub, which must
have been fetched (models/hub.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from models import configs, hashes, hub, skeleton, vocabulary, weights
from models import shelf as shelf_module
from models.headers import strict_json
from models.refusal import Refused
from models.shelf import ShelfEntry, register, shelf
from models.skeleton import Disagreement, Verdict

__all__ = ["Checkpoint", "Disagreement", "ShelfEntry", "Verdict", "check", "estimate", "load", "plain_vs_bridge", "register", "resolve", "shelf"]

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,127}\Z")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
HEADROOM = 256 << 20  # bytes left to the rest of the process


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine. `config` holds believed fields only; `dtype` is as stored (F32, BF16, …)."""

    source: str
    path: Path
    kind: str  # demo, folder, upload or hub
    files: tuple[str, ...]
    config: dict
    fingerprint: str
    revision: str | None
    n_parameters: int
    dtype: str
    has_tokenizer: bool
    card: dict | None = field(compare=False)
    left_out: tuple[str, ...] = ()

    @property
    def weights(self) -> weights.Weights:
        return weights.read(self.path)


def resolve(source: str, home: Path, revision: str | None = None, demo: Path | None = None) -> Checkpoint:
    """Find and read (not load) the checkpoint that `source` names; Refused in words when there is none or it is broken."""
    name, _, at = source.partition("@")
    revision = revision or at or None
    parts = name.split("/")
    if not all(_PART.match(part) for part in parts) or not 2 <= len(parts) <= 3:
        raise Refused(f"“{name[:80]}” is not a model's name; expected demo/<name>, shelf/<name> or owner/name of a hub.")
    if parts[0] == "demo":
        return _read(name, _demo_folder(parts[1:], demo), "demo", home)
    if len(parts) != 2:
        raise Refused(f"“{name[:80]}” is not a model's name; expected demo/<name>, shelf/<name> or owner/name of a hub.")
    if parts[0] == "shelf":
        entry = shelf_module.find(parts[1], home)
        if not entry.runnable:
            raise Refused(f"{name} can be inspected but not run. {entry.why}")
        if not Path(entry.path).is_dir():
            raise Refused(f"The folder of {name} is gone ({entry.title}). Put it back, or register its new place.")
        checkpoint = _read(name, Path(entry.path), entry.kind, home)
        if entry.fingerprint and checkpoint.fingerprint != entry.fingerprint:
            raise Refused(
                f"{name} stands for content {entry.fingerprint[:12]}, but its folder now holds {checkpoint.fingerprint[:12]}: "
                "the files were changed. Register the folder again to get a new name for the new weights."
            )
        return checkpoint
    folder, commit = hub.find(name, revision, home)
    return _read(name, folder, "hub", home, commit)


def _demo_folder(parts: list[str], demo: Path | None) -> Path:
    folder = (demo or shelf_module.DEMO).joinpath(*parts)
    if not (folder / "config.json").is_file():
        names = [entry.source for entry in shelf_module.demo_models(demo)]
        raise Refused(f"There is no demo model demo/{'/'.join(parts)}; the demo shelf has {', '.join(names[:6]) or 'none yet (make demo-models)'}.", details=tuple(names))
    return folder


def from_folder(source: str, folder: Path) -> Checkpoint:
    """A checkpoint by folder without the shelf: inside the intake, before it has a name."""
    return _read(source, folder, "upload", None)


def _read(source: str, folder: Path, kind: str, home: Path | None, revision: str | None = None) -> Checkpoint:
    """Parsed again only when a file of the folder is another one: a page asks for every model it names, at each rerun."""
    if not folder.is_dir():
        return _parsed.__wrapped__(source, folder, kind, home, revision, ())
    return _parsed(source, folder, kind, home, revision, weights.seen(folder))


@lru_cache(maxsize=64)
def _parsed(source: str, folder: Path, kind: str, home: Path | None, revision: str | None, now: tuple) -> Checkpoint:
    clean = configs.read(folder)
    table = weights.read(folder)
    files = shelf_module.files(folder)
    has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model"))
    return Checkpoint(
        source, folder, kind, files, clean.fields, hashes.of_files(folder, files, home), revision,
        table.n_parameters, table.dtype, has_tokenizer, _card(folder), clean.left_out,
    )


def _card(folder: Path) -> dict | None:
    path = folder / "card.json"
    if not path.is_file() or path.stat().st_size > 1 << 20:
        return None
    card = strict_json(path.read_bytes(), "card.json", 1 << 20)
    return card if isinstance(card, dict) else None


def check(checkpoint: Checkpoint) -> Verdict:
    """Config against the weights' names and shapes, before loading; raises Disagreement with the lists where they differ."""
    table = checkpoint.weights
    return skeleton.require(skeleton.verdict(_clean(checkpoint), table), table)


def estimate(checkpoint: Checkpoint, dtype: str = "float32") -> int:
    """Bytes that loading takes at its highest: the weights in `dtype` and the largest stored tensor once more."""
    table = checkpoint.weights
    return table.n_parameters * DTYPE_BYTES[dtype] + max(t.n_bytes for t in table.tensors.values())


def load(checkpoint: Checkpoint, dtype: str = "float32", device: str = "cpu", finite: bool = True, room: dict | None = None):
    """(model in eval mode, tokenizer or None). Refused instead of any random, dropped, resized or (`finite`) NaN tensor.

    `device`: cpu, cuda, cuda:1 … or "offload", where accelerate keeps on disk the layers that do not fit into `room`
    (bytes by device, for instance {"cpu": 4_000_000_000}; None: what is free now).
    """
    import torch

    if dtype not in DTYPE_BYTES:
        raise Refused(f"“{dtype}” is not a dtype this app runs; expected one of {', '.join(DTYPE_BYTES)}.")
    verdict = check(checkpoint)
    if device != "offload":
        _fits(verdict.float32_bytes * DTYPE_BYTES[dtype] // 4, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    config, _ = configs.build(_clean(checkpoint))
    if device == "offload":
        model, info = _offloaded(config, checkpoint.weights, dtype, room or _room())
    else:
        model, info = skeleton.assemble(config, _state(checkpoint.weights), dtype, {"": device})
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"] or info["error_msgs"]:
        raise Refused("The checkpoint changed while it was loaded: tensors are missing that were there. Load it again when no one writes to its folder.")
    _own_memory(model)
    if finite:
        _finite(model)
    model.eval().requires_grad_(False)
    return model, vocabulary.load(checkpoint.path, config.get_text_config().vocab_size)


def _clean(checkpoint: Checkpoint) -> configs.CleanConfig:
    return configs.CleanConfig(checkpoint.config, checkpoint.left_out)


def _state(table: weights.Weights) -> dict:
    """Every tensor of the files by name, memory-mapped."""
    from safetensors import SafetensorError, safe_open

    state = {}
    for file in table.files:
        try:
            with safe_open(table.folder / file, framework="pt") as reader:
                state.update((name, reader.get_tensor(name)) for name in reader.keys())
        except SafetensorError as error:
            raise Refused(f"{file} cannot be read: {configs.first_line(error)}. Save it again with safetensors.") from error
    return state


def _offloaded(config, table: weights.Weights, dtype: str, room: dict):
    """Layers beyond `room` stay in a temporary folder that lives as long as the model and are read at each forward."""
    import tempfile

    folder = tempfile.TemporaryDirectory(prefix="microtome-offload-")
    model, info = skeleton.assemble(config, _state(table), dtype, "auto", offload_folder=folder.name, max_memory=room)
    model.offload_folder = folder
    return model, info


def _room() -> dict:
    """What is free now, per device as accelerate names them."""
    import torch

    gpus = {i: available(f"cuda:{i}") - HEADROOM for i in range(torch.cuda.device_count())} if torch.cuda.is_available() else {}
    return {**gpus, "cpu": available("cpu") - HEADROOM}


def _own_memory(model) -> None:
    """Copy parameters out of the memory map: a file rewritten later must not change a loaded model, nor a cut one end the process."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _finite(model) -> None:
    import torch

    broken = [name for name, p in model.named_parameters() if p.device.type != "meta" and not torch.isfinite(p).all()]
    if broken:
        raise Refused(
            f"{len(broken)} tensors hold NaN or infinity (the first is {broken[0]}); every output would be NaN. "
            "The checkpoint diverged or is damaged: take an earlier one. Its tensors can still be inspected.",
            details=tuple(broken),
        )


def available(device: str) -> int:
    """Free bytes on `device`: memory of the machine (or of its control group), or of the GPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(device))[0]
    import psutil

    free = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text) - int(used.read_text()))
    return free


def _fits(needed: int, device: str) -> None:
    free = available(device)
    if needed + HEADROOM > free:
        raise Refused(
            f"The model needs {needed / 1e9:.2f} GB on {device} and {free / 1e9:.2f} GB are free ({HEADROOM / 1e9:.2f} GB stay in reserve). "
            "Choose bfloat16, another device or a smaller model, or close a loaded one."
        )


def plain_vs_bridge(checkpoint: Checkpoint, n_tokens: int = 16) -> float:
    """Largest absolute logit difference between the plain float32 forward and TransformerLens's bridge on the same weights."""
    import torch

    from models import bridge

    model, _ = load(checkpoint)
    text_config = model.config.get_text_config()
    length = min(n_tokens, getattr(text_config, "max_position_embeddings", n_tokens))
    ids = torch.randint(text_config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = model(input_ids=ids, use_cache=False).logits
        bridged = bridge.share(model)(ids, return_type="logits")
    return float((plain - bridged).abs().max())
