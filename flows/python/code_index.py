"""The code that a task reaches, and its digest.

A unit reaches the units of `tasks/` and of a user's packages that it names, also as `module.attribute` and by imports
inside functions, and what loading their files runs: statements at their top, registrations by decorators and by
sub-classes, imports that nothing names. Other packages count by their public versions, if they compute numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from flows.python.closure import closure
from flows.python.codebase import Codebase
from flows.python.linking import Linked, Place, link
from flows.python.packages import BEHIND
from flows.python.reached import Reached
from flows.python.units import MODULE, CodeUnit
from tasks.contract import SpecError

_LOADING = "<loading>"
"""In the place of a unit's name: what happens when its file is loaded."""


class CodeIndex:
    """The code that functions of a code base reach: make a new one to see later edits."""

    def __init__(self, codebase: Codebase) -> None:
        self.codebase = codebase
        self._linked: dict[Place, Linked] = {}
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
            self._reached[roots] = self._gathered(closure(roots, self._below))
        return self._reached[roots]

    def defines(self, module: str, name: str) -> bool:
        """Whether the file of `module` defines `name` at its top level."""
        return name in self.codebase.units(module).units

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

        What only `identity` uses is left out: its answer is in the key.
        """
        faults: dict[str, str] = {}

        def noted(find: Callable[[], Iterable[Place]]) -> list[Place]:
            try:
                return list(find())
            except SpecError as e:
                faults.setdefault(str(e).partition(":")[0], str(e))
                return []

        public = [place for module in self.codebase.files for place in noted(partial(self._public, module))]
        closure(public, lambda place: noted(partial(self._below, place)))
        return dict(sorted(faults.items()))

    def _public(self, module: str) -> list[Place]:
        names = self.codebase.units(module).units
        return [(module, name) for name in names if not name.startswith("_") and name != "identity"]

    def _below(self, place: Place) -> list[Place]:
        """What a unit uses and which files it needs loaded; of a file, what its loading runs and loads."""
        module, name = place
        if name != _LOADING:
            inside = filter(self.codebase.is_ours, self._unit(place).loads)
            return [*self._link(place).uses.values(), (module, _LOADING), *((m, _LOADING) for m in inside)]
        source, package = self.codebase.units(module), module.rpartition(".")[0]
        loads = [*([package] if package else []), *filter(self.codebase.is_ours, source.loads)]
        return [*self._effects_of(module), *((m, _LOADING) for m in loads)]

    def _gathered(self, places: Iterable[Place]) -> Reached:
        found = {place: self._link(place) for place in places if place[1] != _LOADING}
        keys = {(module, name): f"{self.codebase.name(module)}::{name}" for module, name in found}
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
        return self.codebase.units(place[0]).units[place[1]]

    def _effects_of(self, module: str) -> tuple[Place, ...]:
        """The units that do something when their file is loaded, whether or not anything names them."""
        if module not in self._effects:
            places = ((module, name) for name in self.codebase.units(module).units)
            self._effects[module] = tuple(place for place in places if self._has_effect(place))
        return self._effects[module]

    def _has_effect(self, place: Place) -> bool:
        unit = self._unit(place)
        if place[1] == MODULE or unit.effect or any(self._runs_at_subclass(place, b) for b in unit.bases):
            return True
        uses = self._link(place).uses if unit.called else {}
        return any(self._touches(uses[name]) for name in unit.called if name in uses)

    def _runs_at_subclass(self, place: Place, base: str) -> bool:
        """Whether making a class below this base runs code of the base or of one above it."""
        above = self._link(place).uses.get(base)
        if above is None or above == place:
            return False
        unit = self._unit(above)
        return unit.hooks or any(self._runs_at_subclass(above, b) for b in unit.bases)

    def _touches(self, place: Place) -> bool:
        """Whether a function may change a top-level value of a file."""
        reached = closure([place], lambda one: self._link(one).uses.values())
        return any(name.split(".")[0] in self._unit(one).touched for one in reached for name in self._link(one).uses)
