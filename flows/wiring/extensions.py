"""`extend:` and `--extend`: folders of a user's own tasks and choices, beside the shipped ones."""

from __future__ import annotations

import importlib.util
import keyword
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.python.codebase import TASKS, Package
from flows.wiring.tree import Yaml, fail, name_of, quoted, quoted_value
from flows.wiring.where import Where
from tasks.contract import EXTENSIONS

VARIABLE = "ALIGNFLOW_EXTEND"
"""Environment variable with the folders of `--extend`, which extend every file; they are separated as in PATH."""


@dataclass(frozen=True)
class Extension:
    """A package, and the place that names it."""

    package: Package
    where: Where


def extensions(node: Yaml | None, base: Path) -> Iterator[Extension]:
    """The packages of a file's `extend:`, whose paths are relative to `base`. Raises SpecError."""
    if node is not None and not isinstance(node.value, list):
        fail(node.where, f"extend = {quoted_value(node)}; it must be a list of folders, e.g. [./mylab]")
    for one in node.value if node is not None and isinstance(node.value, list) else ():
        if not isinstance(one.value, str):
            fail(one.where, f"extend = {quoted_value(one)}; it must be a list of folders, e.g. [./mylab]")
        yield Extension(_package(base / Path(one.value).expanduser(), one.where), one.where)


def given_extensions() -> Iterator[Extension]:
    """The packages of the command line, or of the environment. Raises SpecError."""
    where = Where("--extend")
    for folder in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        yield Extension(_package(Path(folder), where), where)


def united(extensions: Iterable[Extension]) -> tuple[Package, ...]:
    """The shipped tasks and all these packages. Raises SpecError where two folders have one name."""
    by_name: dict[str, Extension] = {}
    for one in extensions:
        other = by_name.setdefault(one.package.name, one)
        if other.package != one.package:
            what = f"{one.package.shown} and {other.package.shown} ({other.where}) have one name; rename a folder"
            fail(one.where, f"extend: {what}")
    return (TASKS, *(one.package for one in by_name.values()))


def _package(folder: Path, where: Where) -> Package:
    path = Path(os.path.realpath(folder))
    if not path.is_dir():
        fail(where, f"extend = {quoted(str(folder))}; there is no such folder")
    check_package_name(path.name, path, where)
    return Package(path.name, path, name_of(path))


def check_package_name(name: str, folder: Path, where: Where) -> None:
    """Raise SpecError for a name that cannot be imported, or by which another package than `folder` is imported."""
    if not name.isidentifier() or keyword.iskeyword(name):
        fail(where, f"{quoted(name)} is an invalid name for a package; use letters, digits and _")
    if name in ("tasks", "flows") or name in sys.stdlib_module_names or _is_installed(name, folder):
        fail(where, f"{quoted(name)} is the name of another package, which it would hide; choose another name")


def _is_installed(name: str, folder: Path) -> bool:
    """Whether another package of that name can be imported."""
    if name in EXTENSIONS:
        return False
    spec = importlib.util.find_spec(name)
    return spec is not None and str(folder) not in map(os.path.realpath, spec.submodule_search_locations or ())
