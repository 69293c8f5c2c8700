"""What the code that steps run may not do, because no key could follow it, and what to do instead.

A use whose result cannot change is declared in its own file: `UNKEYED = {"os.environ": "why it changes no result"}`.
"""

from __future__ import annotations

from collections.abc import Iterator

from flows.python.units import UNKEYED, CodeUnit, UnitFile
from tasks.contract import SpecError

CHOICE = "take a choice as a parameter instead"
NAMES = "write the names out"
_PARAMETER = "take the value as a parameter (as Execution[...] where it changes no result)"
DATA_FILE = "put the file into the folder data of its package and name it with tasks.contract.data_file"
_SOURCE = "read no source and no documentation; write the value down"
REFUSED: dict[str, str] = {
    "__import__": CHOICE, "importlib": CHOICE, "pkgutil": CHOICE, "runpy": CHOICE, "imp": CHOICE,
    "eval": NAMES, "exec": NAMES, "compile": NAMES, "globals": NAMES, "locals": NAMES, "builtins": NAMES,
    "sys.modules": NAMES, "sys._getframe": NAMES, "inspect.currentframe": NAMES, "inspect.stack": NAMES,
    "os.environ": _PARAMETER, "os.environb": _PARAMETER, "os.getenv": _PARAMETER, "os.getenvb": _PARAMETER,
    "sys.argv": _PARAMETER, "sys.path": _PARAMETER,
    "importlib.resources": DATA_FILE, "pkgutil.get_data": DATA_FILE, "inspect.getfile": DATA_FILE,
    "inspect.getsourcefile": DATA_FILE,
    "inspect.getdoc": _SOURCE, "inspect.getsource": _SOURCE, "inspect.getsourcelines": _SOURCE,
    "inspect.get_annotations": _SOURCE, "typing.get_type_hints": _SOURCE,
}  # fmt: skip
"""Whole names, which stand for all below them too: `os.environ` for `os.environ.get`."""
_HIDDEN = {"__file__": DATA_FILE, "__path__": DATA_FILE, "__doc__": _SOURCE, "__annotations__": _SOURCE}


class Refusals:
    """Looks at the units of one file. `file` is its path as people read it."""

    def __init__(self, file: str, source: UnitFile) -> None:
        self._file, self._source = file, source

    def name(self, whole: str, line: int) -> None:
        """Refuse a use of what `whole` names outside of our packages, or of a built-in."""
        found = [name for name in _with_all_above(whole) if name in REFUSED]
        if found:
            shown = whole if whole.count(".") < 2 else found[-1]
            self.use(shown, REFUSED[found[-1]], line, *found, whole)

    def hidden(self, unit: CodeUnit) -> None:
        """Refuse `__file__`, `__globals__` and the like, wherever they are looked up."""
        for name, line in unit.hidden.items():
            self.use(name, _HIDDEN.get(name, NAMES), line)

    def use(self, what: str, instead: str, line: int, *declared_as: str) -> None:
        """Refuse what a file does not declare to change no result, by one of these names."""
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
