"""Times of device work."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from statistics import mean, median
from typing import Any


def median_seconds(work: Callable[[], Any], *, repeats: int = 10, warm_up: int = 3) -> float:
    """Median time of one call, with the device's queue empty before and after it."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        synchronize()
        begun = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - begun)
    return median(times)


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_peak_gb() -> float | None:
    """The most memory that tensors held on the device since `reset_peak`; None without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


class IdleWatch:
    """The share of time in which no kernel ran, by the driver's own counter, five times a second."""

    def __init__(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        self._watch: subprocess.Popen[str] | None = None
        try:
            self._watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return

    def stop(self) -> float | None:
        """The mean since the start; None where the driver gives no numbers."""
        if self._watch is None:
            return None
        self._watch.terminate()
        output, _ = self._watch.communicate()
        busy = [int(line) for line in output.split() if line.isdigit()]
        return 1 - mean(busy) / 100 if busy else None
