"""`alignflow compare`: runs in one table, significant differences, two figures. Imports neither torch, Prefect nor
MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from flows.commands.printing import say, short_path
from flows.reporting.comparison import (
    ComparedMethod,
    ComparedRun,
    Comparison,
    about_seeds,
    chosen_runs,
    comparison,
    fact_lines,
)
from flows.reporting.differences import MetricDifference
from flows.reporting.figures.comparison_figures import draw_comparison
from flows.reporting.results import ResultRow, columns, estimate_text, new_table, table_cell
from flows.reporting.seeds import seed_of
from flows.reporting.sinks.mlflow_sink import address
from flows.reporting.sinks.mlflow_view import TRAINING, charts_page
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import JSON

SPENT = {"cost/samples": "samples", "cost/oracle_queries": "queries", "cost/seconds": "seconds"}
ALL_PAIRS = 4
"""Up to so many methods, the text compares every two; of more, each with the first."""


def compare_text(
    store: Store, refs: Sequence[str], console: Console, *, rounds: bool, ranked: bool, out: Path | None
) -> None:
    """Print the table and draw the figures. Raises SpecError."""
    compared = comparison(store, chosen_runs(Runs(store), refs), ranked=ranked)
    console.print(grid(compared, rounds=rounds))
    if any(method.over_seeds for method in compared.methods):
        console.print(seeds_grid(compared.methods))
    for line in [*_differences(compared), *_notes(compared)]:
        say(console, f"  {line}")
    if files := draw_comparison(store, compared, out):
        say(console, f"  {'figures':<10} {', '.join(f.name for f in files)} in {short_path(files[0].parent)}")
    for title, page in mlflow_pages([e.run for e in compared.entries], address(store.root)).items():
        say(console, f"  {title:<10} {page}")


def compare_json(store: Store, refs: Sequence[str], *, ranked: bool, out: Path | None) -> JSON:
    """The same facts for scripts, with every round; figures only if `out` is given. Raises SpecError."""
    compared = comparison(store, chosen_runs(Runs(store), refs), ranked=ranked)
    files = draw_comparison(store, compared, out) if out else []
    differ: JSON = {name: {**values} for name, values in compared.differ.items()}
    return {
        "runs": [_entry_json(compared, m, e) for m in compared.methods for e in m.entries],
        "methods": [_method_json(compared, m) for m in compared.methods],
        "differences": [
            {**d._asdict(), "seeds": [*d.seeds], "winner": d.winner or None} for d in compared.differences
        ],
        "together": dict(compared.spent), "measured_differently": differ, "figures": [str(f) for f in files],
    }  # fmt: skip


def grid(compared: Comparison, *, rounds: bool) -> RichTable:
    """One row for each run after its last round, or one for each round; costs are those until then."""
    rows = (row for e in compared.entries for row in reversed(e.results.main_rows))
    metrics = {name: metric for name, metric in columns(rows).items() if metric.compared}
    table = new_table()
    table.add_column("rank" if compared.differences else "")
    table.add_column("run", overflow="fold")
    for head in ("round", "prompts", *(m.column for m in metrics.values()), *SPENT.values(), "cached"):
        table.add_column(head, justify="right", no_wrap=head not in ("round", "prompts"))
    base = next((e.results.base_check for e in compared.entries if e.results.base_check), None)
    if base and not compared.differ:
        numbers = (table_cell(base.metrics.get(m)) for m in metrics)
        table.add_row("", "base vs. base", "", str(base.n), *numbers, style="dim")
    for method, entry in ((m, e) for m in compared.methods for e in m.entries):
        for row in entry.results.rows if rounds else entry.results.rows[-1:]:
            last = row is entry.results.rows[-1]
            rank = str(compared.rank(method)) if last and compared.differences else ""
            cells = (*(table_cell(row.metrics.get(m)) for m in metrics), *_spent(entry, row, last))
            style = "bold" if rounds and last else ""
            table.add_row(rank, entry.label, str(row.round or ""), str(row.n), *cells, style=style)
    if len(compared.entries) > 1:
        spent = (f"{compared.spent.get(name, 0):,.0f}" for name in SPENT)
        table.add_row("", "together", "", "", *[""] * len(metrics), *spent, "", style="dim")
    return table


def seeds_grid(methods: Sequence[ComparedMethod]) -> RichTable:
    """The last headline of methods with several seeds: one row for each metric."""
    table = new_table(title="over seeds")
    for head in ("method", "metric"):
        table.add_column(head, overflow="fold")
    for head in ("seeds", "mean", "range", "standard error\nbetween seeds", "95% CI,\nprompts",
                 "95% CI,\nprompts and seeds"):  # fmt: skip
        table.add_column(head, justify="right", no_wrap=True)
    for method in (m for m in methods if m.over_seeds):
        label, seeds = method.label, str(len(method.entries))
        for metric in method.over_seeds.values():
            table.add_row(label, metric.metric.column.partition("\n")[0], seeds, *metric.texts())
            label = seeds = ""
    return table


def mlflow_pages(runs: Sequence[Run], address: str) -> dict[str, str]:
    """Pages of MLflow (`alignflow up`) that compare the runs, if two of them are in one experiment."""
    links = [run.links["mlflow"].split("/") for run in runs if "mlflow" in run.links]
    experiments = {experiment for experiment, _ in links}
    if len(links) < 2 or len(experiments) != 1:
        return {}
    ids, experiment = ",".join(f"%22{id}%22" for _, id in links), experiments.pop()
    return {
        "in MLflow": f"{address}/#/compare-runs?runs=[{ids}]&experiments=[%22{experiment}%22]&{TRAINING}",
        "charts": f"{address}/{charts_page(experiment)}",
    }


def _spent(entry: ComparedRun, row: ResultRow, last: bool) -> Iterator[str]:
    spent = entry.spent(row.round)
    yield from (f"{spent.get(name, 0):,.0f}" for name in SPENT)
    yield f"{entry.hits}/{len(entry.steps)}" if last else ""


def _differences(compared: Comparison) -> Iterator[str]:
    """Which methods are significantly better than which, in lines."""
    first, pairs = compared.methods[0].label, len(compared.differences)
    shown = [d for d in compared.differences if len(compared.methods) <= ALL_PAIRS or first in (d.a, d.b)]
    if not shown:
        return
    metric = compared.entries[0].metric.rpartition("/")[2].replace("_", " ")
    interval = "95% CI" if pairs == 1 else f"95% CI, all {pairs} together (Bonferroni)"
    yield f"differences of the last {metric}, prompt by prompt ({interval}):"
    width = max(len(f"{d.a} − {d.b}") for d in shown)
    for d in shown:
        value = estimate_text(d.value, d.low, d.high, "+.3f", f"{d.n} prompts")
        yield f"  {f'{d.a} − {d.b}':<{width}}  {value}  {_verdict(d)}"
    yield f"  {about_seeds(compared.methods)}"
    if pairs > 1:
        yield "  rank: 1 + the number of runs that are significantly better; neighbours need not differ significantly."


def _verdict(d: MetricDifference) -> str:
    return f"{d.winner} is better" if d.winner else "no significant difference"


def _notes(compared: Comparison) -> Iterator[str]:
    entries = compared.entries
    for entry in entries:
        if entry.run.status != "done":
            yield f"! {entry.label}: the run is {entry.run.status}"
        if not entry.metric:
            yield f"! {entry.label}: has no metric that runs are ranked by"
        yield from (f"! {entry.label}, {text}" for text in entry.results.warnings())
    yield from (f"! not ranked: measured with different {line}" for line in fact_lines(compared.differ))
    if len(entries) > 1 or any(e.hits for e in entries):
        yield "samples, queries and seconds: what the results cost when they were made, cached ones included"
    if len(entries) > 1:
        yield "together: what several runs share counts once"
    if any(e.run.deployment and any(s.carried for s in e.run.steps.values()) for e in entries):
        yield "each tick's are its own: those of earlier ticks are in their rows"


def _method_json(compared: Comparison, method: ComparedMethod) -> JSON:
    return {
        "label": method.label, "runs": [entry.run.id for entry in method.entries],
        "seeds": [seed_of(entry.run) for entry in method.entries],
        "rank": compared.rank(method) if compared.differences else None,
        "over_seeds": {name: over.as_json() for name, over in method.over_seeds.items()},
    }  # fmt: skip


def _entry_json(compared: Comparison, method: ComparedMethod, entry: ComparedRun) -> JSON:
    rows: list[JSON] = [
        {
            "round": row.round, "metrics": {m: e.as_json() for m, e in row.metrics.items()},
            "costs": dict(entry.spent(row.round)), "notices": [*row.notices],
        }
        for row in entry.results.rows
    ]  # fmt: skip
    return {
        "run": entry.run.id, "pipeline": entry.run.pipeline, "label": entry.label, "method": method.label,
        "status": entry.run.status,
        "parameters": dict(entry.run.parameters), "ranked_by": entry.metric or None,
        "rank": compared.rank(method) if compared.differences else None, "rounds": rows,
        "hits": entry.hits, "steps": len(entry.steps),
    }  # fmt: skip
