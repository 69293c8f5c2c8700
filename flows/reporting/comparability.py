"""What an evaluation measured with. Numbers may stand beside each other only where all of it is equal, by content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flows.store.records import Record
from flows.store.store import Store

EVALUATIONS = {
    "measure": "win rate of answers", "agreement": "agreement of a policy with held-out pairs",
    "reward_accuracy": "accuracy of a reward model on held-out pairs",
}  # fmt: skip
"""What the tasks that return a Report measure, for people."""
DRAWN = {"k": "answers per prompt", "temperature": "temperature", "max_tokens": "longest answer"}
"""Parameters of a sampling that change what is measured. Its seed and stream do not: they are noise."""


class Fact(NamedTuple):
    """One thing that must be equal, and how it is said."""

    value: str
    said: str


Yardstick = Mapping[str, Fact]
"""What it is (`prompts`, `oracle`, `baseline`, …) → which one it was."""


def measurement_facts(store: Store, report: Record) -> Yardstick:
    """What a Report was measured with: the kind of evaluation, prompts or pairs, oracle, baseline, how answers were
    drawn. A record that is gone leaves its facts out, which differs from every fact."""
    evaluation = Fact(report.task, EVALUATIONS.get(report.task, f"`{report.task}`"))
    return {"evaluation": evaluation, **dict(_facts(store, report))}


def differing_values(several: Mapping[str, Yardstick]) -> dict[str, dict[str, Fact | None]]:
    """What differs between named yardsticks: which fact → name → its value; None where it has no such fact.

    Evaluations of different kinds differ in that alone: the rest of one has no counterpart in the other.
    """
    known = dict.fromkeys(name for facts in several.values() for name in facts)
    found = {name: {who: facts.get(name) for who, facts in several.items()} for name in known}
    differ = {name: said for name, said in found.items() if len({f.value if f else None for f in said.values()}) > 1}
    return {"evaluation": differ["evaluation"]} if "evaluation" in differ else differ


def _facts(store: Store, report: Record) -> Iterator[tuple[str, Fact]]:
    for pairs in parents(store, report, "pairs"):
        yield "pairs", Fact(pairs.content, f"{pairs.rows} pairs {pairs.content[:8]}")
    for logps in parents(store, report, "ref_logps"):
        yield from _named(store, logps, "policy", "baseline")
    for asked in parents(store, report, "win_probs"):
        yield from _named(store, asked, "oracle", "oracle")
        yield "orders", _param(asked, "orders")
    for others in parents(store, report, "others"):
        yield from _named(store, others, "policy", "baseline")
        yield from ((f"{said} (baseline)", _param(others, name)) for name, said in DRAWN.items())
    for answers in parents(store, report, "completions"):
        for prompts in parents(store, answers, "prompts"):
            yield "prompts", Fact(prompts.content, f"{prompts.rows} prompts {prompts.content[:8]}")
        yield from ((said, _param(answers, name)) for name, said in DRAWN.items())


def parents(store: Store, record: Record, port: str) -> Iterator[Record]:
    """The records of what fed a port, those that are there."""
    return (made for parent in record.parents.get(port, ()) if (made := store.record(parent.key)))


def _named(store: Store, record: Record, port: str, fact: str) -> Iterator[tuple[str, Fact]]:
    for made in parents(store, record, port):
        yield fact, Fact(made.content, f"{recorded_choice(made)} {made.content[:8]}")


def recorded_choice(record: Record) -> str:
    """`toy_gold` for an oracle that was loaded by name; else the kind."""
    params = record.parts.get("params")
    chosen = params.get("oracle") if isinstance(params, dict) else None
    return str(chosen["choice"]).rpartition("/")[2] if isinstance(chosen, dict) and "choice" in chosen else record.kind


def _param(record: Record, name: str) -> Fact:
    params = record.parts.get("params")
    value = params.get(name) if isinstance(params, dict) else None
    return Fact(str(value), "not given" if value is None else str(value))
