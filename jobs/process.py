"""Is the process that wrote this row still the one that runs? A pid alone is not enough: pids are reused."""

from __future__ import annotations

import os

import psutil


def started(pid: int | None = None) -> float:
    """When the process (this one) started, seconds since the epoch; 0 where it is gone."""
    try:
        return psutil.Process(os.getpid() if pid is None else pid).create_time()
    except psutil.Error:
        return 0.0


def alive(pid: int, start: float) -> bool:
    """True where that very process still runs; a zombie does not."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - start) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
