"""How long work takes and how much memory it holds at most: CPU seconds of this process, or what lies between two CUDA events.

Two pieces of work are always timed in turns, so that a slow moment of the machine falls on both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 9
NO_GPU = "No CUDA device here: the GPU kernels are proved in logic only (Triton's interpreter); nothing of theirs is compiled or timed."


def cpu_seconds(function: Callable) -> float:
    """CPU time of this process, all threads together; other programs on the machine weigh less in it than on the clock."""
    start = time.process_time()
    function()
    return time.process_time() - start


def gpu_seconds(function: Callable) -> float:
    """From the first to the last of what the function hands to the current CUDA stream, waits for the host between them included."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def clock_of(device: str | torch.device) -> Callable[[Callable], float]:
    return gpu_seconds if torch.device(device).type == "cuda" else cpu_seconds


def against(ours: Callable, other: Callable, clock: Callable = cpu_seconds, repeats: int = REPEATS, warmup: int = 1) -> tuple[float, float, float]:
    """(seconds of ours, seconds of the other, ours / other): medians over pairs other, ours; the ratio is of each pair."""
    for _ in range(warmup):
        ours(), other()
    pairs = [(clock(other), clock(ours)) for _ in range(repeats)]
    return statistics.median(b for _, b in pairs), statistics.median(a for a, _ in pairs), statistics.median(b / a for a, b in pairs)


def bracketed(base: Callable, way: Callable, clock: Callable = cpu_seconds, repeats: int = REPEATS, warmup: int = 1) -> tuple[float, float, float, float]:
    """(base s, way s, way / mean of the two bases around it, quartile spread of base / base): medians over repeats of base, way, base."""
    for _ in range(warmup):
        base(), way()
    rows = []
    for _ in range(repeats):
        first, middle, last = clock(base), clock(way), clock(base)
        rows.append(((first + last) / 2, middle, 2 * middle / (first + last), last / first))
    spread = statistics.quantiles([row[3] for row in rows], n=4) if repeats > 1 else (0.0, 0.0, 0.0)
    return *(statistics.median(column) for column in list(zip(*rows))[:3]), spread[2] - spread[0]


def gpu_peak(function: Callable) -> int:
    """Bytes that the function's tensors held at most, beyond what was held before it, by torch's own count."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def gpu_in_words() -> str:
    """Name, memory and versions, for the head of a table; NO_GPU where there is none."""
    if not torch.cuda.is_available():
        return NO_GPU
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{device.name}, {device.total_memory / 1e9:.0f} GB, {device.multi_processor_count} multiprocessors, CUDA {torch.version.cuda}, torch {torch.__version__}, TF32 off"
