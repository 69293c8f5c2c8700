"""What the code that steps run may not do, because no key could follow it, and what to do instead.

A use whose result cannot change is declared in its own file: `UNKEYED = {"os.environ": "why it changes no result"}`.
"""

from __future__ import annotations

from collections.abc import Iterator

from flows.python.units import UNKEYED, CodeUnit, UnitFile
from tasks.contract import SpecError

_CHOICE = "take a choice as a parameter instead"
_NAMES = "write the names out"
_PARAMETER = "take the value as a parameter (as Execution[...] where it changes no result)"
_DATA = "put the file into the folder data of its package and name it with tasks.contract.data_file"
_SOURCE = "read no source and no documentation; write the value down"
REFUSED: dict[str, str] = {
    "__import__": _CHOICE, "importlib": _CHOICE, "pkgutil": _CHOICE, "runpy": _CHOICE, "imp": _CHOICE,
    "eval": _NAMES, "exec": _NAMES, "compile": _NAMES, "globals": _NAMES, "locals": _NAMES, "builtins": _NAMES,
    "sys.modules": _NAMES, "sys._getframe": _NAMES, "inspect.currentframe": _NAMES, "inspect.stack": _NAMES,
    "os.environ": _PARAMETER, "os.environb": _PARAMETER, "os.getenv": _PARAMETER, "os.getenvb": _PARAMETER,
    "sys.argv": _PARAMETER, "sys.path": _PARAMETER,
    "importlib.resources": _DATA, "pkgutil.get_data": _DATA, "inspect.getfile": _DATA, "inspect.getsourcefile": _DATA,
    "inspect.getdoc": _SOURCE, "inspect.getsource": _SOURCE, "inspect.getsourcelines": _SOURCE,
    "inspect.get_annotations": _SOURCE, "typing.get_type_hints": _SOURCE,
}  # fmt: skip
"""Whole names, which stand for all below them too: `os.environ` for `os.environ.get`."""
_HIDDEN = {"__file__": _DATA, "__path__": _DATA, "__doc__": _SOURCE, "__annotations__": _SOURCE}
_ON_MODULES = frozenset({"getattr", "setattr", "delattr", "hasattr"})


class Refusals:
    """Looks at the units of one file. `file` is its path as people read it."""

    def __init__(self, file: str, source: UnitFile) -> None:
        self._file, self._source = file, source

    def name(self, whole: str, line: int) -> None:
        """Refuse a use of what `whole` names outside of our packages, or of a built-in."""
        found = [name for name in _with_all_above(whole) if name in REFUSED]
        if found:
            shown = whole if whole.count(".") < 2 else found[-1]
            self._refuse(shown, REFUSED[found[-1]], line, *found, whole)

    def hidden(self, unit: CodeUnit) -> None:
        """Refuse `__file__`, `__globals__` and the like, wherever they are looked up."""
        for name, line in unit.hidden.items():
            self._refuse(name, _HIDDEN.get(name, _NAMES), line)

    def module_call(self, function: str, argument: str, line: int) -> None:
        """Refuse `getattr` and its kin on the module that `argument` names."""
        self._refuse(f"{function} on the module '{argument}'", f"write the attribute, or {_CHOICE}", line, function)

    def namespace(self, line: int) -> None:
        """Refuse `vars()` as a namespace."""
        self._refuse("vars() of a module or of all local names", _NAMES, line, "vars")

    def chosen(self, line: int) -> None:
        """Refuse making a choice: only a wiring makes one, and then its code is in the key."""
        self._refuse("a Chosen that a task makes", _CHOICE, line, "tasks.contract.Chosen")

    def data(self, line: int) -> None:
        self._refuse("data_file with a computed name", "write the file's name out", line, "data_file")

    def foreign(self, stored: str, line: int) -> None:
        """Refuse setting an attribute of what another file defines: what it is then depends on what ran before."""
        self._refuse(f"setting '{stored}', which another file defines,", "set it in its own file", line, stored)

    def text(self, text: str, line: int) -> None:
        """Refuse a text that names a file beside the code."""
        self._refuse(f"the file '{text}'", _DATA, line, text)

    def _refuse(self, what: str, instead: str, line: int, *declared_as: str) -> None:
        if any(name in self._source.unkeyed for name in (what, *declared_as)):
            return
        raise SpecError(
            f"{self._file}:{line}: {what} is refused, because the key cannot follow it; {instead}, "
            f"or declare in {UNKEYED} why it changes no result"
        )


def _with_all_above(name: str) -> Iterator[str]:
    """`a.b.c` → `a`, `a.b`, `a.b.c`."""
    parts = name.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))
