"""`alignflow show`: a run step by step, or an artifact with its record, its lineage and its first rows.

Imports neither torch nor Prefect nor MLflow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flows.commands.progress import seconds
from flows.commands.requests import Sort
from flows.commands.samples import Samples, before_and_after, pick_samples
from flows.reporting.results import (
    as_json,
    metrics_table,
    notices,
    plain_number,
    read_report,
    run_results,
    tables,
    warnings,
)
from flows.store.finished import finished_steps
from flows.store.records import Record
from flows.store.runs import FoundRecord, Run, Runs
from flows.store.store import Store
from tasks.contract import JSON, SpecError
from tasks.message import conversation_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.tree import Tree

MARKS = {"hit": "cached", "made": "made", "failed": "[red]failed[/]", "skipped": "[dim]not run[/]"}
HIDDEN = {"prompt_tokens", "completion_tokens", "chosen_tokens", "rejected_tokens", "completions_tokens"}
"""Columns of ids, which nobody reads."""
FOR_SCRIPTS = {"token_logps", "truth", "stream"}
"""Columns that only `--json` shows."""
DEPTH = 3
"""Steps back that the lineage goes unless all of it is asked for."""
WIDE = {"prompt", "completion", "chosen", "rejected", "completions"}
NARROW = 34
"""Letters of a cell in a column that holds no text to read."""


def show_text(
    store: Store, ref: str, rows: int, console: Console, *, whole: bool = False, sort: Sort = Sort.FIRST
) -> None:
    """Print what REF names; `whole`: with all of its lineage. Raises SpecError."""
    run = _run_of(store, ref)
    if run:
        _run_text(store, run, console)
        return
    found = Runs(store).find(ref)
    sides = _sides(store, found.record, ref, rows, sort)
    _record_text(store, found, console, None if whole else DEPTH)
    if found.record.kind == "Report":
        console.print(metrics_table(read_report(store, found.record)))
    if sides:
        pick_samples(sides, console)
    else:
        _rows_text(store, found.record, rows, console)


def _sides(store: Store, record: Record, ref: str, rows: int, sort: Sort) -> Samples | None:
    sides = before_and_after(store, record, rows, sort)
    if sides is None and sort is not Sort.FIRST:
        raise SpecError(f"'{ref}' ({record.kind}) has no answers before and after that --sort could order")
    return sides


def show_json(store: Store, ref: str, rows: int, sort: Sort = Sort.FIRST) -> JSON:
    """The same facts for scripts. Raises SpecError."""
    run = _run_of(store, ref)
    if run:
        return run_json(store, run)
    found = Runs(store).find(ref)
    record = found.record
    data = record.as_json()
    assert isinstance(data, dict)
    sides = _sides(store, record, ref, rows, sort)
    numbers = read_report(store, record) if record.kind == "Report" else {}
    return {
        **data, "path": str(store.root / record.path), "run": found.run.id if found.run else None,
        "step": found.step.id if found.step else None, "first_rows": first_rows(store, record, rows),
        "metrics": {name: plain_number(e) for name, e in numbers.items()},
        "compared": sides.as_json() if sides else None,
    }  # fmt: skip


def run_json(store: Store, run: Run) -> JSON:
    """A run: every step with key, content digest, seconds and whether it was a hit; the results by round."""
    done = finished_steps(store, run)
    said: dict[str, list[JSON]] = {d.addresses[0]: [*d.record.notices] for d in done}
    steps: list[JSON] = [
        {
            "step": s.id, "addresses": list(s.addresses), "title": s.title, "task": s.task, "round": s.round,
            "state": s.state, "hit": s.hit, "key": s.key, "content": s.content, "kind": s.kind, "seconds": s.seconds,
            "reason": s.reason, "notices": said.get(s.addresses[0], []),
        }
        for s in run.steps.values()
    ]  # fmt: skip
    found = run_results(store, done)
    return {
        "run": run.id, "pipeline": run.pipeline, "deployment": run.deployment, "status": run.status,
        "started": run.started, "ended": run.ended, "parameters": dict(run.parameters), "links": dict(run.links),
        "notices": list(run.notices), "steps": steps, "results": [*as_json(found)],
    }  # fmt: skip


def _run_of(store: Store, ref: str) -> Run | None:
    """The run, if REF names one and no step of it."""
    is_run = ref == "last" or re.match(r"\d{8}-", ref)
    return Runs(store).find_run(ref) if is_run and ":" not in ref else None


def _run_text(store: Store, run: Run, console: Console) -> None:
    from rich import box
    from rich.table import Table

    console.print(f"[bold]{run.pipeline}[/]  {run.id}  {run.status}, began {run.started}")
    said = "  ".join(f"{k}={_short(v, 40)}" for k, v in run.parameters.items() if v is not None)
    console.print(said, style="dim", markup=False)
    steps = Table("step", "task", "kind", "content", "", "seconds", box=box.SIMPLE_HEAD)
    steps.columns[-1].justify = "right"
    for s in run.steps.values():
        steps.add_row(s.title, s.task, s.kind, s.content[:12], MARKS.get(s.state, s.state), f"{s.seconds:.1f}")
    console.print(steps)
    for step in run.steps.values():
        if step.state == "failed":
            console.print(f"✗ {step.title}: {step.reason}", markup=False)
    found = run_results(store, finished_steps(store, run))
    for table in tables(found):
        console.print(table)
    for text in notices(found):
        console.print(f"  - {text}", markup=False, soft_wrap=True)
    for text in [*run.notices, *warnings(found)]:
        console.print(f"  ! {text}", markup=False)


def _record_text(store: Store, found: FoundRecord, console: Console, depth: int | None) -> None:
    record = found.record
    where = f"  {found.step.title} of {found.run.id}" if found.step and found.run else ""
    console.print(f"[bold]{record.kind}[/] {record.content}{where}")
    for name, value in _facts(store, record):
        console.print(f"  {name:<9} {value}", markup=False, soft_wrap=True)
    console.print(lineage_lines(store, record, depth))


def _facts(store: Store, record: Record) -> Iterator[tuple[str, str]]:
    yield "path", f"{store.root / record.path}"
    if record.location:
        yield "lies in", record.location
    yield (
        "made",
        f"{record.made} by {record.task} in {seconds(record.seconds)}, commit {record.commit[:12] or 'unknown'}",
    )
    params = record.parts.get("params")
    if isinstance(params, dict) and params:
        yield "params", "  ".join(f"{k}={_short(v, 60)}" for k, v in params.items() if v is not None)
    if record.execution:
        yield "executed", "  ".join(f"{k}={v}" for k, v in record.execution.items())
    counts = {"rows": record.rows, **record.totals}
    if any(v is not None for v in counts.values()):
        yield "counts", "  ".join(f"{k}={v:,.0f}" for k, v in counts.items() if v is not None)
    if record.curves:
        first, last = record.curves[0], record.curves[-1]
        both = (f"{m} {first[m]:.3g} → {last[m]:.3g}" for m in last if m != "step" and m in first)
        yield "curves", f"{len(record.curves)} rows: " + "  ".join(list(both)[:4])
    yield "versions", "  ".join(f"{k} {v}" for k, v in record.versions.items()) or "of no package"
    yield "hardware", "  ".join(f"{k} {v}" for k, v in record.hardware.items() if v)
    if record.accepted:
        yield "accepted", f"the result of key {record.accepted.get('from')}: {record.accepted.get('because')}"
    if record.remade:
        yield "remade", f"its first content {record.remade} was damaged and came out different"
    for notice in record.notices:
        yield "note", notice


def lineage_lines(store: Store, record: Record, depth: int | None = None) -> Tree:
    """What a record was made from, `depth` steps back; what was shown already is not shown again."""
    from rich.tree import Tree

    tree = Tree("made from" if record.parents else "made from nothing but its parameters", guide_style="dim")
    _grow(store, tree, record, set(), math.inf if depth is None else depth)
    return tree


def _grow(store: Store, tree: Tree, record: Record, done: set[str], depth: float) -> None:
    if record.parents and depth <= 0:
        tree.add("[dim]… (all of it: --lineage)[/]")
        return
    for port, parents in record.parents.items():
        for parent in parents:
            made = store.record(parent.key)
            what = f"{made.task} → {made.kind}" if made else "its record is gone"
            again = parent.key in done and made is not None and bool(made.parents)
            branch = tree.add(f"{port}: {what} [dim]{parent.content[:12]}{' (see above)' if again else ''}[/]")
            if made and not again:
                done.add(parent.key)
                _grow(store, branch, made, done, depth - 1)


def first_rows(store: Store, record: Record, rows: int) -> list[JSON]:
    """The first rows of a table, without columns of token ids; empty for what is no table."""
    if record.rows is None:
        return []
    batches = store.open(record).batches()  # type: ignore[attr-defined]
    found: list[JSON] = []
    for batch in batches:
        shown = batch.select([n for n in batch.schema.names if n not in HIDDEN])
        found += shown.slice(0, rows - len(found)).to_pylist()
        if len(found) >= rows:
            break
    return found


def _rows_text(store: Store, record: Record, rows: int, console: Console) -> None:
    found = first_rows(store, record, rows)
    if not found:
        _files_text(store.root / record.path, console)
        return
    console.print(_grid([r for r in found if isinstance(r, dict)]))


def _files_text(directory: Path, console: Console) -> None:
    """The files of a model; what a specification says."""
    for file in sorted(p for p in directory.rglob("*") if p.is_file()):
        console.print(f"  {file.relative_to(directory)}  {file.stat().st_size:,} bytes")
        if file.name == "oracle.json":
            console.print(file.read_text().rstrip(), markup=False)


def _grid(rows: list[dict[str, Any]]) -> RichTable:
    from rich import box
    from rich.table import Table

    names = [n for n in rows[0] if n not in FOR_SCRIPTS and any(r[n] not in (None, []) for r in rows)]
    drawn = Table(box=box.SIMPLE_HEAD, show_lines=any(n in WIDE for n in names))
    for name in names:
        drawn.add_column(name, overflow="fold", ratio=3 if name in WIDE else None, no_wrap=name not in WIDE)
    for row in rows:
        drawn.add_row(*(_cell(name, row[name]) for name in names))
    return drawn


def _cell(name: str, value: object) -> str:
    from rich.markup import escape

    if name == "prompt" and isinstance(value, list):
        return escape(conversation_text(value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value) if name in WIDE else _short(value, 9 if name.endswith("_id") else NARROW))


def _short(value: object, letters: int) -> str:
    """A value in at most so many letters; a choice as `sppo(eta=10.0)`."""
    if isinstance(value, dict) and "choice" in value:
        params = ", ".join(f"{k}={_short(v, letters)}" for k, v in value["params"].items())
        value = f"{str(value['choice']).rpartition('/')[2]}{f'({params})' if params else ''}"
    if isinstance(value, list):
        value = ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value)
    text = str(value)
    return text if len(text) <= letters else text[: letters - 1] + "…"
