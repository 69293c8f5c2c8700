"""`alignflow tag`: names for results."""

from __future__ import annotations

from collections.abc import Iterator

from flows.rounds.history import now
from flows.store.runs import Runs
from flows.store.store import Store
from flows.store.tags import Tags
from tasks.contract import SpecError


def tag_lines(store: Store, ref: str | None, name: str | None, *, delete: bool) -> Iterator[str]:
    """Tag what REF names; with `delete`, forget the tag REF; without REF, list the tags. Returns what to print.

    Raises SpecError.
    """
    tags = Tags(store)
    if ref is None:
        yield from [f"{t.name}  {t.content[:12]}  {t.tagged[:16].replace('T', ' ')}" for t in tags.all()] or ["no tags"]
    elif delete:
        tags.remove(ref)
        yield f"{ref} is no tag any more; its result stays"
    elif name is None:
        raise SpecError(f"name the tag: `alignflow tag {ref} NAME`")
    else:
        record = Runs(store).find(ref).record
        before = tags.set(name, record, now())
        moved = f", and {before.content[:12]} before" if before and before.content != record.content else ""
        yield f"{name} is {record.kind} {record.content[:12]}{moved}"
