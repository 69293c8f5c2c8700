"""The meaning of `auto` on this machine, which is fixed before any key is made; its GPUs and its memory."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version

from flows.system.gpus import LISTED, Gpu, visible_gpus
from flows.system.memory import host_bytes
from tasks.declarations import Machine


def usable_gpus() -> tuple[Gpu, ...]:
    """The GPUs on which steps compute: those that are not hidden, where the installed torch can use them."""
    gpus = visible_gpus()
    return gpus if gpus and (LISTED in os.environ or not _torch_is_for_cpus()) else ()


def has_gpu() -> bool:
    """Whether steps will compute on a GPU."""
    return bool(usable_gpus())


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


def this_machine() -> Machine:
    """Its memory, and that of its smallest GPU. Where a GPU's is not known, it is infinite."""
    gpus, host = usable_gpus(), host_bytes()
    return Machine(True, min(gpu.bytes for gpu in gpus), host) if gpus else Machine(False, host, host)
