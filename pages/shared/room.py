"""How much memory a checkpoint takes beside how much is free, before it is loaded: the words, and whether it fits."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path

from models import checkpoints
from models.weights import Weights
from pages.shared.wording import size

OFFLOAD = "offload"  # a place beside the devices: layers that do not fit stay on disk
SLOWER = "read at every pass, many times slower"


@lru_cache(maxsize=1)
def devices() -> tuple[str, ...]:
    """cpu, and the CUDA devices whose drivers stand in /proc; no CUDA context is made in this process."""
    cards = Path("/proc/driver/nvidia/gpus")
    n = len(list(cards.iterdir())) if cards.is_dir() else 0
    return ("cpu", *(f"cuda:{i}" for i in range(n)))


def free_on(device: str) -> int:
    """Free bytes; of a GPU as its driver says, since asking through PyTorch would make this process one of its users."""
    if device == "cpu":
        return checkpoints.available("cpu")
    asked = ["nvidia-smi", f"--id={device.partition(':')[2]}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(asked, capture_output=True, text=True, timeout=5).stdout.strip()) << 20
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


def needs(table: Weights, dtype: str) -> int:
    """Bytes at the highest while it is loaded: the weights in `dtype`, and the largest stored tensor once more."""
    return table.n_parameters * checkpoints.DTYPE_BYTES[dtype] + max(t.n_bytes for t in table.tensors.values())


def fits(needed: int, free: int) -> bool:
    return needed + checkpoints.HEADROOM <= free


def said(needed: int, free: int | None, device: str) -> str:
    """A line for the page, red where it does not fit."""
    if device == OFFLOAD:
        return f"takes {size(needed)} in all; layers that do not fit stay on disk, {SLOWER}"
    if not fits(needed, free):
        return f":red[takes {size(needed)}, more than the {size(max(free - checkpoints.HEADROOM, 0))} that {device} can give]; choose a smaller dtype or offload"
    return f"takes {size(needed)} of the {size(free)} free on {device}"
