"""`alignflow report`: the page of a run, or of several with their comparison, as one HTML file. Imports neither torch,
Prefect nor MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flows.commands.printing import say, short_path
from flows.reporting.comparison import chosen_runs
from flows.reporting.report.page import write_report
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import JSON, SpecError

BYTES = 1024


def report_text(store: Store, refs: Sequence[str], console: Console, *, ranked: bool, out: Path | None) -> None:
    """Write the page and print where it is. Raises SpecError."""
    file, runs = _written(store, refs, ranked, out)
    what = runs[0].id if len(runs) == 1 else f"{len(runs)} runs"
    size = f"{file.stat().st_size / BYTES:,.0f} KB"
    say(console, f"  {'report':<10} {short_path(file)}   ({what}; {size}, opens in a browser)")


def report_json(store: Store, refs: Sequence[str], *, ranked: bool, out: Path | None) -> JSON:
    """The same facts for scripts. Raises SpecError."""
    file, runs = _written(store, refs, ranked, out)
    return {"report": str(file), "bytes": file.stat().st_size, "runs": [run.id for run in runs]}


def _written(store: Store, refs: Sequence[str], ranked: bool, out: Path | None) -> tuple[Path, list[Run]]:
    if out is not None and out.is_dir():
        raise SpecError(f"command line: --out {out} is a folder; name a file, such as {out / 'report.html'}")
    runs = _runs(Runs(store), refs)
    return write_report(store, runs, out, ranked=ranked), runs


def _runs(runs: Runs, refs: Sequence[str]) -> list[Run]:
    """The runs that RUN… names; `last` alone, also one that failed before it measured anything."""
    return [runs.find_run("last")] if [*refs] == ["last"] else chosen_runs(runs, refs)
