"""Which code a task reaches, and its digest.

Followed are the names that a unit uses, `module.attribute`s and imports inside functions included, as long as they
lead into `tasks/`. What packages outside compute counts by their public versions, if they make numbers.
Left out on purpose: contracts and kinds (a schema's change shows in the content of the tables).
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

from flows.store.files import write_cache
from flows.store.packages import BEHIND, NUMBERS, version
from flows.store.source import MODULE, Binding, Source, Unit, parse
from tasks.contract import JSON, SpecError

UNFOLLOWED = frozenset({"tasks.arrow", "tasks.contract", "tasks.kinds"})
_FORMAT = f"5 {sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Reached:
    """Code that a function reaches: digest by `path::unit`, and the number-making packages it imports."""

    units: dict[str, str]
    packages: frozenset[str]

    def __or__(self, other: Reached) -> Reached:
        return Reached(dict(sorted({**self.units, **other.units}.items())), self.packages | other.packages)

    @property
    def digest(self) -> str:
        """One digest of the code and of the packages' versions."""
        return blake3(json.dumps([sorted(self.units.items()), self.versions]).encode()).hexdigest(16)

    @property
    def versions(self) -> dict[str, str]:
        """Public version by package, sorted; "absent" where it is not installed."""
        return {p: version(p) for p in sorted(self.packages)}


class CodeIndex:
    """The code below `root/tasks`, read once: make a new one to see later edits.

    `cache` is a JSON file of parsed sources by digest; without it each index parses what it needs itself.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root = root
        self._cache = cache
        self._parsed: dict[str, dict[str, object]] = _read_cache(cache)
        self._new = False
        self._sources: dict[str, Source | None] = {}
        self._reached: dict[tuple[str, str], Reached] = {}

    def reach(self, module: str, function: str) -> Reached:
        """What `module.function` reaches. Raises SpecError if it does not exist or cannot be followed."""
        if (module, function) not in self._reached:
            self._reached[module, function] = _Walk(self).run(module, function)
            self.save()
        return self._reached[module, function]

    def defines(self, module: str, name: str) -> bool:
        """Whether the file of `module` defines `name` at its top level."""
        source = self.source(module)
        return source is not None and name in source.units

    def check(self) -> None:
        """Parse every file below `tasks/`. Raises SpecError for an import that cannot be followed."""
        for file in sorted((self.root / "tasks").rglob("*.py")):
            parts = file.relative_to(self.root).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            source = self.source(module)
            for name in source.units if source and module not in UNFOLLOWED else ():
                self.reach(module, name)

    def source(self, module: str) -> Source | None:
        """The parsed file of a module of ours, or None if there is none."""
        if module not in self._sources:
            path = self.path(module)
            self._sources[module] = self._parse(path) if path else None
        return self._sources[module]

    def path(self, module: str) -> Path | None:
        base = self.root.joinpath(*module.split("."))
        return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)

    def is_module(self, module: str) -> bool:
        return self.path(module) is not None or self.root.joinpath(*module.split(".")).is_dir()

    def name(self, module: str) -> str:
        """The module's path as people read it: `tasks/oracles/toy_gold.py`."""
        path = self.path(module)
        return path.relative_to(self.root).as_posix() if path else module

    def _parse(self, path: Path) -> Source:
        data = path.read_bytes()
        digest = blake3(data).hexdigest(16)
        if digest in self._parsed:
            return _loaded(self._parsed[digest])
        collecting = gc.isenabled()
        gc.disable()  # a tree is all live objects: collecting in between doubles the time
        try:
            source = parse(data.decode(), path.relative_to(self.root).as_posix())
        finally:
            if collecting:
                gc.enable()
        self._parsed[digest] = asdict(source)
        self._new = True
        return source

    def save(self) -> None:
        """Keep what was parsed for the next command."""
        if self._cache is None or not self._new:
            return
        kept: dict[str, JSON] = dict(list(self._parsed.items())[-1000:])  # type: ignore[arg-type]
        write_cache(self._cache, {"format": _FORMAT, "sources": kept})
        self._new = False


def _read_cache(cache: Path | None) -> dict[str, dict[str, object]]:
    try:
        data = json.loads(cache.read_text()) if cache else {}
    except (OSError, ValueError):
        return {}
    return data["sources"] if data.get("format") == _FORMAT else {}


def _loaded(data: dict[str, object]) -> Source:
    source = Source()
    for name, unit in data["units"].items():  # type: ignore[attr-defined]
        imports = {k: (m, n) for k, (m, n) in unit["imports"].items()}
        source.units[name] = Unit(**{**unit, "imports": imports})
    source.imports = {k: (m, n) for k, (m, n) in data["imports"].items()}  # type: ignore[attr-defined]
    return source


class _Walk:
    """One search through the units, from a function on."""

    def __init__(self, index: CodeIndex) -> None:
        self.index = index
        self.units: dict[str, str] = {}
        self.packages: set[str] = set()
        self.todo: list[tuple[str, str]] = []

    def run(self, module: str, function: str) -> Reached:
        if not self.index.defines(module, function):
            raise SpecError(f"{self.index.name(module)} has no top-level '{function}'")
        self.todo.append((module, function))
        while self.todo:
            self._unit(*self.todo.pop())
        for package in list(self.packages):
            self.packages.update(BEHIND.get(package, ()))
        return Reached(dict(sorted(self.units.items())), frozenset(self.packages))

    def _unit(self, module: str, name: str) -> None:
        key = f"{self.index.name(module)}::{name}"
        if key in self.units or module in UNFOLLOWED:
            return
        source = self.index.source(module)
        assert source is not None
        unit = source.units[name]
        self.units[key] = unit.digest
        for parent in _with_parents(module):
            found = self.index.source(parent)
            if found and MODULE in found.units:
                self.todo.append((parent, MODULE))
        scopes = [unit.imports, source.imports]
        for dotted in unit.names:
            for scope in scopes:
                self._name(dotted, module, scope, unit)
        for dotted in unit.getattrs:
            if dotted.split(".")[0] not in unit.locals:
                self._refuse_getattr(dotted, unit, scopes, module)

    def _name(self, dotted: str, module: str, scope: dict[str, Binding], unit: Unit) -> None:
        head, *rest = dotted.split(".")
        if head in scope:
            target, name = scope[head]
            try:
                self._target(target, [*([name] if name else []), *rest], module)
            except SpecError:
                if head not in unit.locals:  # a local variable of an import's name has attributes of its own
                    raise
        elif self.index.defines(module, head):
            self.todo.append((module, head))
        elif head == "__import__":
            raise self._dynamic(module)

    def _target(self, target: str, names: list[str], user: str) -> None:
        """Follow `names` from the module `target`: into sub-modules, to a unit, through re-exports."""
        top = target.split(".")[0]
        if top != "tasks":
            if target == "importlib" and names[:1] in (["import_module"], ["__import__"]):
                raise self._dynamic(user)
            self.packages.update({top} & NUMBERS)
            return
        if target in UNFOLLOWED:
            return
        source = self.index.source(target)
        if not names:
            self.todo.extend((target, u) for u in (source.units if source else ()))
        elif source and names[0] in source.units:
            self.todo.append((target, names[0]))
        elif source and names[0] in source.imports:
            again, name = source.imports[names[0]]
            self._target(again, [*([name] if name else []), *names[1:]], target)
        elif self.index.is_module(f"{target}.{names[0]}"):
            self._target(f"{target}.{names[0]}", names[1:], user)
        elif not names[0].startswith("__"):
            raise SpecError(f"{self.index.name(user)} uses '{target}.{names[0]}', which does not exist")

    def _dynamic(self, module: str) -> SpecError:
        return SpecError(
            f"{self.index.name(module)}: imports by a computed name are refused in tasks/, because the key cannot "
            "follow them; take a choice as a parameter instead"
        )

    def _refuse_getattr(self, dotted: str, unit: Unit, scopes: list[dict[str, Binding]], module: str) -> None:
        head, *rest = dotted.split(".")
        for scope in scopes:
            if head in scope and self._is_module(*scope[head], rest):
                raise SpecError(
                    f"{self.index.name(module)}:{unit.line}: getattr on the module '{dotted}' is refused in tasks/, "
                    "because the key cannot follow it; write the attribute, or take a choice as a parameter"
                )

    def _is_module(self, target: str, name: str | None, rest: list[str]) -> bool:
        whole = ".".join([target, *([name] if name else []), *rest])
        if target.split(".")[0] != "tasks":
            return name is None and not rest
        source = self.index.source(whole.rpartition(".")[0]) if name or rest else None
        return self.index.is_module(whole) and not (source and whole.rpartition(".")[2] in source.units)


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))
