"""A user's packages made importable in this process, from exactly the folders of a code base."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from threading import Lock

from flows.python.codebase import TASKS, Package
from tasks.contract import EXTENSIONS

_LOCK = Lock()


def active_packages() -> tuple[Package, ...]:
    """The shipped tasks and the packages that extend them in this process."""
    return (TASKS, *(Package(name, folder, str(folder)) for name, folder in EXTENSIONS.items()))


def activate(packages: Iterable[Package]) -> None:
    """Make these packages the ones that extend the tasks, loaded anew, because a file may have been edited since."""
    wanted = {p.name: p.folder for p in packages if p.name != TASKS.name}
    with _LOCK:
        for former in [m for m in sys.modules if m.split(".")[0] in EXTENSIONS]:
            del sys.modules[former]
        EXTENSIONS.clear()
        EXTENSIONS.update(wanted)
        for name, folder in wanted.items():
            spec = ModuleSpec(name, None, is_package=True)
            if (folder / "__init__.py").is_file():
                spec = importlib.util.spec_from_file_location(name, folder / "__init__.py") or spec
            spec.submodule_search_locations = [str(folder)]
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            if spec.loader:
                spec.loader.exec_module(module)
