"""What the proof counted, by class of edit."""

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Count:
    mutants: int = 0
    changes: int = 0
    """Comparisons in which the key changed (or the code was refused)."""
    kept: int = 0
    needless: int = 0
    stale: list[str] = field(default_factory=list)


class Table:
    """Counts by class of edit; a comparison is one edit and one step."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Count] = defaultdict(Count)
        self.examples: list[str] = []

    def add(self, kind: str, what: str, *, changed: bool, could: bool | None) -> None:
        """`could`: whether the result could change; None where nobody knows (code within reach that did not run)."""
        count = self.counts[kind]
        count.changes += changed
        count.kept += not changed
        if could is True and not changed:
            count.stale.append(what)
        if could is False and changed:
            count.needless += 1
            self.examples.append(f"{kind}: {what}")

    @property
    def mutants(self) -> int:
        return sum(c.mutants for c in self.counts.values())

    @property
    def stale(self) -> list[str]:
        return [f"{kind}: {what}" for kind, c in self.counts.items() for what in c.stale]

    @property
    def needless(self) -> float:
        """Share of all misses (keys that changed) that were needless."""
        changes = sum(c.changes for c in self.counts.values())
        return sum(c.needless for c in self.counts.values()) / max(changes, 1)

    def __str__(self) -> str:
        lines = [f"{'edits of':<24}{'mutants':>9}{'misses':>9}{'hits':>9}{'stale':>9}{'needless':>9}"]
        lines += [
            f"{kind:<24}{c.mutants:>9}{c.changes:>9}{c.kept:>9}{len(c.stale):>9}{c.needless:>9}"
            for kind, c in sorted(self.counts.items())
        ]
        sum_ = f"{self.mutants} mutants, {len(self.stale)} stale hits, {self.needless:.1%} of misses needless"
        return "\n".join([*lines, sum_])
