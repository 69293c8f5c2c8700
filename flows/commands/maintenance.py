"""`alignflow verify` and `alignflow gc`: whether every result has its digest; what no record needs any more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from flows.rounds.ledger import ledgers as all_ledgers
from flows.store.maintenance import collect_garbage, delete_unreached, kept_results, verify_store
from flows.store.records import Parent, Record
from flows.store.retained import makers
from flows.store.runs import Run, Runs
from flows.store.store import ANSWERS, Store
from flows.store.tags import Tags
from tasks.answers.upkeep import forget_answers
from tasks.contract import DataError, SpecError

DAY_SECONDS = 86400.0


def verify_text(store: Store) -> int:
    """Print what is damaged and how many results are intact. Returns the exit code. Raises SpecError."""
    _refuse_none(store)
    damaged = verify_store(store)
    for damage in damaged:
        print(f"✗ {damage.what}: {damage.trouble}")
    ledgers = list(_damaged_ledgers(store))
    for trouble in ledgers:
        print(f"✗ a ledger: {trouble}")
    whole = sum(1 for _ in kept_results(store)) - sum(d.record is not None for d in damaged)
    print(f"✓ {whole} results are what their digests say" + ("; the next run makes the others again" * bool(damaged)))
    return 1 if damaged or ledgers else 0


def _damaged_ledgers(store: Store) -> Iterator[str]:
    """A message for each damaged ledger. It is not set aside, because nothing can make it again."""
    for ledger in all_ledgers(store):
        try:
            ledger.history()
        except DataError as e:
            yield str(e)


def gc_text(
    store: Store, *, dry: bool, answers_after: float | None = None, keep_runs: int | None = None
) -> None:  # fmt: skip
    """Print what was deleted, or would be. Everything that a record or a ledger names stays, unless `keep_runs` is set.

    answers_after: days after which answers of oracles are deleted, too; None: they stay.
    keep_runs: of every pipeline and deployment, results stay that its last so many runs, the heads of its loops, or
    tags need; None: all stay. Raises SpecError where there is no store, or a run is at work with `keep_runs`; DataError
    where the answers or a ledger cannot be read.
    """
    _refuse_none(store)
    freed = [] if keep_runs is None else delete_unreached(store, _in_use(store, keep_runs), dry=dry)
    freed += collect_garbage(store, dry=dry)
    for path, why, size in freed:
        print(f"{size / 1e6:9.1f} MB  {path}  ({why})")
    print(f"{sum(f.size for f in freed) / 1e6:.1f} MB {'would be ' if dry else ''}reclaimed")
    if answers_after is not None:
        before = time.time() - answers_after * DAY_SECONDS
        forgotten = forget_answers(store.root / ANSWERS, before, dry=dry)
        print(f"{forgotten} answers of oracles {'would be ' if dry else ''}deleted: questions that are asked again")


def _in_use(store: Store, keep_runs: int) -> Iterator[Record]:
    """What the last runs of every title made or used, what tags name, and what loops go on from."""
    for run in _last_runs(store, keep_runs):
        for step in run.steps.values():
            yield from makers(store, Parent(step.key, step.content)) if step.content else ()
    for tag in Tags(store).all():
        yield from makers(store, Parent(tag.key, tag.content))
    for ledger in all_ledgers(store):
        head = ledger.history().head
        for value in (*head.values.values(), *(one for several in head.every.values() for one in several)):
            yield from store.index.records(value.digest) if value else ()


def _last_runs(store: Store, most: int) -> Iterator[Run]:
    """Of each title the runs down to the `most`-th last that was done, and all that wait for people."""
    done: Counter[str] = Counter()
    for run in Runs(store).newest():
        if done[run.title] < most or run.status == "waiting":
            yield run
        done[run.title] += run.status == "done"


def _refuse_none(store: Store) -> None:
    if not store.root.is_dir():
        raise SpecError(f"there are no artifacts in {store.root}; name their folder with --artifacts")
