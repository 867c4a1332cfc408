"""The GPU half of `python -m kernels.bench`: share of the copy bandwidth, or of the matrix rate, that each kernel reaches.

Copying moves each byte twice, in and out, so a kernel that moves b bytes in t seconds is held against 2 B / T of one copy of B
bytes in T. Times are CUDA events (kernels.timing), each kernel in turns with what stands beside it. Nothing here names CUDA: with
another clock the same code runs on any device, which is how it is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels.gram import Gram
from kernels.logprob_compare import LogProbCompare
from kernels.mlp_capture import MlpCapture
from kernels.moments import Moments
from kernels.sae_pool import SaePool
from kernels.sign_codes import SignCodes
from kernels.similarity import Similarity
from kernels.timing import against, gpu_seconds

TARGET, WARMUP = 0.7, 3  # share of the device's own rate; runs before the first that counts (compilation, clocks)


def streaming(device: str, clock: Callable, repeats: int, n: int = 65536, c: int = 2048, dtype: torch.dtype = torch.float32) -> list[dict]:
    """Kernels bound by moving bytes, on activations [n, c]."""
    x, y = (torch.randn(n, c, device=device, dtype=dtype) for _ in range(2))
    moments, codes, likeness = Moments(c, device=device), SignCodes(c, keep_codes=False), Similarity()
    capture = MlpCapture(c, "gelu_tanh", keep_codes=False, device=device)
    one, packed = x.nbytes, n * -(-c // 64) * 8
    work = (
        ("moments", lambda: moments.add(x, impl="gpu"), one),
        ("sign codes", lambda: codes.add(x, impl="gpu"), one + packed),
        ("similarity", lambda: likeness.add(x, y, impl="gpu"), 2 * one),
        ("fused MLP capture", lambda: capture.add(x, impl="gpu"), 2 * one + packed),
    )
    return [_moved(name, f"[{n}, {c}] {_name(dtype)}", function, moved, x, clock, repeats) for name, function, moved in work]


def logits(device: str, clock: Callable, repeats: int, n: int = 2048, v: int = 50257, dtype: torch.dtype = torch.float32) -> list[dict]:
    """The comparison of two logit blocks: both are read once."""
    a = 3 * torch.randn(n, v, device=device, dtype=dtype)
    b, targets, statistic = a + 0.3 * torch.randn_like(a), torch.randint(0, v, (n,), device=device), LogProbCompare()
    return [_moved("log-prob compare", f"[{n}, {v}] {_name(dtype)}", lambda: statistic.add(a, b, targets, impl="gpu"), 2 * a.nbytes, a, clock, repeats)]


def products(device: str, clock: Callable, repeats: int, n: int = 16384, c: int = 2048, d: int = 512, latents: int = 16384, k: int = 32) -> list[dict]:
    """Kernels bound by products, in full float32, against the library's product of the same matrices."""
    x, h = torch.randn(n, c, device=device), torch.randn(n, d, device=device)
    gram = Gram(c, device=device)
    sae = SaePool(torch.randn(d, latents, device=device) / d**0.5, torch.zeros(latents, device=device) - 1, torch.zeros(d, device=device), k=k, length=256)
    sae.bias = sae.bias.to(device)
    pairs = (
        ("gram", f"[{n}, {c}] float32", lambda: gram.add(x, impl="gpu"), "xᵀx in full", lambda: x.T @ x),
        ("SAE encode, top-k", f"[{n}, {d}] → {latents}, k={k}", lambda: sae.codes_of(h, impl="gpu"), "the encoder's product", lambda: h @ sae.weight),
    )
    rows = []
    for name, size, ours, beside, other in pairs:
        seconds, reference, ratio = against(ours, other, clock, repeats, WARMUP)
        rows.append(row(name, size, seconds, beside, reference, 1 / ratio, f"≥ {TARGET} of the rate", 1 / ratio >= TARGET))
    return rows


def _moved(name: str, size: str, ours: Callable, moved: int, x: torch.Tensor, clock: Callable, repeats: int) -> dict:
    into = torch.empty_like(x)
    seconds, copying, ratio = against(ours, lambda: into.copy_(x), clock, repeats, WARMUP)
    share = moved / (2 * x.nbytes) / ratio
    return row(name, size, seconds, "one copy of the first operand", copying, share, f"≥ {TARGET} of copy bandwidth", share >= TARGET)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def row(kernel: str, size: str, seconds: float, beside: str, other: float, ratio: float, target: str, met: bool | None) -> dict:
    """One line of the benchmark's table; ratio is in the sense of the target."""
    return {"kernel": kernel, "size": size, "ms": 1e3 * seconds, "beside": beside, "beside_ms": 1e3 * other, "ratio": ratio, "target": target, "met": met}


def rows(device: str = "cuda", clock: Callable = gpu_seconds, repeats: int = 9, **sizes) -> list[dict]:
    """Every row; `sizes` (streaming=, logits=, products=) replace the default ones, as dicts."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        found += streaming(device, clock, repeats, dtype=dtype, **sizes.get("streaming", {}))
    found += logits(device, clock, repeats, **sizes.get("logits", {}))
    return found + products(device, clock, repeats, **sizes.get("products", {}))
