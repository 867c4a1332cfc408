"""One thread for work in small pieces: they are done before other threads have woken, and on a busy machine waiting for these costs
several times the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(small: bool = True) -> Iterator[None]:
    """torch, the kernels, BLAS and scikit-learn on one thread inside the block; nothing is changed where `small` is False."""
    if not small:
        yield
        return
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
