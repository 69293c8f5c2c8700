"""SQLite files of Prefect and MLflow: check one, move a damaged one away."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path


def sqlite_damage(database: Path) -> str:
    """SQLite's error message about a damaged database; empty for one that is whole, in use, or missing."""
    if not database.exists():
        return ""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:  # locked, or in a folder that cannot be written
        return ""
    except sqlite3.DatabaseError as e:
        return str(e)
    return "" if found == "ok" else " ".join(str(found).split())


def set_aside_database(database: Path, folder: Path) -> Path:
    """Move a database with its write-ahead log into a new folder below `folder`; returns that."""
    to = folder / f"{database.name}-{datetime.now(UTC):%Y%m%d%H%M%S%f}"
    to.mkdir(parents=True)
    for suffix in ("", "-wal", "-shm"):
        file = database.with_name(database.name + suffix)
        if file.exists():
            file.rename(to / file.name)
    return to
