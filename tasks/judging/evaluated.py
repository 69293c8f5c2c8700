"""What Reports on sampled answers were measured with, by the steps behind them. Light, for tables and checks."""

from collections.abc import Mapping, Sequence

from tasks.contract import JSON
from tasks.declarations import StepView

SETTINGS = {
    "sample": {"k": "answers per prompt", "temperature": "temperature", "max_tokens": "longest answer"},
    "compare": {"orders": "orders"},
}
"""Task → its parameters that change what is measured, with their names in sentences. Seed and stream are noise."""
_SAMPLED = {"Completions", "Scores", "WinRates"}


def behind(step: StepView, *ports: str) -> StepView | None:
    """The step behind a step along these ports; None where there is none, or its record is gone."""
    source: StepView | None = step
    for port in ports:
        source = source.first(port) if source else None
    return source


def settings_of(step: StepView | None, whose: str = "") -> Mapping[str, JSON]:
    """The settings of a sampling or a comparison, by name in sentences; empty where they are not known."""
    names = SETTINGS.get(step.task, {}) if step else {}
    return {f"{name}{whose}": step.params.get(param) for param, name in names.items()} if step else {}


def measured_tables(tables: Sequence[StepView]) -> list[tuple[StepView, Sequence[StepView]]]:
    """Each table of answers with the policies that sampled them."""
    return [(table, policies_of(table)) for table in tables]


def policies_of(answers: StepView) -> list[StepView]:
    """The policies that sampled a table of answers, also through scorings and parts of it."""
    policies: list[StepView] = []
    todo, done = [answers], set[int]()
    while todo:
        step = todo.pop()
        if id(step) not in done:
            done.add(id(step))
            policies += step.inputs.get("policy", ())
            todo += [fed for several in step.inputs.values() for fed in several if fed.kind in _SAMPLED]
    return policies
