"""Which code a task reaches, and its digest.

Followed are the names that a unit uses, `module.attribute`s and imports inside functions included, as long as they
lead into `tasks/`, and what loading the files that hold those units does: statements at their top, registrations by
decorators and by sub-classes, imports that nobody names. What packages outside compute counts by their public
versions, if they make numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from blake3 import blake3

from flows.python.canonical import WatchedCall
from flows.python.linking import Linked, Place, link
from flows.python.packages import BEHIND, PYTHON
from flows.python.reached import Reached
from flows.python.units import MODULE, CodeUnit, UnitFile, parse_units
from flows.store.files import read_cache, write_cache
from tasks.contract import SpecError


@cache
def _format() -> str:
    """Of the parses that are kept: an edit of the parser, or another Python, makes all be parsed again."""
    files = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("canonical", "imports", "units"))
    return f"{PYTHON} {blake3(b''.join(files)).hexdigest(16)}"


class CodeIndex:
    """The code below `root/tasks`, read once: make a new one to see later edits.

    `cache` is a JSON file of parsed sources by digest; without it each index parses what it needs itself.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self.root = root
        self._cache = cache
        self._parsed: dict[str, dict[str, object]] = _read_cache(cache)
        self._new = False
        self._sources: dict[str, UnitFile | None] = {}
        self._linked: dict[Place, Linked] = {}
        self._loaded: dict[str, frozenset[str]] = {}
        self._effects: dict[str, tuple[Place, ...]] = {}
        self._reached: dict[frozenset[Place], Reached] = {}

    def reach(self, module: str, function: str) -> Reached:
        """What `module.function` reaches. Raises SpecError if it does not exist or cannot be followed."""
        return self.reach_all([(module, function)])

    def reach_all(self, places: Iterable[Place]) -> Reached:
        """What several functions reach together."""
        roots = frozenset(places)
        if roots not in self._reached:
            for module, name in sorted(roots):
                if not self.defines(module, name):
                    raise SpecError(f"{self.name(module)} has no top-level '{name}'")
            self._reached[roots] = self._gathered(self._closure(roots))
            self.save()
        return self._reached[roots]

    def defines(self, module: str, name: str) -> bool:
        """Whether the file of `module` defines `name` at its top level."""
        source = self.source(module)
        return source is not None and name in source.units

    def is_function(self, module: str, name: str) -> bool:
        """Whether the file of `module` defines a function `name` at its top level."""
        return self.defines(module, name) and self._unit((module, name)).function

    def uses_argument(self, module: str, function: str, argument: str) -> bool:
        """Whether a function takes an argument of that name and reads it."""
        unit = self._unit((module, function))
        return argument in unit.locals and any(name.split(".")[0] == argument for name in unit.names)

    def place(self, module: str, name: str) -> str:
        """`tasks/oracles/toy_gold.py:11`."""
        line = f":{self._unit((module, name)).line}" if self.defines(module, name) else ""
        return f"{self.name(module)}{line}"

    def faults(self) -> dict[str, str]:
        """What cannot be followed, by file, among all that is public below `tasks/`.

        What only `identity` uses is left out: what it reads is in the key by what it answers.
        """
        found: dict[str, str] = {}
        for module in self.modules():
            try:
                source = self.source(module)
                for name in source.units if source else ():
                    if not name.startswith("_") and name != "identity":
                        self.reach(module, name)
            except SpecError as e:
                found.setdefault(str(e).partition(":")[0], str(e))
        return found

    def modules(self) -> Iterator[str]:
        """Every module below `tasks/`."""
        for file in sorted((self.root / "tasks").rglob("*.py")):
            parts = file.relative_to(self.root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    # Reaching

    def _closure(self, roots: Iterable[Place]) -> dict[Place, Linked]:
        """All units that are reached, effects of loading files included."""
        found: dict[Place, Linked] = {}
        loaded: set[str] = set()
        todo = list(roots)
        while todo:
            place = todo.pop()
            if place in found:
                continue
            linked = found[place] = self._link(place)
            todo.extend(linked.uses.values())
            for module in self._loads(place) - loaded:
                loaded.add(module)
                todo.extend(self._effects_of(module))
        return found

    def _gathered(self, found: Mapping[Place, Linked]) -> Reached:
        keys = {place: f"{self.name(place[0])}::{place[1]}" for place in found}
        units = {keys[place]: linked.digest for place, linked in found.items()}
        units |= {name: digest for linked in found.values() for name, digest in linked.data.items()}
        links = {keys[p]: {used: keys[t] for used, t in linked.uses.items()} for p, linked in found.items()}
        packages = {p for linked in found.values() for p in linked.packages}
        packages.update(*(BEHIND.get(p, ()) for p in packages))
        return Reached(dict(sorted(units.items())), links, frozenset(packages))

    def _link(self, place: Place) -> Linked:
        if place not in self._linked:
            self._linked[place] = link(self, *place)
        return self._linked[place]

    def _unit(self, place: Place) -> CodeUnit:
        source = self.source(place[0])
        assert source is not None
        return source.units[place[1]]

    def _loads(self, place: Place) -> frozenset[str]:
        """The modules that are loaded where a unit runs."""
        inside = (self._with_imports(m) for m in self._unit(place).loads)
        return self._with_imports(place[0]).union(*inside)

    def _with_imports(self, module: str) -> frozenset[str]:
        """A module, the packages that it lies in, and all that they import at their top."""
        if module not in self._loaded:
            found: set[str] = set()
            todo = [module]
            while todo:
                parts = todo.pop().split(".")
                for one in (".".join(parts[: i + 1]) for i in range(len(parts))):
                    source = self.source(one)
                    if source and one not in found:
                        found.add(one)
                        todo.extend(source.loads)
            self._loaded[module] = frozenset(found)
        return self._loaded[module]

    def _effects_of(self, module: str) -> tuple[Place, ...]:
        """The units that do something when their file is loaded, whether or not anybody names them."""
        if module not in self._effects:
            source = self.source(module)
            places = [(module, name) for name in (source.units if source else ())]
            self._effects[module] = tuple(p for p in places if self._has_effect(p))
        return self._effects[module]

    def _has_effect(self, place: Place) -> bool:
        unit = self._unit(place)
        if place[1] == MODULE or unit.effect or any(self._is_told(place, b) for b in unit.bases):
            return True
        uses = self._link(place).uses if unit.called else {}
        return any(self._touches(uses[name]) for name in unit.called if name in uses)

    def _is_told(self, place: Place, base: str) -> bool:
        """Whether the base, or one of its own, is told of its sub-classes."""
        above = self._link(place).uses.get(base)
        if above is None or above == place:
            return False
        unit = self._unit(above)
        return unit.hooks or any(self._is_told(above, b) for b in unit.bases)

    def _touches(self, place: Place) -> bool:
        """Whether a function may change what lies at the top of a file."""
        found: set[Place] = set()
        todo = [place]
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                uses = self._link(one).uses
                if any(name.split(".")[0] in self._unit(one).touched for name in uses):
                    return True
                todo.extend(uses.values())
        return False

    # Files

    def source(self, module: str) -> UnitFile | None:
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

    def _parse(self, path: Path) -> UnitFile:
        data = path.read_bytes()
        name = path.relative_to(self.root).as_posix()
        digest = blake3(data).hexdigest(16)
        if digest in self._parsed:
            return _loaded(self._parsed[digest])
        collecting = gc.isenabled()
        gc.disable()  # a tree is all live objects: collecting in between doubles the time
        try:
            source = parse_units(data.decode(), name)
        finally:
            if collecting:
                gc.enable()
        self._parsed[digest] = asdict(source)
        self._new = True
        return source

    def save(self) -> None:
        """Keep what was parsed for the next command; where that cannot be written, the next one parses again."""
        if self._cache is None or not self._new:
            return
        kept = dict(list(self._parsed.items())[-1000:])
        write_cache(self._cache, {"format": _format(), "sources": kept})  # type: ignore[dict-item]
        self._new = False


def _read_cache(cache: Path | None) -> dict[str, dict[str, object]]:
    data = read_cache(cache) if cache else {}
    return dict(data["sources"]) if data.get("format") == _format() else {}


def _loaded(data: dict[str, object]) -> UnitFile:
    units: dict[str, CodeUnit] = {}
    for name, unit in data["units"].items():  # type: ignore[attr-defined]
        imports = {k: (m, n) for k, (m, n) in unit["imports"].items()}
        units[name] = CodeUnit(**{**unit, "imports": imports, "calls": [WatchedCall(*c) for c in unit["calls"]]})
    bindings = {k: (m, n) for k, (m, n) in data["imports"].items()}  # type: ignore[attr-defined]
    return UnitFile(**{**data, "units": units, "imports": bindings})  # type: ignore[arg-type]
