"""The code that steps reach, as in keys: names and digests, and which unit uses which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from blake3 import blake3

from flows.python.packages import PYTHON, version
from tasks.contract import JSON


@dataclass(frozen=True)
class Reached:
    """Code that a function reaches, and the packages that compute numbers for it."""

    units: Mapping[str, str]
    """Digest by `path::name`, sorted; a data file is its path alone."""
    links: Mapping[str, Mapping[str, str]]
    """Unit → the names that it uses → the units that they mean, all as `path::name`."""
    packages: frozenset[str]

    @property
    def listed(self) -> list[JSON]:
        """Sorted [name, digest] of each unit, for a key, which does not depend on where a unit lies."""
        return [[name, digest] for name, digest in sorted((_name(u), d) for u, d in self.units.items())]

    @cached_property
    def wiring(self) -> str:
        """One digest of which unit uses which by what name: two units of one name in two files are not the same."""
        labels = {u: f"{_name(u)} {d}" for u, d in self.units.items()}
        distinct = 0
        while len(set(labels.values())) > distinct:
            distinct = len(set(labels.values()))
            labels = {u: self._label(u, labels) for u in labels}
        return blake3("\n".join(sorted(labels.values())).encode()).hexdigest(16)

    def _label(self, unit: str, labels: Mapping[str, str]) -> str:
        used = (f"{name}={labels[target]}" for name, target in sorted(self.links.get(unit, {}).items()))
        return blake3("\n".join([labels[unit], *used]).encode()).hexdigest(16)

    @property
    def digest(self) -> str:
        """One digest of the code and of the packages' versions."""
        return blake3(json.dumps([self.listed, self.wiring, self.versions]).encode()).hexdigest(16)

    @property
    def versions(self) -> dict[str, str]:
        """Python's version and the public one by package, sorted; "absent" where it is not installed."""
        return dict(sorted({"python": PYTHON, **{p: version(p) for p in self.packages}}.items()))


def _name(unit: str) -> str:
    """`f` of `tasks/a.py::f`, and `data/words.txt` of `tasks/data/words.txt`."""
    return unit.partition("::")[2] or unit.partition("/")[2]
