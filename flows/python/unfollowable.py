"""What the code of steps may not use, because no key could follow it, and what to use instead.

A use that changes no result is declared in its own file: `UNKEYED = {"os.environ": "why it changes no result"}`.
"""

from __future__ import annotations

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
"""Whole names, each with everything below it: `os.environ` for `os.environ.get` too."""
_HIDDEN = {"__file__": DATA_FILE, "__path__": DATA_FILE, "__doc__": _SOURCE, "__annotations__": _SOURCE}


class Refusals:
    """The refusals of one file. `file` is its path as messages name it."""

    def __init__(self, file: str, source: UnitFile) -> None:
        self._file, self._source = file, source

    def name(self, whole: str, line: int) -> None:
        """Refuse a use of a name of another package, or of a built-in."""
        parts = whole.split(".")
        refused = [name for i in range(len(parts)) if (name := ".".join(parts[: i + 1])) in REFUSED]
        if refused:
            shown = whole if whole.count(".") < 2 else refused[-1]
            self.use(shown, REFUSED[refused[-1]], line, *refused, whole)

    def hidden(self, unit: CodeUnit) -> None:
        """Refuse `__file__`, `__globals__` and the like, whatever they are attributes of."""
        for name, line in unit.hidden.items():
            self.use(name, _HIDDEN.get(name, NAMES), line)

    def use(self, what: str, instead: str, line: int, *declared_as: str) -> None:
        """Refuse a use, unless the file declares by one of these names that it changes no result."""
        if any(name in self._source.unkeyed for name in (what, *declared_as)):
            return
        raise SpecError(
            f"{self._file}:{line}: {what} is refused, because the key cannot follow it; {instead}, "
            f"or declare in {UNKEYED} why it changes no result"
        )
