"""Finds and runs what tasks and choices declare about themselves (`tasks.declarations`), without importing their files.

Of a file only the declaration runs, with the top-level statements whose names it uses.
"""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from flows.python.codebase import TASKS, Codebase
from tasks.contract import EXTENSIONS


class Declarations:
    """The declarations in folders that hold tasks as `tasks/` does. `notices` are those of declarations that failed."""

    def __init__(self, *roots: Path) -> None:
        self._given = roots
        self._loaded: dict[tuple[Path, str], Any] = {}
        self.notices: list[str] = []

    @classmethod
    def of(cls, codebase: Codebase) -> Declarations:
        """Those of the packages of a code base."""
        return cls(*(package.folder for package in codebase.packages.values()))

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        """By default the shipped tasks and the packages that extend them in this process."""
        return self._given or (TASKS.folder, *EXTENSIONS.values())

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        """Top-level name → its file, for all files that may hold tasks."""
        files = [file for root in self._roots for file in sorted(root.glob("*.py"))]
        return {name: file for file in reversed(files) for name in _names(*_stamped(file))}

    def of_task(self, task: str, what: str) -> Any:
        """The declaration `<task>_<what>`, a function or a constant; None where the task has none."""
        name = f"{task}_{what}"
        return self._load(self._files[name], name) if name in self._files else None

    def of_choice(self, folder: str, choice: str, what: str) -> Any:
        """The declaration `<what>` in the file of a choice; None where it has none."""
        files = (root / folder / f"{choice}.py" for root in self._roots)
        return next((self._load(file, what) for file in files if file.is_file() and _defines(file, what)), None)

    def all_of(self, what: str) -> Iterator[tuple[str, Any]]:
        """(task, declaration) for every task that declares this."""
        tasks = sorted(n.removesuffix(f"_{what}") for n in self._files if n.endswith(f"_{what}"))
        for task in (t for t in tasks if t in self._files):
            if (value := self.of_task(task, what)) is not None:
                yield task, value

    def value(self, declaration: Any, kind: Any, *given: Any, **params: Any) -> Any:
        """A constant, or what a function gives; None, with a notice, where it fails or is of another type."""
        if not callable(declaration):
            return declaration
        try:
            value = declaration(*given, **params)
        except Exception as e:
            self.notice(failure(declaration, e))
            return None
        if isinstance(value, kind):
            return value
        self.notice(f"{_place(declaration)} returned {value!r}")
        return None

    def notice(self, text: str) -> None:
        """Keep what a user should know of a declaration, once."""
        if text not in self.notices:
            self.notices.append(text)

    def _load(self, file: Path, name: str) -> Any:
        if (file, name) not in self._loaded:
            try:
                self._loaded[file, name] = _run(*_stamped(file), name)
            except Exception as e:
                self._loaded[file, name] = None
                self.notice(f"{file}: {name} cannot be used ({type(e).__name__}: {e})")
        return self._loaded[file, name]


def failure(function: Any, error: Exception) -> str:
    """FILE:LINE: what went wrong in a declaration."""
    lines = {f.filename: f.lineno for f in traceback.extract_tb(error.__traceback__)}
    return f"{_place(function, lines)} failed ({type(error).__name__}: {error})"


def _place(function: Any, lines: Mapping[str, int | None] | None = None) -> str:
    """FILE:LINE: NAME, at the last of `lines` in its file."""
    code, name = getattr(function, "__code__", None), getattr(function, "__name__", repr(function))
    line = (lines or {}).get(code.co_filename, code.co_firstlineno) if code else 0
    return f"{code.co_filename}:{line}: {name}" if code else name


def _defines(file: Path, name: str) -> bool:
    return name in _names(*_stamped(file))


Stamped = tuple[Path, int, int]
"""A file with what changes when it is edited."""


def _stamped(file: Path) -> Stamped:
    stat = file.stat()
    return file, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=1000)
def _names(file: Path, _time: int, _size: int) -> frozenset[str]:
    """Names of top-level functions and assignments."""
    return frozenset(re.findall(r"^(?:def )?(\w+)(?:\(|: | = )", file.read_text(), re.M))


@lru_cache(maxsize=1000)
def _statements(file: Path, _time: int, _size: int) -> Mapping[str, Sequence[ast.stmt]]:
    """Top-level name → the statements that bind it."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in ast.parse(file.read_text(), str(file)).body:
        for name in _bound(statement):
            found.setdefault(name, []).append(statement)
    return found


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from ((a.asname or a.name).split(".")[0] for a in statement.names)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


def _run(file: Path, time: int, size: int, name: str) -> Any:
    """The value of a top-level name, from the statements that it needs and no others."""
    statements = _statements(file, time, size)
    needed: list[ast.stmt] = []
    todo = [name]
    while todo:
        fresh = [s for s in statements.get(todo.pop(), ()) if s not in needed]
        needed += fresh
        todo += [n for s in fresh for n in _uses(s)]
    module = ast.Module(sorted(needed, key=lambda s: s.lineno), [])
    space: dict[str, Any] = {"__name__": f"{file.stem} (declarations)"}
    exec(compile(module, str(file), "exec", annotations.compiler_flag), space)
    return space[name]


def _uses(node: ast.AST) -> Iterator[str]:
    """Names that a statement reads; those of annotations, which nothing evaluates, are left out."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Name):
                yield child.id
            elif isinstance(child, ast.AST):
                yield from _uses(child)
