"""Surveys as files: the pairs go out to another tool, and the judgements come back.

In a file the answers of a question are 1 and 2; which of the two texts is 1 is drawn from the content, so that nothing
can be learnt from the order, and the same each time. Reading keeps all judgements of a file, or none of them; those
that are known already change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tasks.contract import DataError, SpecError
from tasks.message import conversation_text
from tasks.people.survey import Judgement, Survey, SurveyQuestion, check_annotator, on_left

ANSWERS = ("1", "2", "tie", "skip")
"""What may be chosen in a file."""


class Row(NamedTuple):
    """A judgement in a file."""

    where: str
    """`row 7`, as a person finds it."""
    question: str
    annotator: str
    choice: str
    """One of ANSWERS."""
    seconds: float = 0.0


class Item(NamedTuple):
    """A question as files have it."""

    question: str
    prompt: str
    answer_1: str
    answer_2: str
    missing: int
    """Judgements that it still needs."""


def items(questions: Sequence[SurveyQuestion]) -> Iterator[Item]:
    for q in questions:
        first, second = (q.x, q.y) if _first(q.id) == "x" else (q.y, q.x)
        yield Item(q.id, conversation_text(q.prompt), first, second, max(0, q.needed - q.judged))


def choice_in_file(judgement: Judgement) -> str:
    """1, 2, tie or skip."""
    if judgement.choice not in ("x", "y"):
        return judgement.choice
    return "1" if judgement.choice == _first(judgement.question) else "2"


def write_survey(survey: Survey, file: Path) -> list[Path]:
    """Write a survey as `.csv`, or as `.json` for Label Studio, and return the files. Raises SpecError for others."""
    return _format(file).write(survey, file)


def read_judgements(survey: Survey, file: Path) -> int:
    """Keep the judgements of such a file; returns how many are new.

    Raises DataError, which names the file and the row, and keeps none, if one of them cannot be read.
    """
    rows = list(_format(file).read(file))
    judgements = []
    known = {q.id for q in survey.questions()}
    for row in rows:
        try:
            judgements.append(_judgement(row, known, survey.name))
        except DataError as e:
            raise DataError(f"{file}, {row.where}: {e}") from None
    _refuse_contradictions(file, rows, judgements, survey.judgements())
    try:
        return survey.judge_all(judgements)
    except DataError as e:
        raise DataError(f"{file}: {e}") from None


def _judgement(row: Row, known: set[str], survey: str) -> Judgement:
    if row.question not in known:
        raise DataError(f"the survey {survey} has no question '{row.question[:40]}'; is the file of another survey?")
    if row.choice not in ANSWERS:
        raise DataError(f"the choice is '{row.choice[:40]}'; it may be one of {list(ANSWERS)}")
    check_annotator(row.annotator)
    first = _first(row.question)
    choice = {"1": first, "2": "y" if first == "x" else "x"}.get(row.choice, row.choice)
    return Judgement(row.question, row.annotator, choice, "", row.seconds, time.time())


def _refuse_contradictions(
    file: Path, rows: Sequence[Row], judgements: Sequence[Judgement], stored: Sequence[Judgement]
) -> None:
    before = {(j.question, j.annotator): j.choice for j in stored}
    for row, j in zip(rows, judgements, strict=True):
        if before.setdefault((j.question, j.annotator), j.choice) != j.choice:
            raise DataError(
                f"{file}, {row.where}: {j.annotator} has judged question {j.question} before, and differently; remove "
                "the row, or let her undo it on the page"
            )


def _first(question: str) -> str:
    return on_left(question, "")


class _Format(NamedTuple):
    write: Callable[[Survey, Path], list[Path]]
    read: Callable[[Path], Iterator[Row]]


def _format(file: Path) -> _Format:
    from tasks.people import label_studio, spreadsheet

    formats = {
        ".csv": _Format(spreadsheet.write_sheet, spreadsheet.read_sheet),
        ".json": _Format(label_studio.write_tasks, label_studio.read_export),
    }
    if file.suffix not in formats:
        raise SpecError(f"'{file}' must end with one of {list(formats)}: .json is for Label Studio")
    return formats[file.suffix]
