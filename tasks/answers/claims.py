"""Which process asks which question now, so that two that need the same answer at the same time pay for it once.

A claim names its holder, and a holder is alive while it holds the lock of its file in `claims/`. The kernel frees the
lock of a process that is killed, so its claims count no more from that moment on.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from sqlite3 import Connection
from uuid import uuid4

FOLDER = "claims"

TAKE = """
insert or ignore into claims select ?1, wanted.value, ?2 from json_each(?3) as wanted
where not exists (
    select 1 from answers where oracle = ?1 and question = wanted.value and is_intact(question, value, raw, checksum)
)
"""
OTHERS = """
select distinct holder from json_each(?) as wanted
cross join claims on claims.oracle = ? and claims.question = wanted.value where holder != ?
"""
"""Holders of claims on some questions, besides oneself."""
MINE = """
select question from json_each(?) as wanted
cross join claims on claims.oracle = ? and claims.question = wanted.value where holder = ?
"""


class Holder:
    """Who claims questions: a session of one process, until it is closed or the process ends."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of the store of answers."""
        self.name = uuid4().hex
        self._folder = folder / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._file = self._folder / self.name
        self._lock = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def take(self, db: Connection, oracle: int, questions: Iterable[str]) -> set[str]:
        """Claim the questions that have no answer and that no living holder has claimed. Returns those."""
        wanted = json.dumps(list(questions))
        for (other,) in db.execute(OTHERS, (wanted, oracle, self.name)).fetchall():
            if not is_alive(self._folder / other):
                db.execute("delete from claims where holder = ?", (other,))
        db.execute(TAKE, (oracle, self.name, wanted))
        return {question for (question,) in db.execute(MINE, (wanted, oracle, self.name))}

    def release(self, db: Connection, oracle: int, questions: Sequence[str]) -> None:
        """Give up claims on questions, answered or not."""
        rows = [(oracle, question, self.name) for question in questions]
        db.executemany("delete from claims where oracle = ? and question = ? and holder = ?", rows)

    def close(self) -> None:
        if self._lock >= 0:
            self._file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1


def is_alive(file: Path) -> bool:
    """Whether a holder still has the lock of its file."""
    try:
        lock = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
