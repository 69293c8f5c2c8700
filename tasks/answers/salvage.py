"""What can be read of a database of answers, damaged or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tasks.answers.tables import COLUMNS, checksum


def intact_rows(db: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """The answers whose checksum is right: from the first on up to a damaged page, and from the last back to it."""
    last = None
    for row in _until_an_error(db, "asc"):
        last = row[0]
        if _is_intact(row):
            yield row[1:]
    for row in _until_an_error(db, "desc"):
        if last is not None and row[0] <= last:
            return
        if _is_intact(row):
            yield row[1:]


def _until_an_error(db: sqlite3.Connection, order: str) -> Iterator[tuple[Any, ...]]:
    with suppress(sqlite3.DatabaseError):
        yield from db.execute(f"select rowid, {', '.join(COLUMNS)} from answers not indexed order by rowid {order}")


def _is_intact(row: tuple[Any, ...]) -> bool:
    return bool(checksum(row[2], row[3], row[4]) == row[-1])
