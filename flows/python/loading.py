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
    return load_as(f"{module}.{blake3(str(file).encode()).hexdigest(4)}.{digest}", file)


def load_as(name: str, file: Path, folders: list[str] | None = None) -> ModuleType:
    """Execute a file as the module of that name; `folders` make it a package. Raises what its execution raises."""
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
