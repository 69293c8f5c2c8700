"""Runs what tasks and choices declare about themselves (`tasks.declarations`), without importing their files.

Of a file only the declaration runs, with the top-level statements whose names it uses.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.python.closure import closure
from flows.python.codebase import Codebase
from flows.python.importing import active_packages
from flows.python.units import UnitFile
from tasks.contract import SpecError


class Declarations:
    """The declarations in a code base; by default in the packages whose tasks this process runs.

    Attributes:
        notices: what a user should know of declarations that failed.
    """

    def __init__(self, codebase: Codebase | None = None) -> None:
        self._codebase = codebase or Codebase(active_packages())
        self._values: dict[tuple[str, str], Any] = {}
        self._task_values: dict[str, Any] = {}
        self.notices: list[str] = []

    def names(self, ending: str = "") -> dict[str, str]:
        """Top-level name → its module, for the names that end so in all modules that may hold tasks."""
        modules = [m for m in self._codebase.files if m.count(".") == 1 and self._codebase.mentions(m, ending)]
        named = ((name, module) for module in reversed(modules) for name in self._source(module).units)
        return {name: module for name, module in named if name.endswith(ending)}

    def of_task(self, task: str, what: str) -> Any:
        """The declaration `<task>_<what>`, a function or a constant; None where the task has none."""
        name = f"{task}_{what}"
        if name not in self._task_values:
            module = self.names(name).get(name)
            self._task_values[name] = self._value(module, name) if module else None
        return self._task_values[name]

    def of_choice(self, folder: str, choice: str, what: str) -> Any:
        """The declaration `<what>` in the file of a choice; None where it has none."""
        modules = (".".join([package, *folder.split("/"), choice]) for package in self._codebase.packages)
        return next((self._value(module, what) for module in modules if what in self._source(module).units), None)

    def all_of(self, what: str) -> Iterator[tuple[str, Any]]:
        """(task, declaration) for every task that declares this."""
        modules = {name.removesuffix(f"_{what}"): module for name, module in self.names(f"_{what}").items()}
        for task, module in sorted(modules.items()):
            if task in self._source(module).units and (value := self.of_task(task, what)) is not None:
                yield task, value

    def value(self, declaration: Any, kind: Any, *given: Any, **params: Any) -> Any:
        """A constant, or what a function returns; None, with a notice, where it fails or returns another type."""
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
        """Add to the notices, once."""
        if text not in self.notices:
            self.notices.append(text)

    def _source(self, module: str) -> UnitFile:
        """A module's code; empty where it is refused, which `check` reports."""
        try:
            return self._codebase.units(module)
        except SpecError:
            return UnitFile()

    def _value(self, module: str, name: str) -> Any:
        if (module, name) not in self._values:
            file = self._codebase.files[module]
            try:
                self._values[module, name] = _executed(file, self._source(module), name)
            except Exception as e:
                self._values[module, name] = None
                self.notice(f"{file}: {name} cannot be used ({type(e).__name__}: {e})")
        return self._values[module, name]


def failure(function: Any, error: Exception) -> str:
    """FILE:LINE: what went wrong in a declaration."""
    lines = {f.filename: f.lineno for f in traceback.extract_tb(error.__traceback__)}
    return f"{_place(function, lines)} failed ({type(error).__name__}: {error})"


def _place(function: Any, lines: Mapping[str, int | None] | None = None) -> str:
    """FILE:LINE: NAME, at the last of `lines` in its file."""
    code, name = getattr(function, "__code__", None), getattr(function, "__name__", repr(function))
    line = (lines or {}).get(code.co_filename, code.co_firstlineno) if code else 0
    return f"{code.co_filename}:{line}: {name}" if code else name


def _executed(file: Path, source: UnitFile, name: str) -> Any:
    """The value of a top-level name after the statements that it needs, and no others, have run."""

    def used(name: str) -> Iterator[str]:
        names = source.units[name].names if name in source.units else ()
        return (head for head in (dotted.split(".")[0] for dotted in names) if head in source.spans)

    spans = [span for needed in closure([name], used) for span in source.spans[needed]]
    lines = {line for first, last in spans for line in range(first, last + 1)}
    text = "\n".join(
        line if number in lines else "" for number, line in enumerate(file.read_text().split("\n"), start=1)
    )
    space: dict[str, Any] = {"__name__": f"{file.stem} (declarations)"}
    exec(compile(text, str(file), "exec", annotations.compiler_flag), space)
    return space[name]
