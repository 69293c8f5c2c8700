"""The answers of oracles in an SQLite database, which all steps, runs and processes of a store share.

An answer belongs to an oracle's identity and a question's digest. What the two are made of is for the oracle to say:
whatever may change an answer must be in one of them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from tasks.contract import JSON

FILE = "answers.db"
BUSY_SECONDS = 60.0
"""How long a process waits for another one to finish writing."""
VERSION = 1
"""Of the tables."""

TABLES = """
create table if not exists oracles (id integer primary key, identity text not null unique, about text not null);
create table if not exists answers (
    oracle integer not null, question text not null, value text not null, raw text not null,
    tokens_in integer not null, tokens_out integer not null, cost real not null, seconds real not null,
    primary key (oracle, question)
);
"""
FIND = """
select answers.question, answers.value, raw, tokens_in, tokens_out, seconds, cost from json_each(?) as wanted
join answers on answers.oracle = ? and answers.question = wanted.value
"""


class Answer(NamedTuple):
    """What an oracle answered to one question, and what that cost."""

    value: JSON
    """A number, a list of numbers, None: it gave no answer. Of a server `raw` counts, and is parsed at each look-up."""
    raw: str = ""
    """What was answered, verbatim."""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cost: float = 0.0
    """In the currency of the oracle's prices."""


class AnswerStore:
    """The store of answers in a folder. Safe for many processes at once, and for threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()
        self._db = sqlite3.connect(folder / FILE, BUSY_SECONDS, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.executescript(TABLES)
        self._ids: dict[str, int] = {}

    def find(self, oracle: str, questions: Sequence[str]) -> dict[str, Answer]:
        """The answers that are stored, by the digest of their question."""
        with self._lock:
            rows = self._db.execute(FIND, (json.dumps(list(questions)), self._id(oracle)))
            return {question: Answer(json.loads(value), *rest) for question, value, *rest in rows}

    def add(self, oracle: str, answers: Mapping[str, Answer], about: Mapping[str, JSON] | None = None) -> None:
        """Store answers, by the digest of their question. They survive a SIGKILL once this returns.

        about: what people read of the oracle; kept with its first answers.
        """
        with self._lock:
            id = self._id(oracle, about or {})
            rows = [(id, q, json.dumps(a.value), a.raw, a.tokens_in, a.tokens_out, a.cost, a.seconds)
                    for q, a in answers.items()]  # fmt: skip
            self._db.execute("begin immediate")
            self._db.executemany("insert or ignore into answers values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("commit")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _id(self, oracle: str, about: Mapping[str, JSON] | None = None) -> int:
        if oracle not in self._ids:
            if about is not None:
                row = (oracle, json.dumps(about, sort_keys=True))
                self._db.execute("insert or ignore into oracles (identity, about) values (?, ?)", row)
            known = self._db.execute("select id from oracles where identity = ?", (oracle,)).fetchone()
            if known is None:
                return -1
            self._ids[oracle] = int(known[0])
        return self._ids[oracle]
