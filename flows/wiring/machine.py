"""The meaning of `auto` on this machine, which is fixed before any key is made."""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DEVICES = Path("/dev")


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
