"""Where two runs, or two results, part: the first step that differs, and what in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
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
    unlike: tuple[str, ...] = ()
    """In what the two are wired differently; everything else is of a step that both have in the same place."""

    @property
    def came_out_equal(self) -> bool:
        """Whether both sides have the same content, under two keys."""
        return bool(self.left and self.right and self.left.record.content == self.right.record.content)

    @property
    def circumstances(self) -> list[str]:
        """How machines and settings that no key holds differ under one key: versions of builds, hardware, execution."""
        if self.left is None or self.right is None or self.left.record.key != self.right.record.key:
            return []
        one, other = self.left.record, self.right.record
        pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
            (one.versions, other.versions), (one.hardware, other.hardware), (one.execution, other.execution),
        ]  # fmt: skip
        return [
            f"{name} {a.get(name)} here and {b.get(name)} there"
            for a, b in pairs for name in sorted({*a, *b}) if a.get(name) != b.get(name)
        ]  # fmt: skip

    def as_json(self) -> JSON:
        return {
            "step": self.step, "left": _as_json(self.left), "right": _as_json(self.right),
            "because": [{"part": d.part, "name": d.name, "text": d.text} for d in self.reasons],
            "content": self.content._asdict() if self.content else None, "circumstances": [*self.circumstances],
            "came_out_equal": self.came_out_equal, "first_step_of_other_content": self.later or None,
            "unlike": [*self.unlike],
        }  # fmt: skip


def _as_json(side: StoredResult | None) -> JSON:
    return {"key": side.record.key, "content": side.record.content, "task": side.record.task} if side else None


def of_runs(left: tuple[Store, Run], right: tuple[Store, Run]) -> Divergence | None:
    """The first step, in the order of the left graph, whose keys or contents differ, or that one side lacks."""
    (here, one), (there, other) = left, right
    theirs = {address: step for step in other.steps.values() for address in step.addresses}
    found: Divergence | None = None
    for step in one.steps.values():
        opposite = next((theirs[a] for a in step.addresses if a in theirs), None)
        sides = _side(here, step.key), _side(there, opposite.key) if opposite else None
        if not _differ(*sides):
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


def of_records(left: StoredResult, right: StoredResult, steps: tuple[str, str] = ("", "")) -> Divergence | None:
    """The first step behind two results, inputs first, in which they differ; `steps` are those that gave the results.

    Only results of one task in the same place, whose inputs come from the same tasks, are compared with each other.
    """
    if not _differ(left, right):
        return None
    unlike = [f"`{steps[0]}` and `{steps[1]}` are two steps"] if all(steps) and steps[0] != steps[1] else []
    top = _Pair(steps[0] or left.record.task, left, right)
    pairs, wired = _alike(top)
    unlike += wired[:1]
    first = next((p for p in pairs.values() if not any(i.keys in pairs for i in p.inputs)), None)
    found = _parted(first.place, first.left, first.right) if first else Divergence(top.place, left, right)
    return replace(found, unlike=tuple(unlike))


@dataclass(frozen=True)
class _Pair:
    """Two different results in the same place."""

    place: str
    left: StoredResult
    right: StoredResult

    @property
    def keys(self) -> tuple[str, str]:
        return self.left.record.key, self.right.record.key

    @cached_property
    def inputs(self) -> list[_Pair]:
        """Those inputs that differ and whose records are still there."""
        pairs: list[_Pair] = []
        for port, *parents in self._parents():
            one, other = _of_parent(self.left.store, parents[0]), _of_parent(self.right.store, parents[1])
            if one and other and _differ(one, other):
                pairs.append(_Pair(f"{self.place} ← {port}", one, other))
        return pairs

    def unlike(self) -> str:
        """How the two are made by different tasks, or from results of different tasks; empty if they are not."""
        if self.left.record.task != self.right.record.task:
            return f"`{self.place}` is a result of `{self.left.record.task}` here, of `{self.right.record.task}` there"
        for port, one, other in self._parents():
            if not one or not other:
                return f"`{self.place}` has more inputs `{port}` {'here' if one else 'there'}"
        different = (p for p in self.inputs if p.left.record.task != p.right.record.task)
        return next((p.unlike() for p in different), "")

    def _parents(self) -> Iterator[tuple[str, Parent | None, Parent | None]]:
        one, other = self.left.record.parents, self.right.record.parents
        for port in {**one, **other}:
            for parents in zip_longest(one.get(port, ()), other.get(port, ())):
                yield port, *parents


def _alike(top: _Pair) -> tuple[dict[tuple[str, str], _Pair], list[str]]:
    """The pairs that can be compared, from the results down to what they came from, and how the others are unlike."""
    alike: dict[tuple[str, str], _Pair] = {}
    unlike: list[str] = []
    todo = [top]
    for pair in todo:
        if problem := pair.unlike():
            unlike.append(problem)
        elif pair.keys not in alike:
            alike[pair.keys] = pair
            todo += pair.inputs
    return alike, unlike


def _of_parent(store: Store, parent: Parent | None) -> StoredResult | None:
    side = _side(store, parent.key) if parent else None
    return side if side and parent and side.record.content == parent.content else None


def _side(store: Store, key: str) -> StoredResult | None:
    record = store.record(key) if key else None
    return StoredResult(store, record) if record else None


def _differ(left: StoredResult | None, right: StoredResult | None) -> bool:
    one, other = ((side.record.key, side.record.content) if side else None for side in (left, right))
    return one != other


def _parted(step: str, left: StoredResult | None, right: StoredResult | None) -> Divergence:
    if left is None or right is None:
        return Divergence(step, left, right)
    if left.record.task != right.record.task:
        return Divergence(step, left, right, unlike=(_Pair(step, left, right).unlike(),))
    reasons = tuple(differences(left.record, right.record)) if left.record.key != right.record.key else ()
    paths = (side.store.root / side.record.path for side in (left, right))
    return Divergence(step, left, right, reasons, None if reasons else first_difference(*paths))
