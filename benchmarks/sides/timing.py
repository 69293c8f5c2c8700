"""The times that every side reports, and a setting that changes them."""

from __future__ import annotations

import ctypes
from typing import Any

from benchmarks.processes import Stopwatch

BATCH, BETA, LR = 8, 0.1, 1e-4
"""Pairs per optimizer step, DPO's temperature, and the peak learning rate, which falls linearly to 0."""


class Times:
    """Times from its creation on."""

    def __init__(self) -> None:
        self._start = Stopwatch.start()
        self._steps: list[Stopwatch] = []

    def step_ended(self) -> None:
        self._steps.append(self._start.seconds())

    def result(self, losses: list[float], *, wall_before: float = 0.0, cpu_before: float = 0.0) -> dict[str, Any]:
        """What a side returns; work of earlier processes is added to the whole."""
        whole = self._start.seconds()
        times = {"seconds": wall_before + whole.wall, "cpu_seconds": cpu_before + whole.cpu}
        if len(self._steps) > 1:
            first, last = self._steps[0], self._steps[-1]
            times |= {"step_seconds": last.wall - first.wall, "step_cpu_seconds": last.cpu - first.cpu}
        return {**times, "losses": losses}


def keep_memory() -> None:
    """Make glibc keep all freed memory, for the whole process.

    Without it every large tensor gets fresh pages, which the kernel clears first (`page_faults`, `system_seconds`).
    """
    libc = ctypes.CDLL("libc.so.6")
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 2**31 - 1)
    libc.mallopt(m_trim_threshold, -1)  # never
