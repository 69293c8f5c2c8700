"""What an evaluation measured with. Numbers of two evaluations are comparable only where all of it is equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flows.store.lineage import origin
from flows.store.records import Record
from flows.store.store import Store
from flows.store.views import RecordViews
from tasks.declarations import Evaluation, StepView

Facts = Mapping[str, str]
"""Name (`prompts`, `oracle`, `baseline`, …) → value: a name, or the first letters of a content digest, or both."""
DIGEST = 12
"""Letters of a digest, of 4 bits each: more than enough to tell the data of a comparison apart."""


def measurement_facts(store: Store, report: Record) -> Facts:
    """The facts of a Report: the kind of evaluation, prompts or pairs, oracle, baseline, how answers were sampled.

    A fact whose record is gone is missing, and a missing fact differs from every other.
    """
    evaluation = RecordViews(store).of(report).evaluation
    if evaluation is None:
        return {"evaluation": f"`{report.task}`"}
    task = next((included.task for included in evaluation.includes), report.task)
    return {"evaluation": f"{evaluation.title} (`{task}`)", **dict(_facts(evaluation))}


def differing_facts(evaluations: Mapping[str, Facts]) -> dict[str, dict[str, str | None]]:
    """The facts that differ between named evaluations: name of the fact → name of the evaluation → its value, None
    where the evaluation has none.

    Evaluations of different kinds differ in that alone: the rest of one has no counterpart in the other.
    """
    names = dict.fromkeys(name for facts in evaluations.values() for name in facts)
    values = {name: {who: facts.get(name) for who, facts in evaluations.items()} for name in names}
    differ = {name: by_evaluation for name, by_evaluation in values.items() if len({*by_evaluation.values()}) > 1}
    return {"evaluation": differ["evaluation"]} if "evaluation" in differ else differ


def _facts(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    for name, step in (("oracle", evaluation.oracle), ("baseline", evaluation.baseline)):
        if step:
            yield name, f"{choice_of(step)} {origin(step).content[:DIGEST]}"
    if data := evaluation.data:
        name = "pairs" if data.kind == "Preferences" else "prompts"
        yield name, f"{data.rows:.0f} {name} {origin(data).content[:DIGEST]}"
    for name, value in evaluation.settings.items():
        yield name, "not given" if value is None else str(value)


def choice_of(step: StepView) -> str:
    """`toy_gold` for an oracle that was loaded by name; else the kind."""
    return next((choice.name for choice in step.choices.values()), step.kind)
