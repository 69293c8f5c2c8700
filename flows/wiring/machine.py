"""What `auto` means on this machine, settled before any key is made."""

from __future__ import annotations

import importlib.util
import os

NVIDIA = "/dev/nvidia0"


def has_gpu() -> bool:
    return os.path.exists(NVIDIA)


def best_engine() -> str:
    """vLLM where there is a GPU and vLLM, transformers where not."""
    return "vllm" if has_gpu() and importlib.util.find_spec("vllm") else "transformers"


def best_dtype() -> str:
    """Of the numbers that a model computes with."""
    return "bfloat16" if has_gpu() else "float32"
