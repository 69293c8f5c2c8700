"""`alignflow show`: a run step by step, or an artifact with its record, its lineage and its first rows.

Imports neither torch nor Prefect nor MLflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.tree import Tree

from flows.commands.options import Sort
from flows.commands.outcome import print_results
from flows.commands.printing import say
from flows.commands.project import run_of
from flows.commands.samples import Samples, before_and_after, print_samples
from flows.reporting.results import metrics_table, new_table, read_report, run_results
from flows.reporting.totals import declared_totals, total_texts, totals_rows
from flows.store.finished import finished_steps
from flows.store.records import Record
from flows.store.runs import FoundRecord, Run, Runs
from flows.store.store import Store
from flows.system.durations import seconds
from flows.wiring.views import MODELS
from tasks.contract import JSON, SpecError
from tasks.message import conversation_text

MARKS = {
    "hit": "cached",
    "made": "made",
    "failed": "[red]failed[/]",
    "waiting": "[yellow]waiting[/]",
    "skipped": "[dim]not run[/]",
}
HIDDEN = {"prompt_tokens", "completion_tokens", "chosen_tokens", "rejected_tokens", "completions_tokens"}
"""Columns of token ids, which nobody reads."""
FOR_SCRIPTS = {"token_logps", "truth", "stream"}
"""Columns that only `--json` shows."""
DEPTH = 3
"""Steps back that the lineage shows without `--lineage`."""
WIDE = {"prompt", "completion", "chosen", "rejected", "completions"}
"""Columns of text to read."""
NARROW = 34
"""Letters of a cell in any other column."""


def show_text(
    store: Store, ref: str, rows: int, console: Console, *, whole: bool = False, sort: Sort = Sort.FIRST
) -> None:
    """Print what REF names; `whole`: with all of its lineage. Raises SpecError."""
    if run := run_of(store, ref):
        _run_text(store, run, console)
        return
    found = Runs(store).find(ref)
    record = found.record
    samples = _samples(store, record, ref, rows, sort)
    _record_text(store, found, console, None if whole else DEPTH)
    if _is_gone(store, record):
        return
    if record.kind == "Report":
        console.print(metrics_table(read_report(store, record)))
    if samples:
        print_samples(samples, console)
    elif shown := first_rows(store, record, rows):
        console.print(_grid([row for row in shown if isinstance(row, dict)]))
    else:
        _files_text(store.root / record.path, console)


def _samples(store: Store, record: Record, ref: str, rows: int, sort: Sort) -> Samples | None:
    samples = before_and_after(store, record, rows, sort)
    if samples is None and sort is not Sort.FIRST:
        raise SpecError(f"'{ref}' ({record.kind}) has no answers before and after that --sort could order")
    return samples


def show_json(store: Store, ref: str, rows: int, sort: Sort = Sort.FIRST) -> JSON:
    """The same facts for scripts. Raises SpecError."""
    if run := run_of(store, ref):
        return run_json(store, run)
    found = Runs(store).find(ref)
    record = found.record
    data = record.as_json()
    assert isinstance(data, dict)
    samples = _samples(store, record, ref, rows, sort)
    gone = _is_gone(store, record)
    estimates = read_report(store, record) if record.kind == "Report" and not gone else {}
    return {
        **data, "path": str(store.root / record.path), "run": found.run.id if found.run else None,
        "step": found.step.id if found.step else None, "first_rows": [] if gone else first_rows(store, record, rows),
        "metrics": {name: e.as_json() for name, e in estimates.items()},
        "compared": asdict(samples) if samples else None,
    }  # fmt: skip


def _is_gone(store: Store, record: Record) -> bool:
    """Whether there is nothing under a record's content; what is damaged is an error that names the file."""
    return not (store.root / record.path).is_dir()


def run_json(store: Store, run: Run) -> JSON:
    """A run: every step with key, content digest, seconds and whether it was a hit; the results by round."""
    done = finished_steps(store, run)
    notices: dict[str, list[JSON]] = {d.addresses[0]: [*d.record.notices] for d in done}
    steps: list[JSON] = [
        {
            "step": s.id, "addresses": list(s.addresses), "title": s.title, "task": s.task, "round": s.round,
            "state": s.state, "hit": s.hit, "key": s.key, "content": s.content, "kind": s.kind, "seconds": s.seconds,
            "reason": s.reason, "notices": notices.get(s.addresses[0], []),
        }
        for s in run.steps.values()
    ]  # fmt: skip
    return {
        "run": run.id, "pipeline": run.pipeline, "deployment": run.deployment, "status": run.status,
        "started": run.started, "ended": run.ended, "parameters": dict(run.parameters), "links": dict(run.links),
        "notices": list(run.notices), "steps": steps, "results": run_results(store, done).as_json(),
    }  # fmt: skip


def _run_text(store: Store, run: Run, console: Console) -> None:
    console.print(f"[bold]{run.pipeline}[/]  {run.id}  {run.status}, began {run.started}")
    parameters = "  ".join(f"{k}={_short(v, 40)}" for k, v in run.parameters.items() if v is not None)
    console.print(parameters, style="dim", markup=False)
    steps = new_table()
    for head in ("step", "task", "kind", "content", "", "seconds"):
        steps.add_column(head, justify="right" if head == "seconds" else "left")
    finished = finished_steps(store, run)
    adapters = {d.record.key for d in finished if d.record.refers_to and d.record.kind in MODELS}
    for s in run.steps.values():
        kind = f"{s.kind} (adapter)" if s.key in adapters else s.kind
        steps.add_row(s.title, s.task, kind, s.content[:12], MARKS.get(s.state, s.state), f"{s.seconds:.1f}")
    console.print(steps)
    for s in run.steps.values():
        if s.state == "failed":
            say(console, f"✗ {s.title}: {s.reason}")
        if s.state == "waiting":
            say(console, f"… {s.title} waits for people: {s.reason}")
    print_results(console, run_results(store, finished), run.notices)
    if rows := totals_rows(store, finished):
        console.print(_totals_table(rows))


def _totals_table(rows: Sequence[Mapping[str, str]]) -> RichTable:
    made = new_table()
    for head in rows[0]:
        made.add_column(head, justify="left" if head == "step" else "right")
    for row in rows:
        made.add_row(*map(escape, row.values()))
    return made


def _record_text(store: Store, found: FoundRecord, console: Console, depth: int | None) -> None:
    record = found.record
    where = f"  {found.step.title} of {found.run.id}" if found.step and found.run else ""
    console.print(f"[bold]{record.kind}[/] {record.content}{where}")
    for name, value in _facts(store, record):
        say(console, f"  {name:<9} {value}")
    console.print(lineage_lines(store, record, depth))


def _facts(store: Store, record: Record) -> Iterator[tuple[str, str]]:
    yield "path", f"{store.root / record.path}"
    if _is_gone(store, record):
        yield "content", f"cannot be read: {store.integrity_error(record)}"
    if record.location:
        yield "lies in", record.location
    if record.refers_to:
        relation = "adapts" if record.kind in MODELS else "made of"
        yield relation, store.references.error(record) or _references(store, record)
    commit = record.commit[:12] or "unknown"
    yield "made", f"{record.made} by {record.task} in {seconds(record.seconds)}, commit {commit}"
    params = record.parts.get("params")
    if isinstance(params, dict) and params:
        yield "params", "  ".join(f"{k}={_short(v, 60)}" for k, v in params.items() if v is not None)
    if record.execution:
        yield "executed", "  ".join(f"{k}={v}" for k, v in record.execution.items())
    declared = declared_totals(store, record)
    counts = {"rows": record.rows, **{k: v for k, v in record.totals.items() if k not in declared}}
    if known := [f"{k}={v:,.0f}" for k, v in counts.items() if v is not None]:
        yield "counts", "  ".join(known)
    if declared:
        yield "totals", " · ".join(total_texts(store, record))
    if record.curves:
        first, last = record.curves[0], record.curves[-1]
        both = [f"{m} {first[m]:.3g} → {last[m]:.3g}" for m in last if m != "step" and m in first]
        yield "curves", f"{len(record.curves)} rows: {'  '.join(both[:4])}"
    yield "versions", "  ".join(f"{k} {v}" for k, v in record.versions.items()) or "of no package"
    yield "hardware", "  ".join(f"{k} {v}" for k, v in record.hardware.items() if v)
    if record.accepted:
        yield "accepted", f"the result of key {record.accepted.get('from')}: {record.accepted.get('because')}"
    if record.remade:
        yield "remade", f"its first content {record.remade} was damaged and came out different"
    for notice in record.notices:
        yield "note", notice


def _references(store: Store, record: Record) -> str:
    """The base of an adapter, or the members of a scorer, and where they lie."""
    members = store.references.of(record)
    several = {role: [f"{m.kind} {m.content} in {m.location or m.path}" for m in ms] for role, ms in members.items()}
    named = {role: ", ".join(texts) for role, texts in several.items()}
    return "; ".join(text if record.kind in MODELS else f"{role}: {text}" for role, text in named.items())


def lineage_lines(store: Store, record: Record, depth: int | None = None) -> Tree:
    """The inputs of a record, and theirs, `depth` steps back; each record is shown once."""
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
    """The first rows of a table, without columns of token ids; empty for what is not a table."""
    if record.rows is None:
        return []
    shown: list[JSON] = []
    for batch in store.open(record).batches():  # type: ignore[attr-defined]
        columns = batch.select([n for n in batch.schema.names if n not in HIDDEN])
        shown += columns.slice(0, rows - len(shown)).to_pylist()
        if len(shown) >= rows:
            break
    return shown


def _files_text(directory: Path, console: Console) -> None:
    """Print the names of a model's files, and the specification of an oracle."""
    for file in sorted(p for p in directory.rglob("*") if p.is_file()):
        console.print(f"  {file.relative_to(directory)}  {file.stat().st_size:,} bytes")
        if file.name == "oracle.json":
            console.print(file.read_text().rstrip(), markup=False)


def _grid(rows: list[dict[str, Any]]) -> RichTable:
    names = [n for n in rows[0] if n not in FOR_SCRIPTS and any(r[n] not in (None, []) for r in rows)]
    table = new_table(show_lines=any(n in WIDE for n in names))
    for name in names:
        table.add_column(name, overflow="fold", ratio=3 if name in WIDE else None, no_wrap=name not in WIDE)
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in names))
    return table


def _cell(name: str, value: object) -> str:
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
