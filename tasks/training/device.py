"""The device that models compute on: what packing, attention, head and memory budget depend on.

Everything that depends on the device takes a `Device`, so that a test reaches the decisions for any GPU with a `Device`
of its own. This module imports torch only where it is called, because `plan` imports it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

CPU_FLOPS = 9e10
"""Dense float32 products per second of 2 CPU cores. A constant, so that equal CPUs cut a batch alike whatever else runs
on them."""
CPU_PASS_SECONDS = 4e-3
"""13 ms measured for a forward and backward pass through 3 small layers on 2 CPU cores, less the products."""
GPU_PASS_SECONDS = 6e-4
"""About 70 kernels per layer, forward and backward, at 8 µs of Python and launch each; computed, not measured."""
GPU_UTILIZATION = 0.5
"""Share of the peak that the products of a training reach."""

_FLOP_PER_CYCLE = {
    (7, 0): 1024, (7, 5): 1024, (8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192, (12, 0): 512,
}  # fmt: skip
"""Dense half-precision operations per cycle and multiprocessor, by compute capability.

From NVIDIA's data sheets, peak / (multiprocessors · clock): V100 125e12 / (80 · 1.53e9), T4 65e12 / (40 · 1.59e9), A100
312e12 / (108 · 1.41e9), A10 125e12 / (72 · 1.70e9), L4 121e12 / (58 · 2.04e9), H100 989e12 / (132 · 1.83e9), B200
2250e12 / (148 · 1.85e9), RTX 5090 210e12 / (170 · 2.41e9). A GeForce of the eighth generation reaches half of it."""
_CLOCK = 1.6e9
"""Cycles per second of a GPU under load; the data sheets' range is 1.4e9 to 2.5e9."""


@dataclass(frozen=True)
class Device:
    """A CPU or one GPU."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory_bytes: int
    """Of the GPU, or of the machine."""
    flops: float
    """Floating-point operations per second of a training's products."""
    pass_seconds: float
    """Fixed time of a forward and backward pass, per layer of the model: Python and launches."""
    capability: tuple[int, int] = (0, 0)
    """Of a GPU."""

    @property
    def is_gpu(self) -> bool:
        return self.kind == "cuda"

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.kind)

    @property
    def head_logits(self) -> int:
        """Largest number of logits in memory."""
        return head_logits(gpu=self.is_gpu)

    @property
    def has_flash_attention(self) -> bool:
        """Whether FlashAttention 2 runs on it, in half precision."""
        return self.is_gpu and self.capability >= (8, 0)

    def dtype(self, name: str) -> torch.dtype:
        """The type called `name`; `auto`: float32 on a CPU, bfloat16 on a GPU."""
        import torch

        names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        return names["bfloat16" if self.is_gpu else "float32"] if name == "auto" else names[name]


def head_logits(*, gpu: bool) -> int:
    """Largest number of logits in memory, 4 bytes each: 1 GB on a GPU, 256 MB on a CPU."""
    return 1 << 28 if gpu else 1 << 26


@cache
def this_device() -> Device:
    """The process's GPU if it sees one, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device("cpu", "cpu", memory, CPU_FLOPS, CPU_PASS_SECONDS)
    return gpu(torch.cuda.get_device_properties(torch.cuda.current_device()))


def gpu(properties: Any) -> Device:
    """The GPU with these `torch.cuda.get_device_properties`."""
    capability = properties.major, properties.minor
    older = [known for known in _FLOP_PER_CYCLE if known <= capability]
    per_cycle = _FLOP_PER_CYCLE[max(older, default=min(_FLOP_PER_CYCLE))]
    peak = per_cycle * properties.multi_processor_count * _CLOCK
    return Device(
        "cuda", properties.name, properties.total_memory, GPU_UTILIZATION * peak, GPU_PASS_SECONDS, capability
    )
