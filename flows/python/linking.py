"""What the names in a unit mean: units of ours, or things of other packages. Refuses what no key can follow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from blake3 import blake3

from flows.python.canonical import WatchedCall
from flows.python.codebase import Codebase
from flows.python.imports import Binding
from flows.python.packages import NUMBERS
from flows.python.unfollowable import CHOICE, DATA_FILE, HIDDEN_INSTEAD, NAMES, REFUSED
from flows.python.units import UNKEYED, CodeUnit
from tasks.contract import SpecError

Place = tuple[str, str]
"""A unit: its module and its name."""
_CHOSEN = ("tasks.contract", "Chosen")
_DATA_FILE = ("tasks.contract", "data_file")
DATA = "data"
"""The folder of a package with the data files that code reads by `tasks.contract.data_file`."""


@dataclass(frozen=True)
class Linked:
    """A unit with the meaning of its names."""

    digest: str
    """Of its canonical form and of what its names mean: names of our units, whole names of other packages. No path."""
    uses: Mapping[str, Place]
    """The units that it uses, by the names in its code."""
    packages: frozenset[str]
    data: Mapping[str, str]
    """Data files that it names, with their content digests."""


def link(codebase: Codebase, module: str, name: str) -> Linked:
    """Find the meaning of each name in a unit. Raises SpecError for what a key cannot follow."""
    return _Link(codebase, module, name).linked()


class _Link:
    def __init__(self, codebase: Codebase, module: str, name: str) -> None:
        self._codebase, self._module, self._source = codebase, module, codebase.units(module)
        self._file = codebase.shown(module)
        self._unit: CodeUnit = self._source.units[name]
        self._uses: dict[str, Place] = {}
        self._outside: dict[str, str] = {}
        self._data: dict[str, str] = {}

    def linked(self) -> Linked:
        for dotted, line in self._unit.names.items():
            self._name(dotted, line)
        for hidden, line in self._unit.hidden.items():
            self._refuse(hidden, HIDDEN_INSTEAD.get(hidden, NAMES), line)
        self._stores()
        self._texts()
        for call in self._unit.calls:
            self._call(call)
        meanings = {**self._outside, **{used: unit for used, (_, unit) in self._uses.items()}}
        lines = [self._unit.digest, *(f"{used}={meaning}" for used, meaning in sorted(meanings.items()))]
        packages = {whole.split(".")[0] for whole in self._outside.values()} & NUMBERS
        digest = blake3("\n".join(lines).encode()).hexdigest(16)
        return Linked(digest, self._uses, frozenset(packages), self._data)

    def _name(self, dotted: str, line: int) -> None:
        head, *rest = dotted.split(".")
        hidden = head in self._unit.locals  # a local variable of an import's name has attributes of its own
        bindings = [*self._bindings(head)]
        for target, name in bindings:
            try:
                self._target(target, [*([name] if name else []), *rest], dotted, line)
            except SpecError:
                if not hidden:
                    raise
        if bindings or (hidden and head not in self._source.units):
            return
        if head in self._source.units:
            self._uses[dotted] = (self._module, head)
        else:
            self._outside_name(dotted, line)

    def _outside_name(self, whole: str, line: int) -> None:
        """Refuse the names in REFUSED, of other packages and built-in ones."""
        parts = whole.split(".")
        refused = [name for i in range(len(parts)) if (name := ".".join(parts[: i + 1])) in REFUSED]
        if refused:
            shown = whole if whole.count(".") < 2 else refused[-1]
            self._refuse(shown, REFUSED[refused[-1]], line, *refused, whole)

    def _refuse(self, what: str, instead: str, line: int, *declared_as: str) -> None:
        """Refuse a use, unless the file declares by one of these names that it changes no result."""
        if not any(name in self._source.unkeyed for name in (what, *declared_as)):
            how = f"{instead}, or declare in {UNKEYED} why it changes no result"
            raise SpecError(f"{self._file}:{line}: {what} is refused, because the key cannot follow it; {how}")

    def _bindings(self, head: str) -> Iterator[Binding]:
        return (scope[head] for scope in (self._unit.imports, self._source.imports) if head in scope)

    def _target(self, target: str, names: list[str], dotted: str, line: int) -> None:
        """Follow `names` from the module `target`: into sub-modules, to a unit, through re-exports."""
        if not self._codebase.is_ours(target):
            whole = ".".join([target, *names])
            if line > 0:
                self._outside_name(whole, line)
            self._outside[dotted] = whole
            return
        source = self._codebase.units(target)
        if not names:
            for unit in source.units:
                self._uses[f"{dotted}.{unit}"] = (target, unit)
        elif names[0] in source.units:
            self._uses[dotted] = (target, names[0])
        elif names[0] in source.imports:
            again, name = source.imports[names[0]]
            self._target(again, [*([name] if name else []), *names[1:]], dotted, line)
        elif self._codebase.is_module(f"{target}.{names[0]}"):
            self._target(f"{target}.{names[0]}", names[1:], dotted, line)
        elif names[0] == "__dict__":
            self._refuse("vars() of a module or of all local names", NAMES, line, "vars")
        elif not names[0].startswith("__"):
            raise SpecError(f"{self._file}:{abs(line)}: '{target}.{names[0]}' does not exist")

    def _stores(self) -> None:
        for stored, line in self._unit.stores.items():
            head = stored.split(".")[0]
            foreign = any(self._codebase.is_ours(target) for target, _ in self._bindings(head))
            if foreign and head not in self._unit.locals:
                what = f"setting '{stored}', which another file defines,"
                self._refuse(what, "set it in its own file", line, stored)

    def _texts(self) -> None:
        """Refuse a text that names a file beside the code, or one by its whole path."""
        path = self._codebase.files[self._module]
        for text, line in self._unit.texts.items():
            package = self._codebase.packages.get(text.split("/")[0])
            if os.path.isfile(os.path.join(package.folder.parent if package else path.parent, text)):
                self._refuse(f"the file '{text}'", DATA_FILE, line, text)

    def _call(self, call: WatchedCall) -> None:
        name = call.function.rpartition(".")[2]
        if name in ("open", "Path"):
            self._open(call)
        elif name in ("Chosen", "data_file"):
            self._own(call)
        elif call.function == "vars":
            if not call.argument or self._is_module(call.argument):
                self._refuse("vars() of a module or of all local names", NAMES, call.line, "vars")
        elif call.function == name and self._is_module(call.argument):
            what = f"{name} on the module '{call.argument}'"
            self._refuse(what, f"write the attribute, or {CHOICE}", call.line, name)

    def _open(self, call: WatchedCall) -> None:
        """Refuse a path that is written out: the file is in no key."""
        text = call.argument[1:-1] if call.argument[:1] in "'\"" else ""
        if call.function in ("open", "io.open", "Path", "pathlib.Path") and text.strip("./~"):
            self._refuse(f"the file '{text}'", DATA_FILE, call.line, text)

    def _own(self, call: WatchedCall) -> None:
        meaning = self._uses.get(call.function)
        if meaning == _CHOSEN:
            self._refuse("a Chosen that a task makes", CHOICE, call.line, "tasks.contract.Chosen")
        elif meaning == _DATA_FILE and call.argument[:1] in ("'", '"'):
            self._read(call.argument[1:-1], call.line)
        elif meaning == _DATA_FILE:
            self._refuse("data_file with a computed name", "write the file's name out", call.line, "data_file")

    def _read(self, name: str, line: int) -> None:
        found = [p for p in self._codebase.packages.values() if (p.folder / DATA / name).is_file()]
        if len(found) != 1:
            files = [f"{p.shown}/{DATA}/{name}" for p in found or self._codebase.packages.values()]
            what = f"rename one of {' and '.join(files)}" if found else f"there is no file {' or '.join(files)}"
            raise SpecError(f"{self._file}:{line}: {what}")
        content = (found[0].folder / DATA / name).read_bytes()
        self._data[f"{found[0].name}/{DATA}/{name}"] = blake3(content).hexdigest(16)

    def _is_module(self, dotted: str) -> bool:
        head, *rest = dotted.split(".")
        if head in self._unit.locals or not dotted.replace(".", "").replace("_", "").isalnum():
            return False
        return any(self._names_module(target, name, rest) for target, name in self._bindings(head))

    def _names_module(self, target: str, name: str | None, rest: list[str]) -> bool:
        whole = ".".join([target, *([name] if name else []), *rest])
        if not self._codebase.is_ours(target):
            return name is None and not rest
        module, _, last = whole.rpartition(".")
        return self._codebase.is_module(whole) and not ((name or rest) and last in self._codebase.units(module).units)
