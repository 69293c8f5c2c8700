"""Upkeep of the store of answers: check it, take what nobody needs, forget old answers on request."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tasks.answers.claims import FOLDER, is_alive
from tasks.answers.database import FILE, USERS, Database, integrity_errors, put_aside


def check_answers(folder: Path) -> str:
    """Read all answers. Where some are damaged, the database is put aside, and what can be read goes into a new one.

    Returns what is wrong and what was done, in a sentence; empty if nothing. Raises DataError where it cannot be read.
    """
    if not (folder / FILE).exists():
        return ""
    found = integrity_errors(folder)
    return f"{put_aside(folder)} ({found[0]})" if found else ""


def unneeded_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """What may be deleted, and why: databases that were put aside, and files of processes that ended while they asked.

    Answers are never among them: they cost time or money, and any later step may ask the same.
    """
    for path in sorted(folder.glob("damaged-*")):
        yield path, "damaged"
    for path in sorted((folder / FOLDER).glob("*")):
        if not is_alive(path):
            yield path, "its process has ended"


def forget_answers(folder: Path, before: float, *, dry: bool = False) -> int:
    """Delete the answers that were made before a time (Unix, seconds). Returns how many; `dry`: would be."""
    if not (folder / FILE).exists():
        return 0
    db = Database(folder)
    try:
        (old,) = db.read("select count(*) from answers where made < ?", (int(before),))[0]
        if old and not dry:
            with db.writing() as transaction:
                transaction.execute("delete from answers where made < ?", (int(before),))
    finally:
        db.close()
    if old and not dry:
        _shrink(folder)
    return int(old)


def _shrink(folder: Path) -> None:
    """Give the space of deleted answers back to the disk, unless a process uses the database now."""
    users = os.open(folder / USERS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(users)
    db = Database(folder)
    db.read("vacuum")
    db.close()
