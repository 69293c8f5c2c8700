"""The SQLite database of the store of answers: opened, written in transactions, put aside where it is damaged.

Every process that uses it holds `users.lock` shared, and who puts it aside holds that lock alone, so that no process
goes on writing into a file that has been put aside. The kernel frees the lock of a process that is killed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

from tasks.answers.salvage import intact_rows
from tasks.answers.tables import TABLES, VERSION, checksum
from tasks.contract import DataError

FILE, USERS = "answers.db", "users.lock"
BUSY_SECONDS = 60.0
"""How long a process waits for another one to finish writing."""
CACHE_KIBIBYTES = 64 * 1024
"""Of pages in memory. Digests are spread over all of the index, so that SQLite's own 2 MB would hold too little."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ADVICE = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_READONLY: "make it writable",
    sqlite3.SQLITE_CANTOPEN: "make its folder writable",
    sqlite3.SQLITE_IOERR: "look whether its disk is full or failing",
    sqlite3.SQLITE_BUSY: f"another process has been writing to it for {BUSY_SECONDS:.0f} s: wait for that one",
}
"""What to do about an error, by SQLite's code."""


class Database:
    """A connection to the database in a folder, for all threads of a process. Its errors are DataErrors."""

    def __init__(self, folder: Path) -> None:
        """Open it; make it where there is none. Raises DataError."""
        self.folder, self.file = folder, folder / FILE
        self._lock = RLock()
        self._users = -1
        self._db: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._users = os.open(folder / USERS, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._users, fcntl.LOCK_SH)
            # SQLite itself makes files that no group can write to.
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666))
        except OSError as e:
            self.close()
            raise DataError(f"the store of answers {folder} cannot be written ({e.strerror}): {_KEPT}") from None
        with self._errors():
            self._db = _connected(self.file)
        self._check_version()

    def _check_version(self) -> None:
        (version,) = self.read("pragma user_version")[0]
        if version > VERSION:
            self.close()
            raise DataError(
                f"the answers in {self.file} were written by a newer alignflow (tables of version {version}; this one "
                f"knows {VERSION}): use that one, or other artifacts"
            )
        if version < VERSION:
            with self.writing() as db:
                for table in TABLES:
                    db.execute(table)
                db.execute(f"pragma user_version = {VERSION}")

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        with self._lock, self._errors():
            return self._open.execute(sql, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, alone among all processes; what it wrote survives a SIGKILL once the block has ended."""
        with self._lock, self._errors():
            db = self._open
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors have undone it already
                    db.execute("rollback")
                raise

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                with suppress(sqlite3.Error):
                    self._db.close()
            if self._users >= 0:
                os.close(self._users)
            self._db, self._users = None, -1

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise DataError(f"the store of answers {self.folder} has been closed")
        return self._db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns SQLite's errors into DataErrors; a damaged database is put aside."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            code = (getattr(e, "sqlite_errorcode", None) or 0) & 0xFF
            if code in _DAMAGED:
                self.close()
                raise DataError(put_aside(self.folder)) from None
            advice = f"{_ADVICE[code]}, and run again" if code in _ADVICE else "run again"
            raise DataError(f"the store of answers {self.file} cannot be used ({e}): {advice}. {_KEPT}") from None


_KEPT = "What was answered before is kept"


def _connected(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, BUSY_SECONDS, check_same_thread=False, isolation_level=None)
    db.text_factory = _text
    db.create_function("is_intact", 4, lambda *row: checksum(*row[:3]) == row[3], deterministic=True)
    _use_wal(db)
    db.execute("pragma synchronous = normal")
    db.execute(f"pragma cache_size = {-CACHE_KIBIBYTES}")
    return db


def _use_wal(db: sqlite3.Connection) -> None:
    """Where others open a new database at the same time, SQLite does not wait for them by itself."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def _text(data: bytes) -> str:
    """Half of a surrogate pair, which a model may write, is text for Python and none for SQLite."""
    return data.decode("utf-8", "surrogatepass")


def integrity_errors(folder: Path) -> list[str]:
    """What SQLite finds wrong with the database in a folder, and how many of its answers are not what was written.

    Raises DataError where it cannot be read for other reasons.
    """
    db = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    db.text_factory = _text
    try:
        found = [text for (text,) in db.execute("pragma integrity_check(5)") if text != "ok"]
        (all_of_them,) = db.execute("select count(*) from answers").fetchone()
        damaged = all_of_them - sum(1 for _ in intact_rows(db))
        return found + ([f"{damaged} of {all_of_them} answers are not what was written"] if damaged else [])
    except sqlite3.DatabaseError as e:
        if (getattr(e, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGED:
            return [str(e)]
        raise DataError(f"the store of answers {folder / FILE} cannot be read: {e}") from None
    finally:
        db.close()


def put_aside(folder: Path) -> str:
    """Move a damaged database into a folder of its own, and take what can be read of it into a new one.

    Returns what happened and what to do, in a sentence. The caller has closed its own connection.
    """
    file = folder / FILE
    users = os.open(folder / USERS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return (
                f"the store of answers {file} is damaged, and other processes use it: end those runs, then "
                "`alignflow verify` puts it aside and takes what can be read of it into a new one"
            )
        if file.exists() and not integrity_errors(folder):
            return f"the store of answers {file} was damaged, and another process has put that one aside: run again"
        aside = folder / f"damaged-{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        aside.mkdir()
        for path in sorted(folder.glob(f"{FILE}*")):
            path.rename(aside / path.name)
        taken = _take_over(aside / FILE, folder / FILE)
    finally:
        os.close(users)
    return (
        f"the store of answers {file} was damaged. It now lies in {aside}, and the {taken} answers that could be read "
        "of it are in a new one: run again, and only the others are asked anew"
    )


def _take_over(damaged: Path, fresh: Path) -> int:
    """Copy what can be read of a damaged database into a new one. Returns how many answers that is."""
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT, 0o666))
    to, source = _connected(fresh), sqlite3.connect(damaged, BUSY_SECONDS)
    source.text_factory = _text
    try:
        to.execute("begin immediate")
        for table in TABLES:
            to.execute(table)
        to.execute(f"pragma user_version = {VERSION}")
        for table in ("payers", "oracles"):
            with suppress(sqlite3.DatabaseError):
                _insert(to, table, source.execute(f"select * from {table}").fetchall())
        (oracles,) = to.execute("select count(*) from oracles").fetchone()
        taken = _insert(to, "answers", intact_rows(source)) if oracles else 0  # without them nobody would find any
        to.execute("commit")
    finally:
        to.close()
        source.close()
    return taken


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[Sequence[Any]]) -> int:
    """Returns how many rows were inserted."""
    return sum(
        db.execute(f"insert or ignore into {table} values ({', '.join('?' * len(row))})", row).rowcount for row in rows
    )
