"""What a user's program is made of: its file, the modules beside it that it imports, other files, installed packages.

All of it is read from the source, which is parsed and not executed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.contract import SpecError

UNKEYED = {
    "importlib.util.find_spec": "whether a package is installed; its version is in the key",
    "importlib.metadata.packages_distributions": "which packages the imports are of; their versions are in the key",
    "importlib.metadata.version": "the version is in the key",
}

_OURS = ("tasks", "flows")
_PACKAGE = "__init__"
"""Name of the file that makes a folder a package."""
_SIGNATURE = "(prompt, completion, truth)"


@dataclass(frozen=True)
class ProgramFiles:
    """The files of a program."""

    folder: Path
    main: str
    """Name of the file in the folder."""
    name: str
    """Of the function."""
    others: tuple[str, ...] = ()
    """Relative names of the modules that it imports and of the files that it reads, each in the folder."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Installed package → version, of those that it imports."""

    @property
    def shown(self) -> str:
        return f"{self.main}::{self.name}"

    @property
    def all(self) -> dict[str, Path]:
        """Relative name → path."""
        return {name: self.folder / name for name in (self.main, *self.others)}


def program_files(function: str, files: Sequence[str], base: Path) -> ProgramFiles:
    """The files of the program `path/of/file.py::name`, whose path is relative to `base`.

    Raises SpecError where the file, the function or an imported package is missing, where the function cannot be
    called with (prompt, completion, truth), and where a module is of alignflow's own.
    """
    path, separator, name = function.rpartition("::")
    if not separator or not name.isidentifier() or not path.endswith(".py"):
        raise SpecError(f"'{function}' does not name a function of a file: write path/of/file.py::name")
    file = (base / Path(path).expanduser()).resolve()
    if not file.is_file():
        raise SpecError(f"there is no file '{path}' (relative to {base})")
    modules, packages = _imported_by(file)
    _check_function(_parsed(file), name, file)
    read = [_beside(one, file, base) for one in files]
    others = sorted({*(m.relative_to(file.parent).as_posix() for m in modules if m != file), *read})
    return ProgramFiles(file.parent, file.name, name, tuple(others), packages)


def _beside(path: str, file: Path, base: Path) -> str:
    """The relative name of a file or folder that the program reads."""
    place = (base / Path(path).expanduser()).resolve()
    if not place.exists():
        raise SpecError(f"there is no file or directory '{path}' (relative to {base})")
    if not place.is_relative_to(file.parent) or place == file.parent:
        raise SpecError(
            f"'{path}' must lie in {file.parent}, the folder of the program, or below it: its copy is put there"
        )
    return place.relative_to(file.parent).as_posix()


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, ValueError) as e:
        where = f"{file}:{e.lineno}" if isinstance(e, SyntaxError) else str(file)
        raise SpecError(f"{where}: invalid Python: {e.msg if isinstance(e, SyntaxError) else e}") from e


def _check_function(tree: ast.Module, name: str, file: Path) -> None:
    """Refuse a file without the function, and a function with other arguments."""
    defined = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = next((n for n in reversed(defined) if n.name == name), None)
    if found is None:
        if name in _bound_in(tree):
            return  # an import or an assignment: the child process sees whether it can be called
        known = ", ".join(n.name for n in defined if not n.name.startswith("_")) or "none"
        raise SpecError(f"{file} has no function '{name}'; its functions are: {known}")
    place, arguments = f"{file}:{found.lineno}", found.args
    if isinstance(found, ast.AsyncFunctionDef):
        raise SpecError(f"{place}: '{name}' is asynchronous; a program is a plain function {_SIGNATURE}")
    positional = len(arguments.posonlyargs) + len(arguments.args)
    needless = sum(default is None for default in arguments.kw_defaults)
    if positional - len(arguments.defaults) > 3 or (positional < 3 and arguments.vararg is None) or needless:
        shown = ast.unparse(arguments)
        raise SpecError(f"{place}: {name}({shown}) cannot be called with {_SIGNATURE}, as a program is")


def _bound_in(tree: ast.Module) -> set[str]:
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return stored | {(alias.asname or alias.name).partition(".")[0] for one in imports for alias in one.names}


def _imported_by(file: Path) -> tuple[set[Path], dict[str, str]]:
    """The modules beside a file that it and they import, and the installed packages with their versions."""
    modules, waiting, packages = {file}, [file], set[str]()
    while waiting:
        current = waiting.pop()
        tree = _parsed(current)
        needed = {id(statement) for statement in tree.body}
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)):
            for name in _names(node, current, file.parent):
                own = [*_modules(name, file.parent)]
                fresh = [m for m in own if m not in modules]
                modules.update(fresh)
                waiting += fresh
                if not own and (package := _package(name, f"{current}:{node.lineno}", needed=id(node) in needed)):
                    packages.add(package)
    return modules, _versions(packages)


def _names(node: ast.Import | ast.ImportFrom, file: Path, root: Path) -> Iterator[str]:
    """Full names of the modules that a statement may import."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    parts = file.relative_to(root).parts[: -node.level] if node.level else ()
    module = ".".join([*parts, *filter(None, [node.module])])
    if module:
        yield module
    if node.level or [*_modules(module, root)]:
        yield from (f"{module}.{alias.name}" if module else alias.name for alias in node.names)


def _modules(name: str, root: Path) -> Iterator[Path]:
    """The files below `root` that the import of a module executes."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:n])
        files = [stem.with_name(f"{stem.name}.py") for stem in (place, place / _PACKAGE)]
        yield from (f for f in files if f.is_file())


def _package(name: str, place: str, *, needed: bool) -> str:
    """The installed package of a module; empty for the standard library, and for one that is missing and may be."""
    from importlib.util import find_spec

    top = name.partition(".")[0]
    if top in _OURS:
        raise SpecError(
            f"{place}: a program cannot import '{top}', whose code would be in no key: copy what it needs beside it"
        )
    if not top or top in sys.stdlib_module_names:
        return ""
    if find_spec(top) is None:
        if needed:
            raise SpecError(f"{place}: '{top}' is neither a module beside the program nor an installed package")
        return ""
    return top


def _versions(packages: set[str]) -> dict[str, str]:
    if not packages:
        return {}
    from importlib.metadata import packages_distributions, version

    owners = packages_distributions()
    names = {d for package in packages for d in owners.get(package, ())}
    return {name: version(name) for name in sorted(names)}
