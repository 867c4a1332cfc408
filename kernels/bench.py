"""`python -m kernels.bench [name …]`: check every case against the definition, then time; a kernel that is wrong is not timed.

Times are CPU seconds of this process (medians, in turns), so that other programs on the machine weigh less; the rate to compare
with is measured beside them: one read of the same bytes, or one matrix product of the same size. Where there is a CUDA device its
kernels follow (kernels.bench_gpu); where there is none, a line says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time

import numpy as np
import torch

from kernels import bench_gpu, hamming
from kernels.bench_gpu import row as _row
from kernels.gram import Gram
from kernels.logprob_compare import LogProbCompare
from kernels.logprob_compare.reference import compare as compare_definition
from kernels.moments import Moments
from kernels.sae_pool import SaePool
from kernels.sign_codes import SignCodes
from kernels.similarity import Similarity
from kernels.timing import NO_GPU, REPEATS, against, gpu_in_words
from kernels.top_k import TopK

CHECKED = ("moments", "gram", "similarity", "sign_codes", "logprob_compare", "top_k", "sae_pool", "mlp_capture")


def check(name: str, impl: str = "cpu") -> None:
    """AssertionError naming the case and figure if a kernel differs from its definition; the GPU's run on the GPU where there is one."""
    module = importlib.import_module(f"kernels.{name}.cases")
    there = "cuda" if impl == "gpu" and torch.cuda.is_available() else "cpu"
    for case in module.cases():
        found, expected = module.new(case), module.new(case)
        found.add(*(t.to(there) for t in case.tensors), keep=None if case.keep is None else case.keep.to(there), impl=impl)
        expected.add(*case.tensors, keep=case.keep, impl="reference")
        for figure, value in module.figures(expected).items():
            value, other = np.asarray(value, np.float64), np.asarray(module.figures(found)[figure], np.float64)
            allowed = module.TOLERANCE[impl] * max(1.0, np.abs(value[np.isfinite(value)]).max(initial=0.0))
            np.testing.assert_allclose(other, value, rtol=0, atol=allowed, err_msg=f"{name}, {case.name}: {figure}")


def wall(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def streaming(n: int = 16384, c: int = 2048) -> list[dict]:
    """Kernels bound by reading: against the fastest single pass over the same bytes (a compiled float32 sum); 134 MB, so that they
    come from memory and not from a cache."""
    from kernels.read_rate import read

    x, y = torch.randn(n, c), torch.randn(n, c)
    one = lambda: read(x.numpy())  # noqa: E731
    two = lambda: (read(x.numpy()), read(y.numpy()))  # noqa: E731
    moments, codes, likeness, top = Moments(c), SignCodes(c), Similarity(), TopK(c, 20)
    top.add(x)
    rows = []
    for name, ours, other in (
        ("moments", lambda: moments.add(x), one),
        ("sign codes", lambda: codes.add(x), one),
        ("similarity", lambda: likeness.add(x, y), two),
        ("top-k, settled", lambda: top.add(x, start=n * (1 + top.count // n)), one),
    ):
        seconds, beside, ratio = against(ours, other)
        rows.append(_row(name, f"[{n}, {c}]", seconds, "one read of the bytes", beside, ratio, "≤ 2", ratio <= 2))
    return rows


def exponentials(n: int = 256, v: int = 50257) -> list[dict]:
    a = 3 * torch.randn(n, v)
    b, targets = a + 0.3 * torch.randn(n, v), torch.randint(0, v, (n,))
    statistic = LogProbCompare()

    def eager():
        p, q = a.log_softmax(1), b.log_softmax(1)
        (p.exp() * (p - q)).sum(1), p.argmax(1) == q.argmax(1), p.gather(1, targets[:, None]) - q.gather(1, targets[:, None])

    expected = compare_definition(a[:8], b[:8], targets[:8])
    found = LogProbCompare()
    found.add(a[:8], b[:8], targets[:8])
    assert abs(found.kl_mean - float(expected[:, 0].mean())) < 1e-6
    seconds, beside, ratio = against(lambda: statistic.add(a, b, targets), eager)
    return [_row("log-prob compare", f"[{n}, {v}]", seconds, "eager torch, float32", beside, 1 / ratio, "≥ 2.5 ×", 1 / ratio >= 2.5)]


def products(n: int = 2048, c: int = 2048, d: int = 512, latents: int = 16384, k: int = 32) -> list[dict]:
    """Kernels bound by products: share of the rate at which the machine multiplies matrices of these sizes."""
    rows = []
    x, gram = torch.randn(n, c), Gram(c)
    seconds, beside, ratio = against(lambda: gram.add(x), lambda: x.T @ x)
    rows.append(_row("gram", f"[{n}, {c}]", seconds, "xᵀx in full", beside, 1 / ratio, "≥ 0.8 of the rate", 1 / ratio >= 0.8))
    h = torch.randn(n, d)
    sae = SaePool(torch.randn(d, latents) / d**0.5, torch.zeros(latents) - 1, torch.zeros(d), k=k, length=256)
    seconds, beside, ratio = against(lambda: sae.add(h), lambda: h @ sae.weight)
    size = f"[{n}, {d}] → {latents}, k={k}"
    rows.append(_row("SAE encode, top-k, pool", size, seconds, "the encoder's product", beside, 1 / ratio, "≥ 0.8 of the rate", 1 / ratio >= 0.8))
    return rows


def search(n: int = 20_000, bits: int = 2048, queries: int = 64, k: int = 10) -> list[dict]:
    codes = np.random.default_rng(0).integers(0, 256, (n, bits // 8), dtype=np.uint8)
    words, asked = codes.view(np.uint64), codes[:queries]

    def packed():
        found = np.stack([np.bitwise_count(words ^ query).sum(1, dtype=np.int32) for query in words[:queries]])
        return np.argpartition(found, k, axis=1)[:, :k]

    expected = hamming.nearest(codes[:300], asked[:4], k, impl="reference")
    assert all(np.array_equal(a, b) for a, b in zip(hamming.nearest(codes[:300], asked[:4], k), expected))
    size = f"{n} × {bits} bits, {queries} queries"
    seconds, beside, ratio = against(lambda: hamming.nearest(codes, asked, k), packed)
    rows = [_row("Hamming k-NN", size, seconds, "numpy bitwise_count", beside, 1 / ratio, "≥ 10 ×", 1 / ratio >= 10)]
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    walls = [(wall(packed), wall(lambda: hamming.nearest(codes, asked, k))) for _ in range(REPEATS)]
    torch.set_num_threads(threads)
    other, seconds = min(a for a, _ in walls), min(b for _, b in walls)
    rows.append(_row(f"Hamming k-NN, {os.cpu_count()} threads, clock", size, seconds, "numpy, which has one", other, other / seconds, "≥ 10 ×", other / seconds >= 10))
    if importlib.util.find_spec("faiss"):
        import faiss

        index = faiss.IndexBinaryFlat(bits)
        index.add(codes)
        seconds, beside, ratio = against(lambda: hamming.nearest(codes, asked, k), lambda: index.search(asked, k))
        rows.append(_row("Hamming k-NN", size, seconds, "faiss IndexBinaryFlat", beside, 1 / ratio, "beside", None))
    return rows


def table(rows: list[dict], kind: str = "CPU ms") -> str:
    lines = [f"| kernel | size | {kind} | beside it | {kind} | ratio | target | met |", "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        met = {True: "yes", False: "NO", None: ""}[r["met"]]
        lines.append(f"| {r['kernel']} | {r['size']} | {r['ms']:.2f} | {r['beside']} | {r['beside_ms']:.2f} | {r['ratio']:.2f} | {r['target']} | {met} |")
    return "\n".join(lines)


def main(names: tuple[str, ...] = CHECKED) -> list[dict]:
    torch.manual_seed(0)
    for name in names:
        check(name)
    rows = [*streaming(), *exponentials(), *products(), *search()]
    print(f"CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(table(rows))
    rows += on_gpu(names)
    return rows


def on_gpu(names: tuple[str, ...]) -> list[dict]:
    """Checked on the device, then timed there; nothing, and a line saying so, without one."""
    if not torch.cuda.is_available():
        print(f"\n{NO_GPU}")
        return []
    for name in names:
        check(name, "gpu")
    rows = bench_gpu.rows()
    print(f"\n{gpu_in_words()}\n{table(rows, 'GPU ms')}")
    return rows


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or CHECKED)
