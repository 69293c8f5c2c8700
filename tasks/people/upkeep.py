"""Upkeep of surveys: their files are read whole. A damaged one stays where it is, since judgements cost people time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tasks.people.survey import survey_file, surveys


def check_surveys(answers: Path) -> Iterator[str]:
    """What is wrong with the surveys in a folder of answers, a sentence for each that is damaged."""
    for name in surveys(answers):
        file = survey_file(answers, name)
        if trouble := _trouble(file):
            yield (f"{file} is damaged ({trouble}): `sqlite3 {file.name} .recover` may save its judgements; once it is "
                   "moved away, runs ask its questions anew")  # fmt: skip


def _trouble(file: Path) -> str:
    """The first thing that is wrong; empty if nothing is."""
    try:
        db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            [(found,), *_] = db.execute("pragma integrity_check").fetchall()
            db.execute("select count(*) from questions, judgements").fetchall()
        finally:
            db.close()
    except sqlite3.DatabaseError as e:
        return str(e)
    return "" if found == "ok" else str(found)
