"""Light Python files, loaded as they are now, whatever version of them was imported before."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from blake3 import blake3

from flows.python.codebase import Codebase


def fresh_module(codebase: Codebase, module: str) -> ModuleType:
    """A module of the code base, executed once for each content of its file. Raises what its execution raises."""
    file = codebase.files[module]
    return _loaded(file, module, blake3(file.read_bytes()).hexdigest(8))


@lru_cache(maxsize=256)
def _loaded(file: Path, module: str, digest: str) -> ModuleType:
    name = f"{module}.{blake3(str(file).encode()).hexdigest(4)}.{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded
