"""What is assumed of each device, and that only one module looks for it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tasks.training.device import CPU_FLOPS, CPU_PASS_SECONDS, gpu, this_device
from tests.devices import H100

_PEAKS = {
    "V100": ((7, 0), 80, 125e12), "T4": ((7, 5), 40, 65e12), "A100": ((8, 0), 108, 312e12), "L4": ((8, 9), 58, 121e12),
    "H100": ((9, 0), 132, 989e12), "B200": ((10, 0), 148, 2250e12), "B300": ((10, 3), 148, 2250e12),
}  # fmt: skip


@pytest.mark.parametrize(("capability", "processors", "peak"), _PEAKS.values(), ids=_PEAKS.keys())
def test_half_of_a_gpu_s_peak_is_assumed_within_40_percent(
    capability: tuple[int, int], processors: int, peak: float
) -> None:
    major, minor = capability
    found = gpu(SimpleNamespace(
        name="", major=major, minor=minor, multi_processor_count=processors, total_memory=1
    ))  # fmt: skip
    assert 0.6 < found.flops / (peak / 2) < 1.4


def test_auto_is_bfloat16_on_a_gpu_and_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = this_device.__wrapped__()
    assert (cpu.kind, cpu.dtype("auto"), cpu.dtype("bfloat16")) == ("cpu", torch.float32, torch.bfloat16)
    assert (H100.kind, H100.dtype("auto"), H100.dtype("float32")) == ("cuda", torch.bfloat16, torch.float32)
    assert cpu.memory_bytes > 2**30
    assert (cpu.torch_device, H100.torch_device) == (torch.device("cpu"), torch.device("cuda"))


def test_a_visible_gpu_is_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="A", major=8, minor=0, multi_processor_count=108, total_memory=40)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: {1: properties}[index])
    assert this_device.__wrapped__() == gpu(properties)


def test_a_pass_costs_the_cpu_as_much_as_ever() -> None:
    """The cut of a batch on a CPU, and so every number of the expected results, hangs on it."""
    assert CPU_PASS_SECONDS * CPU_FLOPS / 12 == 3e7


def test_only_the_device_module_looks_for_a_gpu() -> None:
    room = Path(__file__).parents[3] / "tasks" / "training"
    assert [p.name for p in sorted(room.glob("*.py")) if "torch.cuda" in p.read_text()] == ["device.py"]
