"""The answers of oracles, which all steps, runs and processes of a store share.

An answer belongs to an oracle's identity and a question's digest. What the two are made of is for the oracle to say:
whatever may change an answer must be in one of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

from tasks.answers.claims import Holder
from tasks.answers.database import Database
from tasks.answers.tables import checksum
from tasks.contract import JSON

FIND = """
select answers.question, answers.value, raw, tokens_in, tokens_out, seconds, cost, payer, checksum
from json_each(?) as wanted cross join answers on answers.oracle = ? and answers.question = wanted.value
"""
"""`cross join` keeps the order of the loops: for each wanted question a look-up, never all answers."""
ADD = "insert or ignore into answers values (?, ?, ?, cast(? as text), ?, ?, ?, ?, ?, ?, ?)"
PAY = """
insert into payers values (?, ?, ?, ?, ?, ?, ?) on conflict (payer) do update set
asked = asked + excluded.asked, reused = reused + excluded.reused, tokens_in = tokens_in + excluded.tokens_in,
tokens_out = tokens_out + excluded.tokens_out, cost = cost + excluded.cost, seconds = seconds + excluded.seconds
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


class Paid(NamedTuple):
    """What the questions of one step came to, over all its attempts and ranks."""

    asked: int = 0
    reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0


class AnswerStore:
    """The store of answers in a folder. Safe for many processes at once, and for threads. Raises DataError."""

    def __init__(self, folder: Path) -> None:
        """Open the store; make it where there is none."""
        self._holder: Holder | None = None
        self._db = Database(folder)
        self._oracles: dict[str, int] = {}
        self.damaged = 0
        """Answers that were not what was written, and so were not found."""

    def find(self, oracle: str, questions: Sequence[str]) -> dict[str, Answer]:
        """The answers that are stored, by the digest of their question."""
        return {question: answer for question, (answer, _) in self.find_paid(oracle, questions).items()}

    def find_paid(self, oracle: str, questions: Sequence[str]) -> dict[str, tuple[Answer, str]]:
        """The same, each answer with the step that paid for it."""
        id = self._known(oracle)
        found: dict[str, tuple[Answer, str]] = {}
        if id is None:
            return found
        for question, value, raw, *rest, payer, check in self._db.read(FIND, (json.dumps(list(questions)), id)):
            if checksum(question, value, raw) == check:
                found[question] = Answer(json.loads(value), raw, *rest), payer
            else:
                self.damaged += 1
        return found

    def add(
        self, oracle: str, answers: Mapping[str, Answer], about: Mapping[str, JSON] | None = None, payer: str = ""
    ) -> None:
        """Store answers, by the digest of their question. They survive a SIGKILL once this returns.

        A question keeps its first intact answer; its claim is given up. about: what people read of the oracle; kept
        with its first answers. payer: the step that asked.
        """
        with self._db.writing() as db:
            id = self._id(db, oracle, about)
            _insert(db, id, answers, payer)
            if self._holder:
                self._holder.release(db, id, [*answers])
            if payer:
                _pay(db, payer, Paid(len(answers), 0, *_sums(answers)))

    def claim(self, oracle: str, questions: Sequence[str]) -> set[str]:
        """Those of the questions that this process is to ask: none else asks them now, and none has an answer."""
        with self._db.writing() as db:
            if self._holder is None:
                self._holder = Holder(self._db.folder)
            return self._holder.take(db, self._id(db, oracle, None), questions)

    def release(self, oracle: str, questions: Sequence[str]) -> None:
        """Give up claims on questions that got no answer."""
        if questions and self._holder:
            with self._db.writing() as db:
                self._holder.release(db, self._id(db, oracle, None), questions)

    def pay(self, payer: str, paid: Paid) -> None:
        """Add to what a step came to."""
        with self._db.writing() as db:
            _pay(db, payer, paid)

    def paid(self, payer: str) -> Paid:
        """What a step came to so far."""
        rows = self._db.read("select asked, reused, tokens_in, tokens_out, cost, seconds from payers where payer = ?",
                             (payer,))  # fmt: skip
        return Paid(*rows[0]) if rows else Paid()

    def close(self) -> None:
        """Close the database and give up all claims."""
        if hasattr(self, "_db"):
            self._db.close()
        if self._holder:
            self._holder.close()

    def __del__(self) -> None:
        self.close()

    def _known(self, oracle: str) -> int | None:
        if oracle not in self._oracles:
            rows = self._db.read("select id from oracles where identity = ?", (oracle,))
            if not rows:
                return None
            self._oracles[oracle] = int(rows[0][0])
        return self._oracles[oracle]

    def _id(self, db: Connection, oracle: str, about: Mapping[str, JSON] | None) -> int:
        """The number of an oracle, in a transaction that may have to give it one (and may be undone)."""
        known = self._oracles.get(oracle)
        if known is None:
            db.execute("insert or ignore into oracles (identity, about) values (?, '{}')", (oracle,))
            (known,) = db.execute("select id from oracles where identity = ?", (oracle,)).fetchone()
        if about:
            text = json.dumps(about, sort_keys=True)
            db.execute("update oracles set about = ? where id = ? and about = '{}'", (text, known))
        return int(known)


def _insert(db: Connection, oracle: int, answers: Mapping[str, Answer], payer: str) -> None:
    now, before = int(time.time()), db.total_changes
    rows = [_row(oracle, question, answer, payer, now) for question, answer in answers.items()]
    db.executemany(ADD, rows)
    if db.total_changes - before < len(rows):  # some have an answer: it stays, unless it is damaged
        db.executemany(
            "delete from answers where oracle = ? and question = ? and not is_intact(question, value, raw, checksum)",
            [row[:2] for row in rows],
        )
        db.executemany(ADD, rows)


def _row(oracle: int, question: str, answer: Answer, payer: str, now: int) -> tuple[object, ...]:
    value, raw = json.dumps(answer.value), answer.raw.encode("utf-8", "surrogatepass")
    check = checksum(question, value, answer.raw)
    return (oracle, question, value, raw, answer.tokens_in, answer.tokens_out, answer.cost, answer.seconds, payer, now,
            check)  # fmt: skip


def _pay(db: Connection, payer: str, paid: Paid) -> None:
    db.execute(PAY, (payer, *paid))


def _sums(answers: Mapping[str, Answer]) -> tuple[int, int, float, float]:
    several = answers.values()
    return (
        sum(a.tokens_in for a in several), sum(a.tokens_out for a in several), sum(a.cost for a in several),
        sum(a.seconds for a in several),
    )  # fmt: skip
