"""The GPUs of this machine, by the UUIDs of the driver's library (NVML), because torch takes seconds to load.

Where that library is missing, GPUs are those of `/dev`, by their numbers, and their memory is unknown. ALIGNFLOW_GPUS
replaces all of this: names with GiB, `GPU-a=80 GPU-b=80`, for machines without the library, and for tests.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from tasks.contract import SpecError

DEVICES = Path("/dev")
NVML = "libnvidia-ml.so.1"
LISTED = "ALIGNFLOW_GPUS"
_UUID_BYTES = 96


class Gpu(NamedTuple):
    """A GPU, or a slice of one (MIG)."""

    uuid: str
    bytes: float
    """Its memory; infinite where that is not known."""


class _NvmlMemory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def machine_gpus() -> tuple[Gpu, ...]:
    """All GPUs of the machine, in the driver's order. Raises SpecError for a malformed ALIGNFLOW_GPUS."""
    if LISTED in os.environ:
        return tuple(_listed(text) for text in os.environ[LISTED].split())
    if found := _driver_gpus():
        return found
    return tuple(Gpu(str(number), inf) for number, _ in enumerate(DEVICES.glob("nvidia[0-9]*")))


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in its order, as CUDA reads it.

    An entry is a number, a UUID or its beginning. An entry that names no GPU hides itself and all after it. Numbers are
    those of `nvidia-smi`.
    """
    gpus = machine_gpus()
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return gpus
    visible: list[Gpu] = []
    for entry in map(str.strip, os.environ["CUDA_VISIBLE_DEVICES"].split(",")):
        gpu = _named(entry, gpus)
        if gpu is None:
            break
        if gpu not in visible:
            visible.append(gpu)
    return tuple(visible)


def free_bytes(uuid: str) -> float:
    """Memory of a GPU that nothing uses now; infinite where that is not known."""
    if LISTED in os.environ:
        return inf
    with _nvml() as nvml:
        handle = ctypes.c_void_p()
        if nvml is None or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
            return inf
        memory = _memory(nvml, handle)
        return float(memory.free) if memory else inf


def _listed(text: str) -> Gpu:
    name, _, gib = text.partition("=")
    try:
        return Gpu(name, float(gib or "inf") * 2**30)
    except ValueError:
        raise SpecError(f"{LISTED}: '{text}' is not of the form NAME=GIB") from None


def _named(entry: str, gpus: Sequence[Gpu]) -> Gpu | None:
    if entry.isdigit():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    fitting = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None


@contextmanager
def _nvml() -> Iterator[Any]:
    """The driver's library, initialised; None where there is none."""
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        nvml = None
    if nvml is None or nvml.nvmlInit_v2() != 0:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


@cache
def _driver_gpus() -> tuple[Gpu, ...]:
    with _nvml() as nvml:
        return tuple(_all_of(nvml)) if nvml else ()


def _all_of(nvml: Any) -> Iterator[Gpu]:
    count = ctypes.c_uint()
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for i in range(count.value):
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(handle)) == 0:
            slices = list(_slices(nvml, handle))
            yield from (_gpu(nvml, one) for one in slices or [handle])


def _slices(nvml: Any, handle: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    """The parts into which a GPU is divided (MIG); none where it is not."""
    mode, pending, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    if nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(mode), ctypes.byref(pending)) != 0 or not mode.value:
        return
    nvml.nvmlDeviceGetMaxMigDeviceCount(handle, ctypes.byref(most))
    for i in range(most.value):
        part = ctypes.c_void_p()
        if nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i, ctypes.byref(part)) == 0:
            yield part


def _gpu(nvml: Any, handle: ctypes.c_void_p) -> Gpu:
    uuid = ctypes.create_string_buffer(_UUID_BYTES)
    nvml.nvmlDeviceGetUUID(handle, uuid, _UUID_BYTES)
    memory = _memory(nvml, handle)
    return Gpu(uuid.value.decode(), float(memory.total) if memory else inf)


def _memory(nvml: Any, handle: ctypes.c_void_p) -> _NvmlMemory | None:
    memory = _NvmlMemory()
    return memory if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 else None
