"""What an evaluation measured with. Numbers may stand beside each other only where all of it is equal, by content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from flows.store.lineage import origin
from flows.store.records import Record
from flows.store.store import Store
from flows.store.views import RecordViews
from tasks.declarations import Evaluation, StepView


class Fact(NamedTuple):
    """One thing that must be equal, and how it is said."""

    value: str
    said: str


Yardstick = Mapping[str, Fact]
"""What it is (`prompts`, `oracle`, `baseline`, …) → which one it was."""


def measurement_facts(store: Store, report: Record) -> Yardstick:
    """What a Report was measured with: the kind of evaluation, prompts or pairs, oracle, baseline, how answers were
    sampled. A record that is gone leaves its facts out, which differs from every fact."""
    evaluation = RecordViews(store).of(report).evaluation
    if evaluation is None:
        return {"evaluation": Fact(report.task, f"`{report.task}`")}
    return {"evaluation": Fact(report.task, evaluation.title), **dict(_facts(evaluation))}


def differing_values(several: Mapping[str, Yardstick]) -> dict[str, dict[str, Fact | None]]:
    """What differs between named yardsticks: which fact → name → its value; None where it has no such fact.

    Evaluations of different kinds differ in that alone: the rest of one has no counterpart in the other.
    """
    known = dict.fromkeys(name for facts in several.values() for name in facts)
    found = {name: {who: facts.get(name) for who, facts in several.items()} for name in known}
    differ = {name: said for name, said in found.items() if len({f.value if f else None for f in said.values()}) > 1}
    return {"evaluation": differ["evaluation"]} if "evaluation" in differ else differ


def _facts(evaluation: Evaluation) -> Iterator[tuple[str, Fact]]:
    for name, step in (("oracle", evaluation.oracle), ("baseline", evaluation.baseline)):
        if step:
            content = origin(step).content
            yield name, Fact(content, f"{choice_of(step)} {content[:8]}")
    if data := evaluation.data:
        name, content = "pairs" if data.kind == "Preferences" else "prompts", origin(data).content
        yield name, Fact(content, f"{data.rows:.0f} {name} {content[:8]}")
    for name, value in evaluation.settings.items():
        yield name, Fact(str(value), "not given" if value is None else str(value))


def choice_of(step: StepView) -> str:
    """`toy_gold` for an oracle that was loaded by name; else the kind."""
    return next((choice.name for choice in step.choices.values()), step.kind)
