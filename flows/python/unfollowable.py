"""What the code of steps may not use, because no key could follow it, and what to use instead.

A use that changes no result is declared in its own file: `UNKEYED = {"os.environ": "why it changes no result"}`.
"""

from __future__ import annotations

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
HIDDEN_INSTEAD = {"__file__": DATA_FILE, "__path__": DATA_FILE, "__doc__": _SOURCE, "__annotations__": _SOURCE}
"""Attributes; the others that `flows.python.canonical` collects are names to write out."""
