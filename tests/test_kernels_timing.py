"""Timing without a GPU: what is measured around what, in which order, and that the GPU rows are made (under Triton's interpreter)."""

import importlib.util
import os

import pytest
import torch

from kernels import bench, bench_gpu, timing

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


class Device:
    """A pretended CUDA device: a clock that only work moves, and a log of what happened."""

    def __init__(self, monkeypatch):
        self.now, self.log, self.held, self.top = 0.0, [], 100, 100
        device = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing

            def record(self):
                self.at = device.now
                device.log.append("record")

            def elapsed_time(self, end):
                assert device.log[-1] == "synchronize"  # times are read when the stream is done
                return end.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: self.log.append("synchronize"))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: self.held)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: setattr(self, "top", self.held))
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: self.top)

    def work(self, name, ms):
        def run():
            self.now += ms
            self.log.append(name)

        return run


def test_events_stand_around_the_work_alone(monkeypatch):
    device = Device(monkeypatch)
    assert timing.gpu_seconds(device.work("a", 5.0)) == pytest.approx(0.005)
    assert device.log == ["synchronize", "record", "a", "record", "synchronize"]


def test_pairs_are_timed_in_turns_after_a_warm_up(monkeypatch):
    device = Device(monkeypatch)
    ours, other, ratio = timing.against(device.work("ours", 6.0), device.work("other", 4.0), timing.gpu_seconds, repeats=3, warmup=2)
    assert (ours, other, ratio) == pytest.approx((0.006, 0.004, 1.5))
    assert [name for name in device.log if name in ("ours", "other")] == 2 * ["ours", "other"] + 3 * ["other", "ours"]
    device.log.clear()
    base, way, ratio, spread = timing.bracketed(device.work("bare", 2.0), device.work("way", 3.0), timing.gpu_seconds, repeats=4)
    assert (base, way, ratio, spread) == pytest.approx((0.002, 0.003, 1.5, 0.0))
    assert [name for name in device.log if name in ("bare", "way")] == ["bare", "way"] + 4 * ["bare", "way", "bare"]


def test_peak_is_beyond_what_was_held(monkeypatch):
    device = Device(monkeypatch)
    device.top = 5000  # of earlier work

    def work():
        device.top = max(device.top, device.held + 40)

    assert timing.gpu_peak(work) == 40


def test_without_a_gpu_the_table_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.on_gpu(bench.CHECKED) == [] and timing.gpu_in_words() == timing.NO_GPU
    assert "No CUDA device" in capsys.readouterr().out
    assert timing.clock_of("cuda:0") is timing.gpu_seconds and timing.clock_of("cpu") is timing.cpu_seconds


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_rows_are_made_and_shares_follow_from_bytes():
    """With a clock that gives every call the same time, a share is bytes moved over the bytes a copy moves."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def clock(function):
        function()
        return 1.0

    sizes = {"streaming": {"n": 64, "c": 128}, "logits": {"n": 4, "v": 300}, "products": {"n": 64, "c": 64, "d": 16, "latents": 64, "k": 4}}
    rows = bench_gpu.rows(device, clock, 2, **sizes)
    assert [row["kernel"] for row in rows] == 2 * ["moments", "sign codes", "similarity", "fused MLP capture"] + ["log-prob compare", "gram", "SAE encode, top-k"]
    shares = [row["ratio"] for row in rows]
    assert shares[0] == 0.5 and shares[2] == 1.0 and shares[8:] == [1.0, 1.0, 1.0]
    assert shares[1] == pytest.approx(0.5 + 16 / 1024) and shares[3] == pytest.approx(1.0 + 16 / 1024)  # a code takes 16 bytes of a token's 512
    assert [row["met"] for row in rows[:3]] == [False, False, True]
    assert bench.table(rows, "GPU ms").count("\n") == len(rows) + 1
