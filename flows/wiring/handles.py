"""What stands for a step's result while the graph is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows.wiring.signatures import Catalogue


@dataclass(frozen=True, eq=False)
class Handle:
    """What stands for a step's result while the graph is built (`tasks.contract.Step`)."""

    index: int
    kind: str
    catalogue: Catalogue

    def is_a(self, kind: str) -> bool:
        return self.catalogue.is_a(self.kind, kind)


Fed = Handle | None | Sequence["Handle | None"]
"""What feeds a port; None is nothing."""
