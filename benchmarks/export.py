"""Twenty figures as SVG in one go: ≤ 0.5 s each after the first, and how that compares with kaleido's one-shot call.

    python -m benchmarks.export [--figures 20] [--one-shot 3]

Three ways in one run, so that the ratios mean something on a noisy machine: our warm process, kaleido's own warm server, and
kaleido starting a browser per figure. Then PDF and PNG of the same figures. Every figure's time is printed, and the CPU time of
our way (this process and its Chromium), which other work on the machine changes less than the clock.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import psutil

from export import browser, drawing, files
from export.sizes import SIZES
from tests.sample_figures import FIGURES

LIMIT = 0.5  # seconds per SVG after the first


def timed(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def cpu_seconds() -> float:
    """CPU time so far of this process and of the drawing process with all it started."""
    own = psutil.Process()
    alive = [own, *own.children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in alive)


def report(name: str, seconds: list[float]) -> float:
    """Print all times; returns the mean after the first."""
    rest = seconds[1:]
    mean = statistics.fmean(rest)
    print(f"{name}: first {seconds[0]:.2f} s, then mean {mean:.3f} s, median {statistics.median(rest):.3f}, worst {max(rest):.3f} (n = {len(rest)})")
    print("   " + " ".join(f"{s:.2f}" for s in seconds))
    return mean


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", type=int, default=20)
    parser.add_argument("--one-shot", type=int, default=3)
    given = parser.parse_args()
    if browser.find() is None:
        print(browser.MISSING)
        return 0
    cards = [FIGURES[i % len(FIGURES)] for i in range(given.figures)]
    print(f"{psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f} before the start")
    first = timed(lambda: files.figure_file(cards[0], "", "svg"))
    before = cpu_seconds()
    ours = report("SVG, our warm process", [first, *(timed(lambda: files.figure_file(card, "", "svg")) for card in cards[1:])])
    print(f"   CPU time after the first: {(cpu_seconds() - before) / (len(cards) - 1):.3f} s per SVG")
    report("PDF, our warm process", [timed(lambda: files.figure_file(card, "", "pdf")) for card in cards])
    report("SVG + PDF + PNG at once", [timed(lambda: files.drawn_files(card, "", files.DRAWN)) for card in cards])

    import kaleido

    plots = [drawing.draw(card, "", SIZES["89mm"]).figure for card in cards]
    as_svg = dict(opts=dict(format="svg"))
    options = dict(path=browser.find(), mathjax=False)
    began = time.perf_counter()
    kaleido.start_sync_server(**options)
    server = [timed(lambda: kaleido.calc_fig_sync(plots[0], **as_svg)) + time.perf_counter() - began]
    server += [timed(lambda: kaleido.calc_fig_sync(plot, **as_svg)) for plot in plots[1:]]
    kaleido.stop_sync_server()
    theirs = report("SVG, kaleido's server", server)
    alone = [timed(lambda: kaleido.calc_fig_sync(plot, **as_svg, kopts=options)) for plot in plots[: given.one_shot]]
    print(f"SVG, kaleido one-shot: mean {statistics.fmean(alone):.2f} s (n = {len(alone)})")
    print(f"one-shot / warm process {statistics.fmean(alone) / ours:.1f}x, kaleido's server / warm process {theirs / ours:.1f}x")
    print(f"{'pass' if ours <= LIMIT else 'FAIL'}: {ours:.3f} s per SVG after the first, at most {LIMIT} wanted")
    return 0 if ours <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
