"""The times that every side reports."""

from __future__ import annotations

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
