"""Runs in trackio: a local directory (TRACKIO_DIR) that `trackio show` serves and `trackio sync` puts on a Space.

trackio's own importers write through `SQLiteStorage.bulk_log`, and so does this: `trackio.init` prints to the terminal,
starts threads, and takes one run at a time. trackio has a run's numbers and configuration, but no figures of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flows.reporting.sinks.whole_runs import PROJECT, WholeRun, WholeRunServer, iso
from tasks.contract import DataError


def trackio_directory() -> Path:
    """Where trackio has its projects."""
    if named := os.environ.get("TRACKIO_DIR"):
        return Path(named)
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "trackio"


class TrackioServer(WholeRunServer):
    """The project `alignflow` of trackio's directory. A run that is written again replaces the former one."""

    def __init__(self) -> None:
        """Raises DataError where trackio is not installed."""
        super().__init__()
        try:
            from trackio.sqlite_storage import SQLiteStorage
        except ImportError as e:
            raise DataError(f"it needs the package trackio ({e}): pip install 'alignflow[trackio]'") from None
        self._storage: Any = SQLiteStorage

    def answers(self) -> bool:
        return True

    def write(self, run: WholeRun) -> str:
        steps, rows = zip(*(run.by_step() or [(0, {})]), strict=True)
        name = f"{run.title} of {run.parent}" if run.parent else run.title
        config = {**run.config, "about": run.about, "_Group": run.parent or run.name, "_Created": iso(run.started)}
        self._storage.delete_run(PROJECT, name, run_id=run.id)
        self._storage.bulk_log(
            PROJECT, name, [*rows], steps=[*steps], config=config, run_id=run.id,
            timestamps=[iso(run.ended)] * len(rows), log_ids=[f"{run.id}-{step}" for step in steps],
        )  # fmt: skip
        return f"{PROJECT}/{run.id}"
