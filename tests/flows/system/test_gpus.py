"""Which GPUs a process may use: those that CUDA_VISIBLE_DEVICES leaves, as CUDA reads it."""

import ctypes
from typing import Any, ClassVar

import pytest

from flows.system import gpus
from flows.system.gpus import Gpu, free_bytes, machine_gpus, visible_gpus
from tasks.contract import SpecError


@pytest.mark.parametrize(
    ("variable", "visible"),
    [
        (None, "abc"), ("", ""), ("-1", ""), ("0", "a"), ("2, 0", "ca"), ("GPU-b", "b"), ("GPU-b,GPU-a,GPU-b", "ba"),
        ("1,7,0", "b"), ("0,-1,1", "a"), ("GPU-", ""), ("NoDevFiles", ""),
    ],
)  # fmt: skip
def test_the_variable_chooses_and_orders_gpus_and_its_first_unknown_entry_ends_it(
    variable: str | None, visible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b=40 GPU-c")
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [gpu.uuid for gpu in visible_gpus()] == [f"GPU-{letter}" for letter in visible]


def test_the_list_of_gpus_may_be_given_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b")
    assert machine_gpus() == (Gpu("GPU-a", 80 * 2**30), Gpu("GPU-b", float("inf")))
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=much")
    with pytest.raises(SpecError, match="ALIGNFLOW_GPUS: 'GPU-a=much' is not of the form NAME=GIB"):
        machine_gpus()


class Nvml:
    """The driver's library on a machine with a whole GPU and one that is divided in two. Handles are numbers."""

    UUIDS: ClassVar = {1: "GPU-whole", 2: "GPU-divided", 21: "MIG-first", 22: "MIG-second"}

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetMigMode(self, handle: Any, mode: Any, pending: Any) -> int:
        mode._obj.value = int(handle.value == 2)
        return 0 if handle.value == 2 else 3  # not supported

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        count._obj.value = 7
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int, part: Any) -> int:
        part._obj.value = 21 + index
        return 0 if index < 2 else 6  # not found

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, length: int) -> int:
        text.value = self.UUIDS[handle.value].encode()
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        handle._obj.value = {name: number for number, name in self.UUIDS.items()}[uuid.decode()]
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free = 100 * handle.value, handle.value
        return 0


def test_the_drivers_library_names_whole_gpus_and_the_parts_of_divided_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALIGNFLOW_GPUS", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Nvml())
    gpus._driver_gpus.cache_clear()
    assert machine_gpus() == (Gpu("GPU-whole", 100.0), Gpu("MIG-first", 2100.0), Gpu("MIG-second", 2200.0))
    assert free_bytes("MIG-second") == 22.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-second")
    assert visible_gpus() == (Gpu("MIG-second", 2200.0),)
    gpus._driver_gpus.cache_clear()
