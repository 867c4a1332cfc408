"""Seconds of a forward pass, two modules in turn, so that a machine that grows busy slows both."""

from __future__ import annotations

import time

import numpy as np
import torch


def time_in_turn(a: torch.nn.Module, b: torch.nn.Module, vocab: int, length: int, repeats: int, progress) -> tuple[np.ndarray, np.ndarray]:
    """(seconds of a, seconds of b) [repeat] of one sequence of random tokens [1, length], head included; two passes of each before."""
    device = next(a.parameters()).device
    ids = torch.randint(vocab, (1, length), generator=torch.Generator().manual_seed(0)).to(device)
    seconds = np.zeros((2, repeats))
    with torch.inference_mode():
        for r in range(-2, repeats):
            for k, module in enumerate((a, b) if r % 2 else (b, a)):
                began = time.perf_counter()
                module(input_ids=ids, use_cache=False)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if r >= 0:
                    seconds[k if r % 2 else 1 - k, r] = time.perf_counter() - began
            progress.step(max(r, 0), max(repeats, 1), "timing A and B in turn")
    return seconds[0], seconds[1]


def ratio(a: np.ndarray, b: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Median seconds of b over a, with its 95 % interval from resampling the repeats in pairs; NaN without repeats."""
    if not len(a):
        return (float("nan"),) * 3
    drawn = np.random.default_rng(seed).integers(len(a), size=(resamples, len(a)))
    ratios = np.median(b[drawn], 1) / np.median(a[drawn], 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(b) / np.median(a)), float(low), float(high)
