"""What looking costs: the same statistics gathered four ways, against the bare forward.

    python -m benchmarks.capture [--threads 1 2] [--repeats 9] [--skip-kernels]

Work: moments of mlp_post and sign codes of mlp_pre at every block, similarity of resid_pre and resid_post at every block;
8 sequences of 256 tokens; GPT-2 of 6 blocks × 512 with random weights, then the shipped models. Bare is the model without its
head, in inference mode, with SDPA. Every repeat runs bare, the way, bare: the ratio is way / mean(bare, bare), the noise is
bare / bare. Times are CPU seconds of this process, all threads together, so that other programs on the machine weigh less; where
there is a CUDA device the same follows there, between CUDA events, with torch's own count of its memory. The ways are compared
with each other before any is timed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import torch  # noqa: E402

from kernels.moments import Moments  # noqa: E402
from kernels.sign_codes import SignCodes  # noqa: E402
from kernels.similarity import Similarity  # noqa: E402
from kernels.timing import bracketed, clock_of, gpu_in_words, gpu_peak  # noqa: E402
from models.fused import capture_of  # noqa: E402
from models.layout import Site, layout_for, locate  # noqa: E402
from models.loaded import Model  # noqa: E402
from models.stream import Request, stream  # noqa: E402

SEQUENCES, LENGTH = 8, 256
TARGET = {"cpu": 1.06, "cuda": 1.10}


def random_gpt2(blocks: int = 6, width: int = 512, vocabulary: int = 8192, device: str = "cpu") -> Model:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_layer": blocks, "n_embd": width, "n_head": width // 64, "n_positions": LENGTH, "vocab_size": vocabulary}
    module = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval().to(device)
    return Model(module, None, layout_for(module.config), f"GPT-2 shaped, {blocks} × {width}, random")


def shipped(device: str = "cpu") -> list[Model]:
    from transformers import AutoModelForCausalLM

    found = []
    for folder in sorted((REPO / "demo" / "models").glob("storyteller-*")):
        if (folder / "config.json").exists():
            module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval().to(device)
            found.append(Model(module, None, layout_for(module.config), f"demo/{folder.name}"))
    return found


def ours(model: Model, ids, folder: Path) -> tuple[list, list, list]:
    """The statistics of this project, gathered by the capture engine; codes go to files."""
    n = model.n_layers
    requests = [Request(Moments, (Site(i, "mlp_post"),)) for i in range(n)]
    requests += [Request(lambda c, i=i: SignCodes(c, sink=folder / f"{i}.bin"), (Site(i, "mlp_pre"),)) for i in range(n)]
    requests += [Request(Similarity, (Site(i, "resid_pre"), Site(i, "resid_post"))) for i in range(n)]
    found = stream(model, ids, None, requests, batch=SEQUENCES)
    return found[:n], found[n : 2 * n], found[2 * n :]


def fused(model: Model, ids, folder: Path) -> tuple[list, list, list]:
    """The same figures, moments and codes from the statistic that computes the activation for the model."""
    n = model.n_layers
    requests = [Request(capture_of(model, sink=folder / f"{i}.bin"), (Site(i, "mlp_act"),)) for i in range(n)]
    requests += [Request(Similarity, (Site(i, "resid_pre"), Site(i, "resid_post"))) for i in range(n)]
    found = stream(model, ids, None, requests, batch=SEQUENCES)
    return [each.moments for each in found[:n]], [each.codes for each in found[:n]], found[n:]


def in_torch(sites: dict[str, list[torch.Tensor]]) -> list[torch.Tensor]:
    """The same figures in eager torch from stored activations, as one would write them after run_with_cache."""
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    results = []
    for post in sites["mlp_post"]:
        x = post.flatten(0, -2)
        variance, mean = torch.var_mean(x, 0, correction=0)
        results += [mean, variance, x.abs().sum(0), x.abs().amax(0), x.square().sum(0)]
    for pre in sites["mlp_pre"]:
        powers = powers.to(pre.device)
        on = pre.flatten(0, -2) > 0
        results += [(on.view(len(on), -1, 8).to(torch.uint8) * powers).sum(2, dtype=torch.uint8), on.sum(0)]
    for a, b in zip(sites["resid_pre"], sites["resid_post"]):
        a, b = a.flatten(0, -2), b.flatten(0, -2)
        cosine, norm = torch.cosine_similarity(a, b), a.norm(dim=1)
        ratios = (b.norm(dim=1) / norm).mean(), ((b - a).norm(dim=1) / norm).mean()
        results += [cosine.mean(), torch.histc(cosine, 200, -1, 1), cosine.arccos().mean() / torch.pi, *ratios]
    return results


def with_hooks(model: Model, ids) -> list[torch.Tensor]:
    """Hugging Face model, plain forward hooks that keep the activations, then torch."""
    sites = {name: [None] * model.n_layers for name in ("mlp_post", "mlp_pre", "resid_pre", "resid_post")}
    handles = []
    for name, kept in sites.items():
        for i in range(model.n_layers):
            module, side = locate(model.module, model.layout, Site(i, name))
            if side == "input":
                handles.append(module.register_forward_pre_hook(lambda m, a, kept=kept, i=i: kept.__setitem__(i, a[0])))
            else:
                handles.append(
                    module.register_forward_hook(lambda m, a, o, kept=kept, i=i: kept.__setitem__(i, o[0] if isinstance(o, tuple) else o))
                )
    try:
        bare(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    with torch.inference_mode():
        return in_torch(sites)


HOOKS = {"mlp_post": "mlp.hook_post", "mlp_pre": "mlp.hook_pre", "resid_pre": "hook_resid_pre", "resid_post": "hook_resid_post"}


def with_cache(bridge, n_layers: int, ids, whole: bool) -> tuple[list[torch.Tensor], int]:
    """TransformerLens's run_with_cache, all names or only those needed, then torch; also the bytes of the cache."""
    names = {site: [f"blocks.{i}.{hook}" for i in range(n_layers)] for site, hook in HOOKS.items()}
    wanted = None if whole else [name for group in names.values() for name in group]
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(ids, names_filter=wanted)
        results = in_torch({site: [cache[name] for name in group] for site, group in names.items()})
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in cache.values() if isinstance(t, torch.Tensor)}
    return results, sum(storages.values())


def bare(model: Model, ids) -> None:
    with torch.inference_mode():
        model.module.get_submodule(model.layout.base)(input_ids=ids, use_cache=False)


def agree(model: Model, ids, bridge, folder: Path) -> None:
    """AssertionError unless all ways give the same figures: nothing wrong is timed."""
    ways = [with_hooks(model, ids)] + ([with_cache(bridge, model.n_layers, ids, False)[0]] if bridge else [])
    n = model.n_layers
    for (moments, codes, likeness), found in itertools.product((ours(model, ids, folder), fused(model, ids, folder)), ways):
        for i in range(n):
            mean, variance = found[5 * i : 5 * i + 2]
            torch.testing.assert_close(moments[i].mean.float(), mean.cpu(), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(moments[i].variance.float(), variance.cpu(), rtol=1e-3, atol=1e-4)
            fraction = found[5 * n + 2 * i + 1].cpu().double() / ids.numel()
            torch.testing.assert_close(codes[i].on_fraction, fraction, rtol=0, atol=2e-3)
            assert abs(likeness[i].cosine_mean - float(found[7 * n + 5 * i])) < 1e-4


def cost(model: Model, repeats: int, bridge=None) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.config.vocab_size, (SEQUENCES, min(LENGTH, model.config.max_position_embeddings)), generator=generator).to(model.device)
    kind = model.device.type
    unit = {"cpu": f"CPU seconds, {torch.get_num_threads()} thread(s)", "cuda": "seconds between CUDA events"}[kind]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        agree(model, ids, bridge, folder)
        ways = {"ours": lambda: ours(model, ids, folder), "ours, fused with the activation": lambda: fused(model, ids, folder), "Hugging Face hooks, then torch": lambda: with_hooks(model, ids)}
        if bridge:
            ways["run_with_cache, needed names, then torch"] = lambda: with_cache(bridge, model.n_layers, ids, False)
            ways["run_with_cache, everything, then torch"] = lambda: with_cache(bridge, model.n_layers, ids, True)
        ways["bare again (noise)"] = lambda: bare(model, ids)
        print(f"\n{model.written}; {ids.shape[0]} × {ids.shape[1]} tokens; {unit}, medians of {repeats}; load {os.getloadavg()[0]:.1f}")
        print("| way | bare s | way s | way / bare | spread of bare / bare (quartiles) |\n|---|---|---|---|---|")
        for name, way in ways.items():
            base, middle, ratio, noise = bracketed(lambda: bare(model, ids), way, clock_of(kind), repeats, warmup=1 if kind == "cpu" else 5)
            mark = f" (target ≤ {TARGET[kind]:.2f}: {'met' if ratio <= TARGET[kind] else 'NOT met'})" if name.startswith("ours") and bridge else ""
            print(f"| {name} | {base:.3f} | {middle:.3f} | {ratio:.3f}{mark} | {noise:.3f} |", flush=True)


def memory(model: Model, bridge) -> None:
    """Bytes held: accumulators against the cache; peak of the process over ten times the tokens."""
    ids = torch.randint(0, model.config.vocab_size, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        held = sum(
            value.nbytes for group in ours(model, ids, Path(folder)) for statistic in group
            for value in vars(statistic).values() if isinstance(value, torch.Tensor)
        )
    print("\nMemory at 8 × 256 tokens\n| | bytes | ours is smaller by |\n|---|---|---|")
    print(f"| accumulators of ours | {held:,} | |")
    for name, whole in (("run_with_cache, needed names", False), ("run_with_cache, everything", True)):
        size = with_cache(bridge, model.n_layers, ids, whole)[1]
        print(f"| {name} | {size:,} | {size / held:.0f} × |")
    # glibc learns which blocks to keep for reuse, so by default the peak wanders by a third from one run to the next, whatever
    # the number of tokens; with its thresholds fixed the peak is what the program holds.
    fixed = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    for name, environment in (("thresholds fixed", fixed), ("glibc as it is", dict(os.environ))):
        peaks = {}
        for times in (1, 10):
            command = [sys.executable, __file__, "--peak", str(times)]
            peaks[times] = int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
        growth = peaks[10] / peaks[1] - 1
        target = " (target < 2 %)" if environment is fixed else ""
        print(f"Peak of the process, {name}: {peaks[1] / 1024:.0f} MB for 2,048 tokens, {peaks[10] / 1024:.0f} MB for 20,480: {growth:+.2%}{target}")


def gpu_memory(model: Model, bridge) -> None:
    """torch's peak of each way beyond what is held before it, the bare forward's own included; and over ten times the tokens."""
    ids = torch.randint(0, model.config.vocab_size, (10 * SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1)).to(model.device)
    few = ids[:SEQUENCES]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "bare": lambda: bare(model, few), "ours": lambda: ours(model, few, Path(folder)), "ours, ten times the tokens": lambda: ours(model, ids, Path(folder)),
            "run_with_cache, needed names, then torch": lambda: with_cache(bridge, model.n_layers, few, False),
            "run_with_cache, everything, then torch": lambda: with_cache(bridge, model.n_layers, few, True),
        }
        print("\nPeak on the GPU\n| way | bytes | more than bare |\n|---|---|---|")
        peaks = {name: gpu_peak(way) for name, way in ways.items()}
    for name, held in peaks.items():
        print(f"| {name} | {held:,} | {held - peaks['bare']:,} |")


def peak(times: int) -> int:
    """Peak resident kilobytes of a process that streams `times` × 2,048 tokens; run in a fresh process. Read from /proc: getrusage
    would report the peak of the process that started it."""
    model = random_gpt2()
    ids = torch.randint(0, model.config.vocab_size, (SEQUENCES * times, LENGTH), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        ours(model, ids, Path(folder))
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="one run for each; memory and kernels are measured at the first")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--skip-kernels", action="store_true")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads[0])
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if chosen.peak:
        print(peak(chosen.peak))
        return
    for threads in reversed(chosen.threads):
        torch.set_num_threads(threads)
        print(f"CPU, torch {torch.__version__}, {threads} thread(s), load {os.getloadavg()[0]:.1f}")
        on("cpu", chosen.repeats, with_memory=threads == chosen.threads[0])
    print(f"\n{gpu_in_words()}")
    if torch.cuda.is_available():
        on("cuda", chosen.repeats)
    if not chosen.skip_kernels:
        from kernels import bench

        print()
        bench.main()


def on(device: str, repeats: int, with_memory: bool = True) -> None:
    from models.bridge import share

    model = random_gpt2(device=device)
    bridge = share(model.module)
    cost(model, repeats, bridge)
    for demo in shipped(device):
        cost(demo, repeats)
    if with_memory:
        (memory if device == "cpu" else gpu_memory)(model, bridge)


if __name__ == "__main__":
    main()
