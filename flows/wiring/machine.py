"""The meaning of `auto` on this machine, which is fixed before any key is made, and the machine's memory."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path

from tasks.declarations import Machine

DEVICES = Path("/dev")
CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
NVML = "libnvidia-ml.so.1"


def has_gpu() -> bool:
    """Whether steps will compute on a GPU: one is present and not hidden, and the installed torch can use it."""
    there = any(DEVICES.glob("nvidia[0-9]*"))
    return there and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1") and not _torch_is_for_cpus()


def _torch_is_for_cpus() -> bool:
    try:
        return "+cpu" in version("torch")
    except PackageNotFoundError:
        return True


def best_engine() -> str:
    """vLLM where there is a GPU and vLLM, transformers where not."""
    return "vllm" if has_gpu() and importlib.util.find_spec("vllm") else "transformers"


def best_dtype() -> str:
    """The number type of models: bfloat16 on a GPU, else float32."""
    return "bfloat16" if has_gpu() else "float32"


@cache
def this_machine() -> Machine:
    """Its memory, and that of its smallest GPU. Where a GPU's is not known, it is infinite."""
    host = _host_bytes()
    return Machine(True, _gpu_bytes(), host) if has_gpu() else Machine(False, host, host)


def _host_bytes() -> float:
    """All memory, or as much as this process's control group may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTROL_GROUP.read_text().strip() if CONTROL_GROUP.exists() else "max"
    return float(min(whole, int(limit)) if limit.isdecimal() else whole)


class _NvmlMemory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def _gpu_bytes() -> float:
    """Asked of the driver's library, because torch takes seconds to load."""
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        return inf
    count, handle, memory = ctypes.c_uint(), ctypes.c_void_p(), _NvmlMemory()
    totals = [inf]
    if nvml.nvmlInit_v2() == 0:
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for i in range(count.value):
            found = nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(handle)) == 0
            if found and nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
                totals.append(float(memory.total))
        nvml.nvmlShutdown()
    return min(totals)
