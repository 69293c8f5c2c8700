"""A survey as a CSV file: one row for each judgement, and one without a choice where some are missing.

A spreadsheet would compute a cell that begins with = + - or @, and models write such texts. They get an apostrophe in
front, which spreadsheets take as the sign of a text. Ids begin with a letter, or some would be read as numbers.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.contract import DataError
from tasks.files import atomic_replace
from tasks.people.exchange import Row, choice_in_file, items
from tasks.people.survey import Survey

COLUMNS = ("question", "annotator", "choice", "prompt", "answer_1", "answer_2")
NEEDED = COLUMNS[:3]
COMPUTED = ("=", "+", "-", "@", "\t", "\r")
"""First letters of cells that spreadsheets compute, or skip to find one of the former."""
MARK = "q"


def write_sheet(survey: Survey, file: Path) -> list[Path]:
    """Write all questions with their judgements. The columns `annotator` and `choice` are to be filled in."""
    by_question: dict[str, list[tuple[str, str]]] = {}
    for judgement in survey.judgements():
        by_question.setdefault(judgement.question, []).append((judgement.annotator, choice_in_file(judgement)))
    with atomic_replace(file) as fresh, fresh.open("w", encoding="utf-8-sig", newline="") as output:
        sheet = csv.writer(output)
        sheet.writerow(COLUMNS)
        for item in items(survey.questions()):
            for annotator, choice in [*by_question.get(item.question, []), *[("", "")] * bool(item.missing)]:
                texts = (item.prompt, item.answer_1, item.answer_2)
                sheet.writerow([MARK + item.question, annotator, choice, *map(_as_text, texts)])
    return [file]


def read_sheet(file: Path) -> Iterator[Row]:
    """The judgements of a file; rows without a choice are passed over. Raises DataError with the row."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            head = opened.readline()
            opened.seek(0)
            sheet = csv.DictReader(opened, delimiter=";" if ";" in head and "," not in head else ",", strict=True)
            missing = [name for name in NEEDED if name not in (sheet.fieldnames or ())]
            if missing:
                raise DataError(f"{file}: the first row lacks the columns {missing}; it must name {list(NEEDED)}")
            for number, row in enumerate(sheet, 2):
                if any(row[name] is None for name in NEEDED):
                    raise DataError(f"{file}, row {number}: the row ends before its column '{NEEDED[-1]}'")
                if row["choice"].strip():
                    question = row["question"].strip().removeprefix(MARK)
                    yield Row(f"row {number}", question, row["annotator"].strip(), row["choice"].strip().lower())
    except UnicodeDecodeError:
        raise DataError(f"{file} is not text in UTF-8: save it as `CSV UTF-8`") from None
    except csv.Error as e:
        raise DataError(f"{file} is not a CSV file: {e}") from None
    finally:
        csv.field_size_limit(before)


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(COMPUTED) else cell
