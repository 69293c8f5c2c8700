"""`alignflow import`: a result or a run of another store, with its lineage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flows.commands.project import run_of
from flows.reporting.sinks.pending import PendingRuns
from flows.store.runs import Runs
from flows.store.store import Store
from flows.store.transfer import Imported, import_results, import_run
from tasks.contract import SpecError


def import_lines(store: Store, directory: Path, ref: str) -> Iterator[str]:
    """Import what REF names in the artifacts folder `directory`; the lines that say what was done. Raises SpecError."""
    if not (directory / "keys").is_dir():
        raise SpecError(f"{directory} is no folder of artifacts: it has no keys/")
    other = Store(directory)
    if run := run_of(other, ref):
        imported = import_run(store, other, run)
        PendingRuns(store, "mlflow").add(run.id)
        yield f"run {run.id} of {run.title}: alignflow show {run.id}"
    else:
        record = Runs(other).find(ref).record
        imported = import_results(store, other, [record])
        yield f"{record.kind} {record.content}: alignflow show {record.content[:12]}"
    yield from _counts(imported, directory)


def _counts(imported: Imported, directory: Path) -> Iterator[str]:
    yield f"{len(imported.copied)} results copied, {len(imported.here)} were here"
    if imported.different:
        names = ", ".join(f"{r.task} {r.content[:8]}" for r in imported.different[:5])
        yield f"{len(imported.different)} of these have another content here, which stays: {names}"
    if imported.absent:
        yield (
            f"{len(imported.absent)} models and log-probabilities behind them stay in {directory}; their records are "
            "here, and a step that needs one makes it again"
        )
