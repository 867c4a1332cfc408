"""What every statistic does with its tokens: check them, cut them into fixed chunks, hand the chunks to threads.

Chunks are cut by token index and folded in that order, so results do not depend on the number of threads.
Threads are plain Python threads around compiled functions that release the GIL: no numba threading layer is started, so the
`workqueue` layer (which aborts the process when two threads enter a parallel kernel) can never be met.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

CHUNK = 512  # tokens handed to one compiled call
PARALLEL_FROM = 1 << 18  # elements; below this, handing work to a thread costs more than it saves


def check(x: torch.Tensor, n_channels: int, keep: torch.Tensor | None) -> None:
    """x must be [token, n_channels] in a float dtype, keep bool [token] on the same device; ValueError otherwise."""
    if x.dim() != 2 or x.shape[1] != n_channels:
        raise ValueError(f"Expected [token, {n_channels}], found {list(x.shape)}.")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f"Expected float32, bfloat16, float16 or float64, found {x.dtype}.")
    if keep is not None and (keep.dtype != torch.bool or keep.shape != x.shape[:1] or keep.device != x.device):
        raise ValueError(f"keep must be bool [{x.shape[0]}] on {x.device}, found {keep.dtype} {list(keep.shape)} on {keep.device}.")


def chosen(x: torch.Tensor, impl: str | None) -> str:
    """The implementation to use: what was asked for, or what the tensor's device calls for."""
    impl = impl or ("gpu" if x.is_cuda else "cpu")
    if impl not in ("reference", "cpu", "gpu"):
        raise ValueError(f"Unknown implementation “{impl}”; known: reference, cpu, gpu.")
    return impl


def block(x: torch.Tensor, lo: int, hi: int) -> np.ndarray:
    """Tokens lo:hi as a C-contiguous float32 array [token, channel]; a view when x already is one."""
    part = x[lo:hi]
    if part.dtype != torch.float32:
        part = part.to(torch.float32)
    return part.detach().contiguous().numpy()


def kept_rows(keep: torch.Tensor | None, lo: int, hi: int) -> np.ndarray:
    """Indices of the kept tokens of lo:hi, counted from lo; int64."""
    if keep is None:
        return np.arange(hi - lo, dtype=np.int64)
    return np.flatnonzero(keep[lo:hi].numpy()).astype(np.int64, copy=False)


def spans(n_tokens: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    for lo in range(0, n_tokens, size):
        yield lo, min(lo + size, n_tokens)


@lru_cache(maxsize=1)
def _pool(pid: int, n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads - 1, thread_name_prefix="kernels")


def over_chunks(function: Callable[[int, int], object], n_tokens: int, width: int, size: int = CHUNK) -> list:
    """[function(lo, hi) for each chunk], in order of lo, on torch's number of threads when the work is worth it."""
    cuts = list(spans(n_tokens, size))
    n_threads = min(torch.get_num_threads(), len(cuts))
    if n_threads < 2 or n_tokens * width < PARALLEL_FROM:
        return [function(lo, hi) for lo, hi in cuts]
    pool = _pool(os.getpid(), torch.get_num_threads())
    mine = cuts[::n_threads]
    others = [(i, pool.submit(function, *cut)) for i, cut in enumerate(cuts) if i % n_threads]
    results = dict(zip(range(0, len(cuts), n_threads), [function(lo, hi) for lo, hi in mine]))
    results.update((i, future.result()) for i, future in others)
    return [results[i] for i in range(len(cuts))]
