"""Where data came from: the steps behind a result, and the tables that trained a policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flows.store.index import IndexEntry
from flows.store.records import Parent, Record
from flows.store.store import Store
from flows.wiring.views import JUDGES, MODELS
from tasks.contract import DataError
from tasks.declarations import REWRITERS, Evaluation, StepView

NOT_TRAINED_ON = frozenset({"Logps", "Report", "WinProbs", "Oracle", "Scorer"})
"""Kinds without prompts of their own to learn from."""


class SeenPrompts(NamedTuple):
    """Evaluation prompts that also trained."""

    prompt_ids: frozenset[str]
    checked: int
    """Number of distinct prompts of the evaluation."""
    tables: tuple[IndexEntry, ...]
    """Steps whose tables hold them."""


def training_tables(store: Store, policy: str) -> tuple[IndexEntry, ...]:
    """Steps whose tables trained the policy of this content, or a model that took part in its training.

    The walk visits the steps that return a model: the policy, the policies it was made from (the base of an adapter
    among them), and what judged its training data (reward models, scorers made of models, their members); it collects
    the tables that each of them was fed.
    A model from outside has no lineage.
    """
    walk = _Walk(store)
    found: dict[Parent, IndexEntry] = {}
    done: set[Parent] = set()
    todo = walk.of_content(policy)
    while todo:
        entry = todo.pop()
        if entry.result in done or entry.kind not in MODELS | JUDGES:
            continue
        done.add(entry.result)
        for maker in walk.sources(entry):
            if maker.kind in MODELS | JUDGES:
                todo.append(maker)
            elif maker.kind not in NOT_TRAINED_ON:
                found[maker.result] = maker
                todo += [e for e in walk.behind(maker) if e.kind in JUDGES]
    return tuple(sorted(found.values(), key=lambda e: e.key))


def seen_prompts(store: Store, table: Record, models: Iterable[str]) -> SeenPrompts:
    """Which prompts of a table occur, by prompt_id, in the tables that trained the models of these contents.

    Where a task rewrote prompts on the way to either, those that it was given count as well.
    """
    walk = _Walk(store)
    own = _prompt_ids(store, table.kind, table.content)
    evaluated = own | _ids_before_rewriting(store, walk, walk.of_content(table.content))
    seen: set[str] = set()
    tables: dict[Parent, IndexEntry] = {}
    for model in models:
        for trained in training_tables(store, model):
            learnt = _prompt_ids(store, trained.kind, trained.content)
            common = evaluated & (learnt | _ids_before_rewriting(store, walk, [trained]))
            seen |= common
            tables |= {trained.result: trained} if common else {}
    return SeenPrompts(frozenset(seen), len(own), tuple(tables.values()))


def refuse_seen(store: Store, evaluation: Evaluation) -> str:
    """Refuse to measure models on prompts that trained them (DataError). Where the evaluation allows that, returns a
    notice instead; empty if there are none."""
    for table, models in evaluation.measured:
        seen = seen_prompts(store, origin(table), [origin(m).content for m in models if m.kind in MODELS | JUDGES])
        if not seen.prompt_ids:
            continue
        by = ", ".join(sorted({f"{e.task} {e.content[:8]}" for e in seen.tables}))
        text = f"{len(seen.prompt_ids)} of {seen.checked} evaluation prompts also trained what is measured ({by})"
        if not evaluation.allow_seen:
            raise DataError(f"{text}: measure on held-out prompts, or set `allow_seen: true` in the step")
        return text
    return ""


def oracle_also_trained(store: Store, evaluation: Evaluation) -> bool:
    """Whether the oracle of an evaluation also took part, by content, in training one of its models."""
    walk = _Walk(store)
    judge = origin(evaluation.oracle).content if evaluation.oracle else ""
    models = [origin(m) for m in (evaluation.model, evaluation.baseline) if m]
    makers = (maker for m in models for maker in walk.makers(m.result))
    return any(e.content == judge for maker in makers for e in walk.behind(maker))


def origin(step: StepView) -> Record:
    """The record that a view shows."""
    record: Record = step.origin
    return record


def _prompt_ids(store: Store, kind: str, content: str) -> frozenset[str]:
    from tasks.arrow import open_table

    path = store.inside(kind, content, "table.arrow")
    if not path.exists():
        raise DataError(f"{kind} {content} is gone, so its prompts are unknown; run its step again")
    with open_table(path) as reader:
        if "prompt_id" not in reader.schema.names:
            return frozenset()
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        return frozenset(id for batch in batches for id in batch.column("prompt_id").to_pylist())


def _ids_before_rewriting(store: Store, walk: _Walk, tables: Iterable[IndexEntry]) -> frozenset[str]:
    """Ids that the prompts of tables had before tasks rewrote them."""
    todo, done, ids = [*tables], set[Parent](), frozenset[str]()
    while todo:
        entry = todo.pop()
        if entry.result in done:
            continue
        done.add(entry.result)
        fed = [e for e in walk.sources(entry) if e.kind not in MODELS | JUDGES | NOT_TRAINED_ON]
        todo += fed
        if entry.task in REWRITERS:
            ids |= frozenset[str]().union(*(_prompt_ids(store, e.kind, e.content) for e in fed))
    return ids


class _Walk:
    """The index as of one moment, and the records kept beside the ledgers, where a key may have had other results."""

    def __init__(self, store: Store) -> None:
        several = [*store.kept.entries().values(), *store.index.entries().values()]
        self._by_result = {entry.result: entry for entry in several}
        self._by_content: dict[str, list[IndexEntry]] = {}
        for entry in self._by_result.values():
            self._by_content.setdefault(entry.content, []).append(entry)

    def of_content(self, content: str) -> list[IndexEntry]:
        return list(self._by_content.get(content, ()))

    def makers(self, parent: Parent) -> list[IndexEntry]:
        """The step that made an input; where its record is gone, every step that made this content."""
        entry = self._by_result.get(parent)
        return [entry] if entry else self.of_content(parent.content)

    def sources(self, entry: IndexEntry) -> list[IndexEntry]:
        """The makers of its inputs, and of what its content refers to."""
        made = [maker for parent in entry.inputs for maker in self.makers(parent)]
        return [*made, *(maker for content in entry.refers_to for maker in self.of_content(content))]

    def behind(self, entry: IndexEntry) -> Iterator[IndexEntry]:
        """Its sources, then theirs, each once."""
        todo = self.sources(entry)
        done: set[Parent] = set()
        while todo:
            source = todo.pop(0)
            if source.result not in done:
                done.add(source.result)
                yield source
                todo += self.sources(source)
