"""Which code a task reaches, and its digest.

Followed are the names that a unit uses, `module.attribute`s and imports inside functions included, as long as they
lead into `tasks/`, and what loading the files that hold those units does: statements at their top, registrations by
decorators and by sub-classes, imports that nobody names. What packages outside compute counts by their public
versions, if they make numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flows.python.codebase import Codebase
from flows.python.linking import Linked, Place, link
from flows.python.packages import BEHIND
from flows.python.reached import Reached
from flows.python.units import MODULE, CodeUnit
from tasks.contract import SpecError


class CodeIndex:
    """What the code of a code base reaches: make a new one to see later edits."""

    def __init__(self, codebase: Codebase) -> None:
        self.codebase = codebase
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
                    raise SpecError(f"{self.codebase.shown(module)} has no top-level '{name}'")
            self._reached[roots] = self._gathered(self._closure(roots))
        return self._reached[roots]

    def defines(self, module: str, name: str) -> bool:
        """Whether the file of `module` defines `name` at its top level."""
        source = self.codebase.units(module)
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
        return f"{self.codebase.shown(module)}{line}"

    def faults(self) -> dict[str, str]:
        """What cannot be followed, by file, among all that is public below `tasks/`.

        What only `identity` uses is left out: what it reads is in the key by what it answers.
        """
        found: dict[str, str] = {}
        seen: set[Place] = set()
        todo = [place for module in self.codebase.files for place in self._public(module, found)]
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            try:
                todo.extend(self._link(place).uses.values())
                todo.extend(p for module in self._loads(place) for p in self._effects_of(module))
            except SpecError as e:
                found.setdefault(str(e).partition(":")[0], str(e))
        return dict(sorted(found.items()))

    def _public(self, module: str, found: dict[str, str]) -> list[Place]:
        try:
            source = self.codebase.units(module)
        except SpecError as e:
            found[str(e).partition(":")[0]] = str(e)
            return []
        names = (name for name in (source.units if source else ()) if not name.startswith("_") and name != "identity")
        return [(module, name) for name in names]

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
        files = {module: self.codebase.name(module) for module in {module for module, _ in found}}
        keys = {(module, name): f"{files[module]}::{name}" for module, name in found}
        units = {keys[place]: linked.digest for place, linked in found.items()}
        units |= {name: digest for linked in found.values() for name, digest in linked.data.items()}
        links = {keys[p]: {used: keys[t] for used, t in linked.uses.items()} for p, linked in found.items()}
        packages = {p for linked in found.values() for p in linked.packages}
        packages.update(*(BEHIND.get(p, ()) for p in packages))
        return Reached(dict(sorted(units.items())), links, frozenset(packages))

    def _link(self, place: Place) -> Linked:
        if place not in self._linked:
            self._linked[place] = link(self.codebase, *place)
        return self._linked[place]

    def _unit(self, place: Place) -> CodeUnit:
        source = self.codebase.units(place[0])
        assert source is not None
        return source.units[place[1]]

    def _loads(self, place: Place) -> frozenset[str]:
        """The modules that are loaded where a unit runs."""
        inside = map(self._with_imports, filter(self.codebase.is_ours, self._unit(place).loads))
        return self._with_imports(place[0]).union(*inside)

    def _with_imports(self, module: str) -> frozenset[str]:
        """A module, the packages that it lies in, and all that they import at their top."""
        if module not in self._loaded:
            found: set[str] = set()
            todo = [module]
            while todo:
                parts = todo.pop().split(".")
                for one in (".".join(parts[: i + 1]) for i in range(len(parts))):
                    source = self.codebase.units(one)
                    if source and one not in found:
                        found.add(one)
                        todo.extend(filter(self.codebase.is_ours, source.loads))
            self._loaded[module] = frozenset(found)
        return self._loaded[module]

    def _effects_of(self, module: str) -> tuple[Place, ...]:
        """The units that do something when their file is loaded, whether or not anybody names them."""
        if module not in self._effects:
            source = self.codebase.units(module)
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
