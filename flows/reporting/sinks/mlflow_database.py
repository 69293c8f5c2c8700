"""MLflow's SQLite file of a store: migrated under another name, and set aside where it is damaged.

MLflow migrates a new file in place for some seconds; one that is killed in between can never be opened again. So the
migration happens beside the file's place, and a rename makes it visible. `python -m
flows.reporting.sinks.mlflow_database` (part of `make setup`) migrates an empty database once for the environment; new
stores begin with a copy of it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from flows.system.databases import set_aside_database, sqlite_damage
from flows.system.locks import locked
from flows.system.modes import umask_of
from tasks.files import remove, temporary


def database_of(artifacts: Path) -> Path:
    """The file that runs are tracked in where MLFLOW_TRACKING_URI says nothing."""
    return artifacts.absolute() / "mlflow.db"


def make_ready(artifacts: Path) -> str:
    """Migrate a new database unless the store has one that can be opened. Returns a message about a damaged one.

    Other processes over the store wait here meanwhile. Where MLFLOW_TRACKING_URI names a place, nothing is done.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return ""
    database = database_of(artifacts)
    with locked(artifacts.absolute() / "locks" / "mlflow.lock"):
        damage = sqlite_damage(database) or _unfinished(database)
        aside = set_aside_database(database, artifacts.absolute() / "damaged") if damage else None
        if not database.exists():
            _migrate(database)
    return f"MLflow's database was damaged ({damage}): it is in {aside}, and MLflow's pages begin anew" if aside else ""


def _unfinished(database: Path) -> str:
    """A message if its first migration was killed: the last thing that MLflow makes is its first experiment."""
    if not database.exists():
        return ""
    with closing(sqlite3.connect(database)) as connection:
        try:
            (experiments,) = connection.execute("select count(*) from experiments").fetchone()
        except sqlite3.OperationalError as e:
            experiments = 0 if "no such table" in str(e) else 1
    return "" if experiments else "its first migration was cut off"


def quiet() -> None:
    """Set MLflow up before it is imported: no telemetry, few retries, no messages about migrations."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def empty_database() -> Path:
    """The file with the empty, migrated database of this environment's MLflow, if `make setup` has made it."""
    from importlib.metadata import version

    return Path(sys.prefix) / "share" / "alignflow" / f"mlflow-{version('mlflow')}.db"


def _migrate(database: Path) -> None:
    fresh = temporary(database)
    try:
        _create(fresh, (database.parent / "mlruns").as_uri())
        fresh.chmod(0o666 & ~umask_of(database.parent))  # SQLite's own files are never writable for a group
        fresh.rename(database)
    finally:
        remove(fresh)


def _create(database: Path, folder: str) -> None:
    """An empty database whose experiments keep their files below `folder`, a URI."""
    if empty_database().exists():
        shutil.copyfile(empty_database(), database)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("update experiments set artifact_location = ? || '/' || experiment_id", (folder,))
        return
    quiet()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{database}", folder).engine.dispose()


if __name__ == "__main__":
    empty_database().parent.mkdir(parents=True, exist_ok=True)
    if not empty_database().exists():
        _migrate(empty_database())
