"""The steps of a run on its page: what each made, from what, at which cost, and on which machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from flows.reporting.report.content import PageCell, PageRow, PageTable
from flows.reporting.report.graph import STATE_WORDS
from flows.reporting.results import COSTS, costs
from flows.reporting.totals import totals_rows
from flows.store.finished import FinishedStep
from flows.store.records import Parent
from flows.store.runs import Run, RunStep
from flows.store.store import Store
from flows.system.durations import seconds

DIGEST = 12
"""Letters of a digest in a sentence."""
MOST_STEPS = 1_000
"""Rows of the table of steps; of more, the last ones."""


def steps_table(run: Run, finished: Sequence[FinishedStep]) -> PageTable:
    """Every step with the digest of its result, what fed it, and what it cost when it was made."""
    records = {f.addresses[0]: f for f in finished}
    titles = {f.record.result: f.title for f in finished}
    numbers = (f">{name}" for name in (*COSTS, "seconds"))
    heads = ("step", "", "task → kind", "made from", "digest of the result", *numbers)
    shown = [*run.steps.values()][-MOST_STEPS:]
    rows = tuple(_step_row(step, records.get(step.addresses[0]), titles) for step in shown)
    caption = f"The last {MOST_STEPS:,} of {len(run.steps):,} steps" if len(run.steps) > MOST_STEPS else ""
    return PageTable(caption, heads, rows)


def _step_row(step: RunStep, finished: FinishedStep | None, titles: Mapping[Parent, str]) -> PageRow:
    state = "carried" if step.carried else step.state
    what = f"{step.task} → {step.kind}" if step.kind else step.task
    fed = dict.fromkeys(_parent_text(p, titles) for p in finished.record.inputs) if finished else {}
    spent = costs([finished]) if finished else {}
    numbers = [f"{spent[cost]:,.0f}" if cost in spent else "" for cost in COSTS.values()]
    numbers.append(f"{step.seconds:,.1f}" if step.key else "")
    return PageRow((
        PageCell(step.title), PageCell(STATE_WORDS.get(state, state), "", f"state {state}"), PageCell(what, "", "code"),
        PageCell(", ".join(fed), "", "small"), PageCell(step.content, "", "code"),
        *(PageCell(number, "", "number") for number in numbers),
    ))  # fmt: skip


def _parent_text(parent: Parent, titles: Mapping[Parent, str]) -> str:
    return titles.get(parent, parent.content[:DIGEST])


def cost_tables(store: Store, finished: Sequence[FinishedStep]) -> Iterator[PageTable]:
    """What the results cost, in this run and before it, and the totals that the tasks of the steps declare."""
    rows = [("computed in this run", [f for f in finished if not f.hit]),
            ("cached, computed before", [f for f in finished if f.hit]), ("together", [*finished])]  # fmt: skip
    heads = ("", ">steps", *(f">{name.replace('_', ' ')}" for name in COSTS), ">time of the steps")
    yield PageTable("Cost of the results when they were made", heads, tuple(
        PageRow(tuple(_cost_cells(title, several)), "last" if several == [*finished] else "") for title, several in rows
        if several
    ))  # fmt: skip
    if totals := totals_rows(store, finished):
        heads = tuple(head if head == "step" else f">{head}" for head in totals[0])
        cells = (
            tuple(PageCell(t, "", "" if head == "step" else "number") for head, t in row.items()) for row in totals
        )
        yield PageTable("Totals of steps", heads, tuple(map(PageRow, cells)))


def _cost_cells(title: str, finished: Sequence[FinishedStep]) -> Iterator[PageCell]:
    spent = costs(finished)
    yield PageCell(title)
    yield PageCell(f"{len(finished):,}", "", "number")
    yield from (PageCell(f"{spent.get(cost, 0):,.0f}", "", "number") for cost in COSTS.values())
    yield PageCell(seconds(spent.get("cost/seconds", 0.0)), "", "number")


def environment_facts(finished: Sequence[FinishedStep]) -> Iterator[tuple[str, str]]:
    """On what the steps were made: commits, versions of packages, machines."""
    records = [f.record for f in finished]
    if commits := dict.fromkeys(r.commit[:DIGEST] + r.commit[40:] for r in records if r.commit):
        yield "commit", ", ".join(commits)
    versions: dict[str, dict[str, None]] = {}
    for record in records:
        for package, version in record.versions.items():
            versions.setdefault(package, {})[version] = None
    if versions:
        yield "packages", " · ".join(f"{package} {', '.join(several)}" for package, several in sorted(versions.items()))
    machines = dict.fromkeys(" · ".join(f"{k} {v}" for k, v in sorted(r.hardware.items()) if v) for r in records)
    yield from (("machine", machine) for machine in machines if machine)
