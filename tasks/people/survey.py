"""A survey: pairs of answers that people compare, and their judgements, in an SQLite database.

Runs and pages share it. A question is a prompt with two answers, whatever their order: its id is made of their content,
so the same question has its judgements in every run. The two answers are called x and y, x being the smaller text;
which of them a person sees on the left is drawn for each person and question, and kept with her judgement.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from tasks.contract import DataError, SpecError
from tasks.ids import digest, prompt_id
from tasks.message import Conversation

FOLDER = "people"
"""Below the folder of the store of answers."""
CHOICES = ("x", "y", "tie", "skip")
"""What a person may answer; `skip` is an answer that counts for neither."""
BUSY_SECONDS = 30.0
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ANNOTATOR = re.compile(r"[^\W_][\w .@-]{0,39}")
TABLES = """
create table if not exists settings (one integer primary key check (one = 1), instructions text, ties integer);
create table if not exists requests (id text primary key, began real not null);
create table if not exists questions (
    id text primary key, prompt text not null, x text not null, y text not null, needed integer not null,
    request integer not null
);
create table if not exists judgements (
    question text not null, annotator text not null, choice text not null, on_left text not null, seconds real not null,
    at real not null, primary key (question, annotator)
);
"""
QUESTIONS = """
select q.id, q.prompt, q.x, q.y, q.needed, count(j.question), q.request, coalesce(max(j.annotator = ?), 0)
from questions q left join judgements j on j.question = q.id group by q.id order by q.rowid
"""


class SurveyQuestion(NamedTuple):
    """A prompt with two answers that people compare."""

    id: str
    prompt: Conversation
    x: str
    y: str
    needed: int
    """Judgements that it needs, each by another person."""
    judged: int = 0
    """Judgements that it has."""
    request: int = 0
    """Number of the step that asked it last; a later one has a greater number."""
    own: bool = False
    """Whether the person for whom the questions were read has judged it."""

    @property
    def complete(self) -> bool:
        return self.judged >= self.needed


class Judgement(NamedTuple):
    """What one person answered to one question."""

    question: str
    annotator: str
    choice: str
    """One of CHOICES."""
    on_left: str
    """Which answer she saw on the left, x or y; empty: not known, as of a file that was read."""
    seconds: float
    """How long she looked at it."""
    at: float
    """When, in seconds since 1970."""


class Terms(NamedTuple):
    """How the questions are put."""

    instructions: str = ""
    ties: bool = True
    """Whether `tie` may be answered."""


class SurveyProgress(NamedTuple):
    """How far a survey is, for one person."""

    questions: int
    complete: int
    own: int
    """Questions that this person has judged."""
    left: int
    """Questions that she may still judge."""


class Survey:
    """The survey of a name in a folder of answers. Safe for several processes, and for threads.

    A judgement is on the disk once `judge` returns: it survives a kill and a power failure.
    """

    def __init__(self, answers: Path, name: str) -> None:
        check_name(name)
        self.name = name
        file = survey_file(answers, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()
        try:
            self._db = sqlite3.connect(file, BUSY_SECONDS, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.executescript(TABLES)
        except sqlite3.DatabaseError as e:
            raise DataError(f"{file} is not a survey ({e}): move it away, and the next run asks again") from None

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def post(
        self, request: str, pairs: Iterable[tuple[Conversation, str, str]], needed: int, terms: Terms
    ) -> list[str]:
        """Ask about pairs (prompt, text, text) on behalf of a step; returns the ids of their questions, in order."""
        ids, rows = [], {}
        for prompt, a, b in pairs:
            x, y = sorted((a, b))
            ids.append(question_id(prompt, x, y))
            rows[ids[-1]] = (ids[-1], json.dumps(_plain(prompt), ensure_ascii=False), x, y, needed)
        with self._lock, _transaction(self._db):
            self._db.execute("insert or replace into settings values (1, ?, ?)", (terms.instructions, terms.ties))
            self._db.execute("insert or ignore into requests values (?, ?)", (request, time.time()))
            [number] = self._db.execute("select rowid from requests where id = ?", (request,)).fetchone()
            self._db.executemany(
                "insert into questions values (?, ?, ?, ?, ?, ?) on conflict (id) do update set "
                "needed = max(needed, excluded.needed), request = max(request, excluded.request)",
                [(*row, number) for row in rows.values()],
            )
        return ids

    def began(self, request: str) -> float:
        """When a step first asked, in seconds since 1970."""
        return float(self._rows("select began from requests where id = ?", request)[0][0])

    @property
    def terms(self) -> Terms:
        rows = self._rows("select instructions, ties from settings")
        return Terms(rows[0][0], bool(rows[0][1])) if rows else Terms()

    def questions(self, annotator: str = "") -> list[SurveyQuestion]:
        """All questions, in the order in which they were first asked."""
        rows = self._rows(QUESTIONS, annotator)
        return [
            SurveyQuestion(id, json.loads(prompt), x, y, needed, judged, request, bool(own))
            for id, prompt, x, y, needed, judged, request, own in rows
        ]

    def question(self, id: str) -> SurveyQuestion:
        """Raises DataError if there is none of this id."""
        found = next((q for q in self.questions() if q.id == id), None)
        if found is None:
            raise DataError(f"the survey {self.name} has no question {id}")
        return found

    def judgements(self) -> list[Judgement]:
        """All judgements, in the order in which they were made."""
        columns = ", ".join(Judgement._fields)
        return [Judgement(*row) for row in self._rows(f"select {columns} from judgements order by at, rowid")]

    def judge(self, judgement: Judgement) -> None:
        """Keep what a person answered. The same answer a second time changes nothing.

        Raises DataError for an unknown question, a choice that is not offered, a name that is none, or where she has
        answered something else before.
        """
        self.judge_all([judgement])

    def judge_all(self, judgements: Sequence[Judgement]) -> int:
        """Keep several judgements, or none of them; returns how many are new. Raises as `judge` does."""
        known, new = {row[0] for row in self._rows("select id from questions")}, 0
        offered = [c for c in CHOICES if c != "tie" or self.terms.ties]
        with self._lock, _transaction(self._db):
            for j in judgements:
                check_annotator(j.annotator)
                if j.question not in known:
                    raise DataError(f"the survey {self.name} has no question {j.question}")
                if j.choice not in offered:
                    raise DataError(f"'{j.choice}' is not offered as an answer; choose one of {offered}")
                row = self._db.execute(
                    "select choice from judgements where question = ? and annotator = ?", (j.question, j.annotator)
                ).fetchone()
                if row and row[0] != j.choice:
                    raise DataError(f"{j.annotator} has answered question {j.question} before, and differently: undo "
                                    "that first")  # fmt: skip
                if not row:
                    self._db.execute("insert into judgements values (?, ?, ?, ?, ?, ?)", j)
                    new += 1
        return new

    def undo(self, annotator: str) -> str | None:
        """Take back a person's last judgement; returns its question, None where she has made none."""
        with self._lock, _transaction(self._db):
            row = self._db.execute(
                "select rowid, question from judgements where annotator = ? order by at desc, rowid desc limit 1",
                (annotator,),
            ).fetchone()
            if row:
                self._db.execute("delete from judgements where rowid = ?", (row[0],))
        return str(row[1]) if row else None

    def progress(self, annotator: str = "") -> SurveyProgress:
        """How far the survey is, also for one person."""
        several = self.questions(annotator)
        left = sum(not q.complete and not q.own for q in several)
        return SurveyProgress(len(several), sum(q.complete for q in several), sum(q.own for q in several), left)

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values[: query.count("?")]).fetchall()


class _transaction:
    """All writes of the block, or none of them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, error: object, *_: object) -> None:
        self._db.execute("commit" if error is None else "rollback")


def next_question(survey: Survey, annotator: str, looked_at: Mapping[str, int] | None = None) -> SurveyQuestion | None:
    """The question that a person judges next: of the latest step, then the least judged, then in an order of her own.

    looked_at: how many others look at a question now; one that they will complete comes last.
    """
    others = looked_at or {}
    open_ones = [q for q in survey.questions(annotator) if not q.complete and not q.own]

    def place(q: SurveyQuestion) -> tuple[bool, int, int, str]:
        judged = q.judged + others.get(q.id, 0)
        return judged >= q.needed, -q.request, judged, digest("order", q.id, annotator)

    return min(open_ones, key=place, default=None)


def on_left(question: str, annotator: str) -> str:
    """Which answer a person sees on the left, x or y: drawn from the content, so the same each time."""
    return "xy"[int(digest("side", question, annotator)[0], 16) % 2]


def question_id(prompt: Conversation, a: str, b: str) -> str:
    """The id of the question which of two answers is better, in either order."""
    return digest("pair", prompt_id(_plain(prompt)), *sorted((a, b)))


def survey_file(answers: Path, name: str) -> Path:
    return answers / FOLDER / f"{name}.db"


def surveys(answers: Path) -> list[str]:
    """The names of all surveys in a folder of answers."""
    return sorted(file.stem for file in (answers / FOLDER).glob("*.db"))


def check_name(name: str) -> None:
    """Raise SpecError unless a survey may have this name."""
    if not _NAME.fullmatch(name):
        raise SpecError(f"'{name}' cannot name a survey: use small letters, digits, - and _, at most 63 of them")


def check_annotator(name: str) -> None:
    """Raise DataError unless a person may have this name."""
    if not _ANNOTATOR.fullmatch(name):
        raise DataError(f"'{name}' cannot be a person's name here: begin with a letter or digit, then letters, digits, "
                        "spaces, . @ _ -, at most 40 of them")  # fmt: skip


def _plain(prompt: Conversation) -> list[dict[str, str]]:
    """A prompt without the keys that have no value."""
    return [{key: value for key, value in message.items() if value} | {"content": message["content"]}
            for message in prompt]  # fmt: skip
