"""What Reports on sampled answers were measured with, from the steps behind them. Light: tables and checks ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.contract import JSON
from tasks.declarations import StepView

SETTINGS = {
    "sample": {"k": "answers per prompt", "temperature": "temperature", "max_tokens": "longest answer"},
    "compare": {"orders": "orders"},
}
"""Task → its parameters that change what is measured, as sentences call them. Seed and stream are noise."""
_SAMPLED = {"Completions", "Scores", "WinRates"}


def behind(step: StepView, *ports: str) -> StepView | None:
    """What lies behind a step along these ports; None where nothing does, or its record is gone."""
    found: StepView | None = step
    for port in ports:
        found = found.first(port) if found else None
    return found


def settings_of(step: StepView | None, whose: str = "") -> Mapping[str, JSON]:
    """How a sampling drew, or how questions were asked; empty where that is not known."""
    return (
        {f"{said}{whose}": step.params.get(name) for name, said in SETTINGS.get(step.task, {}).items()} if step else {}
    )


def measured_tables(tables: Sequence[StepView]) -> list[tuple[StepView, Sequence[StepView]]]:
    """Each table of answers with the policies that drew them."""
    return [(table, policies_of(table)) for table in tables]


def policies_of(answers: StepView) -> list[StepView]:
    """The policies that a table of answers was drawn from, through scorings and parts of it."""
    found: list[StepView] = []
    todo, done = [answers], set[int]()
    while todo:
        step = todo.pop()
        if id(step) not in done:
            done.add(id(step))
            found += step.inputs.get("policy", ())
            todo += [fed for several in step.inputs.values() for fed in several if fed.kind in _SAMPLED]
    return found
