"""Processes of this benchmark on a machine that has torch and transformers, and little else."""

from __future__ import annotations

import hashlib
import importlib
import sys
from types import ModuleType
from typing import Any


def run(function: str, **arguments: Any) -> dict[str, Any]:
    """Call `module:function` of this package. Every process of this benchmark begins here."""
    stand_in_for_blake3()
    module, name = function.split(":")
    result: dict[str, Any] = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(**arguments)
    return result


def device() -> dict[str, str]:
    return {"device": this_device()}


def this_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def stand_in_for_blake3() -> None:
    """Let BLAKE2 compute the tasks' digests where the package blake3 is missing: here they only meet their own kind."""
    try:
        importlib.import_module("blake3")
    except ImportError:
        module = ModuleType("blake3")
        module.blake3 = _Digest  # type: ignore[attr-defined]
        sys.modules["blake3"] = module


class _Digest:
    """The part of blake3's interface that `tasks` uses."""

    AUTO = -1

    def __init__(self, data: bytes = b"", *, max_threads: int = 1) -> None:
        del max_threads
        self._hash = hashlib.blake2b(data)

    def update(self, data: bytes) -> _Digest:
        self._hash.update(data)
        return self

    def update_mmap(self, path: Any) -> _Digest:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                self._hash.update(block)
        return self

    def digest(self, length: int = 32) -> bytes:
        return self._hash.digest()[:length]

    def hexdigest(self, length: int = 32) -> str:
        return self._hash.hexdigest()[: 2 * length]
