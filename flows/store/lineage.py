"""Where data came from: the steps behind a result, and the tables that trained a policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flows.store.index import IndexEntry
from flows.store.records import Parent, Record
from flows.store.store import Store
from tasks.contract import DataError

MODELS = frozenset({"Policy", "RewardModel", "PreferenceModel"})
JUDGES = MODELS - {"Policy"}
NOT_TRAINED_ON = frozenset({"Logps", "Report", "WinProbs", "Oracle", "Scorer"})
"""Kinds without prompts of their own to learn from."""


class SeenPrompts(NamedTuple):
    """Evaluation prompts that also trained."""

    prompt_ids: frozenset[str]
    asked: int
    """Number of distinct prompts that were checked."""
    tables: tuple[IndexEntry, ...]
    """Steps whose tables hold them."""


def ancestors(store: Store, record: Record) -> Iterator[IndexEntry]:
    """Everything behind a record, nearest first, each once."""
    return _Walk(store).behind(p for several in record.parents.values() for p in several)


def training_prompts(store: Store, policy: str) -> tuple[IndexEntry, ...]:
    """Steps whose tables trained the policy of this content, or a model that took part in its training.

    Walked are the steps that return a model: from the policy to the policies it was made from, to the reward models
    that judged what it was trained on, and the tables that each of them was fed. A model from outside has no lineage.
    """
    walk = _Walk(store)
    found: dict[Parent, IndexEntry] = {}
    done: set[Parent] = set()
    todo = walk.of_content(policy)
    while todo:
        entry = todo.pop()
        if entry.result in done or entry.kind not in MODELS:
            continue
        done.add(entry.result)
        for parent in entry.inputs:
            for maker in walk.makers(parent):
                if maker.kind in MODELS:
                    todo.append(maker)
                elif maker.kind not in NOT_TRAINED_ON:
                    found[maker.result] = maker
                    todo += [e for e in walk.behind(maker.inputs) if e.kind in JUDGES]
    return tuple(sorted(found.values(), key=lambda e: e.key))


def seen_prompts(store: Store, table: Record, models: Iterable[str]) -> SeenPrompts:
    """Which prompts of a table occur, by prompt_id, in the tables that trained the models of these contents."""
    asked = _prompt_ids(store, table.kind, table.content)
    seen: set[str] = set()
    tables: dict[Parent, IndexEntry] = {}
    for model in models:
        for trained in training_prompts(store, model):
            common = asked & _prompt_ids(store, trained.kind, trained.content)
            seen |= common
            tables |= {trained.result: trained} if common else {}
    return SeenPrompts(frozenset(seen), len(asked), tuple(tables.values()))


def refuse_seen(store: Store, inputs: Mapping[str, Sequence[Record]], *, allow: bool) -> str:
    """Refuse to measure on prompts that trained (DataError), or say so if `allow`; empty if there are none.

    `inputs` are those of a step that measures: `completions`, whose policy is measured, or `pairs` with the `logps`
    that a policy gives them or with the scorers (`oracle`, `before`) that judge them.
    """
    for table, models in _measured(store, inputs):
        seen = seen_prompts(store, table, models)
        if not seen.prompt_ids:
            continue
        by = ", ".join(sorted({f"{e.task} {e.content[:8]}" for e in seen.tables}))
        text = f"{len(seen.prompt_ids)} of {seen.asked} evaluation prompts also trained what is measured ({by})"
        if not allow:
            raise DataError(f"{text}: measure on prompts held out, or say `allow_seen: true` in the step")
        return text
    return ""


def _measured(store: Store, inputs: Mapping[str, Sequence[Record]]) -> Iterator[tuple[Record, list[str]]]:
    """Each table that a step measures on, with the contents of the models that it measures."""
    for completions in inputs.get("completions", ()):
        yield completions, list(policies_of(store, completions))
    models = [p.content for r in inputs.get("logps", ()) for p in r.parents.get("policy", ())]
    models += [r.content for port in ("oracle", "before") for r in inputs.get(port, ()) if r.kind in MODELS]
    for pairs in inputs.get("pairs", ()):
        yield pairs, models


def oracle_also_trained(store: Store, report: Record) -> bool:
    """Whether an oracle that judged a report also took part, by content, in training the policy measured.

    What says that it is a proxy's (`proxy_scores`) is meant to be the oracle that trained.
    """
    walk = _Walk(store)
    judged = (several for port, several in report.parents.items() if "proxy_" not in port)
    inputs = [e for several in judged for p in several for e in walk.makers(p)]
    judges = {p.content for e in inputs for p in e.parents.get("oracle", ())}
    policies = [m for e in inputs for p in e.parents.get("policy", ()) for m in walk.makers(p)]
    return any(e.content in judges for policy in policies for e in walk.behind(policy.inputs))


def policies_of(store: Store, completions: Record) -> Iterator[str]:
    """Contents of the policies that a table of completions was drawn from, through scorings and parts of it."""
    behind: list[Record | IndexEntry] = [completions, *ancestors(store, completions)]
    for entry in behind:
        if entry.kind in {"Completions", "Scores", "WinRates"}:
            yield from (p.content for p in entry.parents.get("policy", ()))


def _prompt_ids(store: Store, kind: str, content: str) -> frozenset[str]:
    import pyarrow as pa

    path = store.inside(kind, content, "table.arrow")
    if not path.exists():
        raise DataError(f"{kind} {content} is gone, so nobody can say which prompts it held; run its step again")
    found: set[Any] = set()
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            if "prompt_id" in reader.schema.names:
                found.update(reader.get_batch(i).column("prompt_id").to_pylist())
    return frozenset(found)


class _Walk:
    """The index as of one moment, with what is kept beside the ledgers: there a key may have had other results."""

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

    def behind(self, parents: Iterable[Parent]) -> Iterator[IndexEntry]:
        """The makers of these inputs, then those of their inputs, each once."""
        todo = list(parents)
        done: set[Parent] = set()
        while todo:
            for entry in self.makers(todo.pop(0)):
                if entry.result not in done:
                    done.add(entry.result)
                    yield entry
                    todo.extend(entry.inputs)
