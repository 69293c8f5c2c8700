"""`alignflow compare`: runs in one table, who beats whom, two figures. Imports neither torch, Prefect nor MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.progress import short_path
from flows.reporting.comparison import (
    ComparedRun,
    Comparison,
    MetricDifference,
    chosen_runs,
    comparison,
    differing_facts,
)
from flows.reporting.figures.saving import figure_cache
from flows.reporting.results import ResultRow, columns, plain_number, signed_text, table_cell, warnings
from flows.reporting.sinks.mlflow_sink import address
from flows.reporting.sinks.mlflow_view import TRAINING, charts_page
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import JSON

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

SPENT = {"cost/samples": "samples", "cost/oracle_queries": "queries", "cost/seconds": "seconds"}
ALL_PAIRS = 4
"""Runs up to which every two are compared in the text; with more, each with the first."""


def compare_text(
    store: Store, refs: Sequence[str], console: Console, *, rounds: bool, ranked: bool, out: Path | None
) -> None:
    """Print the table and draw the figures. Raises SpecError."""
    found = comparison(store, chosen_runs(Runs(store), refs), ranked=ranked)
    console.print(grid(found, rounds=rounds))
    for line in [*_told(found), *_notes(found)]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    files = draw_comparison_files(store, found, out)
    if files:
        console.print(
            f"  figures    {', '.join(f.name for f in files)} in {short_path(files[0].parent)}", soft_wrap=True
        )
    for title, page in mlflow_pages([e.run for e in found.entries], address(store.root)).items():
        console.print(f"  {title:<10} {page}", markup=False, highlight=False, soft_wrap=True)


def compare_json(store: Store, refs: Sequence[str], *, ranked: bool, out: Path | None) -> JSON:
    """The same facts for scripts, with every round; figures only where `out` says. Raises SpecError."""
    found = comparison(store, chosen_runs(Runs(store), refs), ranked=ranked)
    files = draw_comparison_files(store, found, out) if out else []
    differ: JSON = {
        fact: {who: value.said if value else None for who, value in values.items()}
        for fact, values in found.differ.items()
    }
    return {
        "runs": [_entry_json(found, e) for e in found.entries],
        "differences": [{**d._asdict(), "winner": d.winner or None} for d in found.differences],
        "measured_differently": differ, "figures": [str(f) for f in files],
    }  # fmt: skip


def grid(found: Comparison, *, rounds: bool) -> RichTable:
    """One row for each run after its last round, or one for each round; costs are those until then."""
    from rich import box
    from rich.table import Table

    metrics = {n: m for n, m in columns(r for e in found.entries for r in _rows(e)).items() if m.compared}
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("rank" if found.differences else "")
    drawn.add_column("run", overflow="fold")
    drawn.add_column("round", justify="right")
    drawn.add_column("prompts", justify="right")
    for head in (*(m.column for m in metrics.values()), *SPENT.values(), "cached"):
        drawn.add_column(head, justify="right", no_wrap=True)
    floor = next((e.found.floor for e in found.entries if e.found.floor), None)
    if floor and not found.differ:
        drawn.add_row(
            "", "base vs. base", "", str(floor.n), *(table_cell(floor.metrics.get(m)) for m in metrics), style="dim"
        )
    for entry in found.entries:
        rows = entry.found.rows if rounds else entry.found.rows[-1:]
        for row in rows:
            last = row is entry.found.rows[-1]
            rank = str(found.rank(entry)) if last and found.differences else ""
            cells = (*(table_cell(row.metrics.get(m)) for m in metrics), *_spent(entry, row, last))
            drawn.add_row(
                rank, entry.label, str(row.round or ""), str(row.n), *cells, style="bold" if rounds and last else ""
            )
    return drawn


def draw_comparison_files(store: Store, found: Comparison, out: Path | None) -> list[Path]:
    """The figures of runs that were measured alike, in `out` or a folder named after the runs."""
    if found.differ:
        return []
    from flows.reporting.figures.comparison_figures import draw_comparison

    ids = sorted(e.run.id for e in found.entries)
    name = f"compare-{blake2b(json.dumps(ids).encode(), digest_size=4).hexdigest()}"
    return draw_comparison(found, out or store.inside("figures", name), cache=figure_cache(store))


def mlflow_pages(runs: Sequence[Run], address: str) -> dict[str, str]:
    """Pages of MLflow (`alignflow up`) that compare the runs, where two of them are in one experiment."""
    links = [run.links["mlflow"].split("/") for run in runs if "mlflow" in run.links]
    experiments = {experiment for experiment, _ in links}
    if len(links) < 2 or len(experiments) != 1:
        return {}
    ids, experiment = ",".join(f"%22{id}%22" for _, id in links), experiments.pop()
    return {
        "in MLflow": f"{address}/#/compare-runs?runs=[{ids}]&experiments=[%22{experiment}%22]&{TRAINING}",
        "charts": f"{address}/{charts_page(experiment)}",
    }


def _rows(entry: ComparedRun) -> list[ResultRow]:
    return [*entry.found.rows, *([entry.found.floor] if entry.found.floor else [])]


def _spent(entry: ComparedRun, row: ResultRow, last: bool) -> Iterator[str]:
    spent = entry.spent(row.round)
    yield from (f"{spent.get(name, 0):,.0f}" for name in SPENT)
    yield f"{entry.hits}/{len(entry.steps)}" if last else ""


def _told(found: Comparison) -> Iterator[str]:
    """Who beats whom, as far as the prompts show it."""
    first = found.entries[0].label
    several = [d for d in found.differences if len(found.entries) <= ALL_PAIRS or first in (d.a, d.b)]
    pairs = len(found.differences)
    if several:
        metric = found.entries[0].metric.rpartition("/")[2].replace("_", " ")
        held = "95% CI" if pairs == 1 else f"95% CI, all {pairs} together (Bonferroni)"
        yield f"differences of the last {metric}, prompt by prompt ({held}):"
    width = max((len(f"{d.a} − {d.b}") for d in several), default=0)
    for d in several:
        interval = f"({signed_text(d.low)} to {signed_text(d.high)}; {d.n} prompts)"
        yield f"  {f'{d.a} − {d.b}':<{width}}  {signed_text(d.value)} {interval}  {_verdict(d)}"
    if several:
        yield "  One training each: how another seed would come out is not in these intervals."
    if pairs > 1:
        yield "  rank: 1 + how many runs beat it; neighbours need not differ significantly."


def _verdict(d: MetricDifference) -> str:
    return f"{d.winner} is better" if d.winner else "no significant difference"


def _notes(found: Comparison) -> Iterator[str]:
    for entry in found.entries:
        if entry.run.status != "done":
            yield f"! {entry.label}: the run is {entry.run.status}"
        if not entry.metric:
            yield f"! {entry.label}: has no metric that runs are ranked by"
        yield from (f"! {entry.label}, {text}" for text in warnings(entry.found))
    yield from (f"! not ranked: measured with different {line}" for line in differing_facts(found.differ))
    if len(found.entries) > 1 or any(e.hits for e in found.entries):
        yield "samples, queries and seconds: what the results cost when they were made, cached ones included"
    if any(e.run.deployment and any(s.carried for s in e.run.steps.values()) for e in found.entries):
        yield "each tick's are its own: what earlier ticks left was counted by them"


def _entry_json(found: Comparison, entry: ComparedRun) -> JSON:
    rows: list[JSON] = [
        {
            "round": row.round, "metrics": {m: plain_number(e) for m, e in row.metrics.items()},
            "costs": dict(entry.spent(row.round)), "notices": [*row.notices],
        }
        for row in entry.found.rows
    ]  # fmt: skip
    return {
        "run": entry.run.id, "pipeline": entry.run.pipeline, "label": entry.label, "status": entry.run.status,
        "parameters": dict(entry.run.parameters), "ranked_by": entry.metric or None,
        "rank": found.rank(entry) if found.differences else None, "rounds": rows,
        "hits": entry.hits, "steps": len(entry.steps),
    }  # fmt: skip
