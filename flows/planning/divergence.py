"""Where two runs, or two results, part: the first step that differs, and what in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from flows.planning.content_diff import ContentDifference, first_difference
from flows.planning.key_diff import KeyDifference, differences
from flows.store.records import Parent, Record
from flows.store.runs import Run
from flows.store.store import Store
from tasks.contract import JSON


class StoredResult(NamedTuple):
    """A result and the store that has it."""

    store: Store
    record: Record


@dataclass(frozen=True)
class Divergence:
    """The first step in which two sides differ."""

    step: str
    left: StoredResult | None
    right: StoredResult | None
    """None: that side has no result of the step."""
    reasons: tuple[KeyDifference, ...] = ()
    """In what their keys differ."""
    content: ContentDifference | None = None
    """Where their contents first differ, if their keys are equal."""
    later: str = ""
    """Where this step came out equal: the first step of the runs that did not."""

    @property
    def came_out_equal(self) -> bool:
        """Whether both sides have the same content, under two keys."""
        return bool(self.left and self.right and self.left.record.content == self.right.record.content)

    @property
    def circumstances(self) -> list[str]:
        """In what the machines and settings that no key holds differ: versions of builds, hardware, execution."""
        if self.left is None or self.right is None or self.reasons:
            return []
        one, other = self.left.record, self.right.record
        pairs = ((one.versions, other.versions), (one.hardware, other.hardware), (one.execution, other.execution))
        return [text for a, b in pairs for text in _unequal(a, b)]

    def as_json(self) -> JSON:
        return {
            "step": self.step, "left": _as_json(self.left), "right": _as_json(self.right),
            "because": [{"part": d.part, "name": d.name, "text": d.text} for d in self.reasons],
            "content": self.content._asdict() if self.content else None, "circumstances": [*self.circumstances],
            "came_out_equal": self.came_out_equal, "first_step_of_other_content": self.later or None,
        }  # fmt: skip


def _as_json(side: StoredResult | None) -> JSON:
    return {"key": side.record.key, "content": side.record.content, "task": side.record.task} if side else None


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield f"{name} {one.get(name)} here and {other.get(name)} there"


def of_runs(left: tuple[Store, Run], right: tuple[Store, Run]) -> Divergence | None:
    """The first step, in the order of the left graph, whose keys or contents differ, or that one side lacks."""
    (here, one), (there, other) = left, right
    theirs = {address: step for step in other.steps.values() for address in step.addresses}
    found: Divergence | None = None
    for step in one.steps.values():
        opposite = next((theirs[a] for a in step.addresses if a in theirs), None)
        sides = [_side(store, s.key) if s else None for store, s in ((here, step), (there, opposite))]
        if sides == [None, None] or (None not in sides and not _differ(*sides)):
            continue
        parted = _parted(step.title, *sides)
        if found and not parted.came_out_equal:
            return replace(found, later=step.title)
        found = found or parted
        if not found.came_out_equal:
            return found
    ours = {address for step in one.steps.values() for address in step.addresses}
    more = next((s for s in other.steps.values() if not ours.intersection(s.addresses)), None)
    return found or (Divergence(more.title, None, _side(there, more.key)) if more else None)


def of_records(left: StoredResult, right: StoredResult, step: str = "") -> Divergence | None:
    """The first step behind two results, inputs first, in which they differ."""
    if not _differ(left, right):
        return None
    for port in left.record.parents:
        for one, other in zip(left.record.parents[port], right.record.parents.get(port, ()), strict=False):
            sides = _of_parent(left.store, one), _of_parent(right.store, other)
            found = of_records(*sides, f"{step or left.record.task} ← {port}") if all(sides) and one != other else None  # type: ignore[arg-type]
            if found:
                return found
    return _parted(step or left.record.task, left, right)


def _of_parent(store: Store, parent: Parent) -> StoredResult | None:
    side = _side(store, parent.key)
    return side if side and side.record.content == parent.content else None


def _side(store: Store, key: str) -> StoredResult | None:
    record = store.record(key) if key else None
    return StoredResult(store, record) if record else None


def _differ(left: StoredResult | None, right: StoredResult | None) -> bool:
    assert left
    assert right
    return (left.record.key, left.record.content) != (right.record.key, right.record.content)


def _parted(step: str, left: StoredResult | None, right: StoredResult | None) -> Divergence:
    if left is None or right is None:
        return Divergence(step, left, right)
    reasons = tuple(differences(left.record, right.record)) if left.record.key != right.record.key else ()
    if reasons:
        return Divergence(step, left, right, reasons)
    paths = (side.store.root / side.record.path for side in (left, right))
    return Divergence(step, left, right, (), first_difference(*paths))
