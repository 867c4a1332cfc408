"""A bare PyTorch state dict to safetensors, with `weights_only=True` and nothing to fall back on.

Called inside the fenced process for an upload, or by `python -m models.convert` on the owner's own machine. The restricted
unpickler refuses code; what it does accept is still checked: a tensor may claim more elements than its storage has
(stride 0), and training checkpoints wrap the weights in other things.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from models.refusal import Refused, shown

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
PREFIXES = ("_orig_mod.", "module.")
KEPT_SETTINGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")


def read(path: Path) -> tuple[dict, dict]:
    """(tensors by name, settings found beside them, for instance nanoGPT's model_args). Refused in words."""
    _container(path)
    loaded = _load(path)
    settings = _settings(loaded)
    state = _state(loaded, path.name)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    for name, tensor in state.items():
        _honest(name, tensor, path.name)
    return state, settings


def _container(path: Path) -> None:
    """A zip of torch.save stores its members uncompressed; anything that unpacks to more than the file is not one."""
    if path.stat().st_size == 0:
        raise Refused(f"{path.name} is empty. Upload it again.")
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as opened:
            infos = opened.infolist()
    except (zipfile.BadZipFile, UnicodeError, NotImplementedError) as error:
        raise Refused(f"{path.name} is a damaged zip. Save the checkpoint again.") from error
    if len(infos) > 100_000 or sum(info.file_size for info in infos) > 2 * path.stat().st_size + (1 << 20):
        raise Refused(f"{path.name} unpacks to more than it holds; torch.save does not compress. It is a zip bomb or damaged: save it again as safetensors.")
    if not any(info.filename.endswith("data.pkl") for info in infos):
        raise Refused(f"{path.name} is a zip without PyTorch's data.pkl. If it is an archive of a model's folder, name it .zip.")


def _load(path: Path) -> object:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {wanted[1]}, which is code" if wanted else "is not a plain table of tensors"
        raise Refused(
            f"{path.name} {what}; it was not opened and nothing ran. Save only the weights where you made it: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, AssertionError, OverflowError, UnicodeError, OSError, RecursionError) as error:
        raise Refused(f"{path.name} cannot be read as a PyTorch state dict ({type(error).__name__}). It is damaged or something else: save it again as safetensors.") from error


def _settings(loaded: object) -> dict:
    """Whole numbers and switches of `model_args` (nanoGPT) or `config`, bounded; all else is ignored."""
    for name in ("model_args", "config", "hparams"):
        found = loaded.get(name) if isinstance(loaded, dict) else None
        if isinstance(found, dict) and name == "model_args":
            return {k: v for k, v in found.items() if k in KEPT_SETTINGS and isinstance(v, (bool, int, float)) and abs(v) < 1 << 24}
    return {}


def _state(loaded: object, file: str) -> dict:
    import torch

    seen = 0
    while isinstance(loaded, dict) and seen < 3:
        if loaded and all(isinstance(v, torch.Tensor) and isinstance(k, str) for k, v in loaded.items()):
            return {name: value for name, value in loaded.items()}
        inner = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), dict)), None)
        if inner is None:
            break
        loaded, seen = inner, seen + 1
    kind = type(loaded).__name__
    keys = f" with {', '.join(shown(k, 40) for k in list(loaded)[:5])}" if isinstance(loaded, dict) else ""
    raise Refused(f"{file} holds a {kind}{keys}; expected a table from names to tensors (a state dict). Save model.state_dict() alone.")


def _honest(name: str, tensor, file: str) -> None:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise Refused(f"In {file}, tensor {shown(name, 80)} is {tensor.layout}, quantised or without data; expected plain dense numbers. Convert it where you made it.")
    held = tensor.untyped_storage().nbytes()
    claimed = tensor.numel() * tensor.element_size()
    if claimed > held:
        raise Refused(f"In {file}, tensor {shown(name, 80)} claims {claimed:,} bytes but holds {held:,} (stride 0). It was made by hand or expanded: save .contiguous() tensors.")


def write(state: dict, target: Path) -> None:
    """Plain safetensors; tied tensors are written once each, names kept."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, target, metadata={"format": "pt"})
