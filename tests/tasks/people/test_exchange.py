"""Surveys as files: they come back as they went out, and damaged ones are refused with their row."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tasks.contract import DataError, SpecError
from tasks.people.exchange import read_judgements, write_survey
from tasks.people.survey import Survey, Terms
from tests.tasks.people.asked import IDS, PAIRS, judged, prompt, survey_of

HOSTILE = ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        sheet = csv.DictWriter(opened, rows[0].keys())
        sheet.writeheader()
        sheet.writerows(rows)


def _same(survey: Survey) -> set[tuple[str, str, str]]:
    return {(j.question, j.annotator, j.choice) for j in survey.judgements()}


def test_a_sheet_that_is_filled_in_comes_back_as_judgements(tmp_path: Path) -> None:
    survey, file = survey_of(tmp_path / "here"), tmp_path / "pairs.csv"
    survey.judge(judged(IDS[0], "ana", "x"))
    assert write_survey(survey, file) == [file]
    rows = _rows(file)
    assert [row["question"] for row in rows] == ["q" + id for id in IDS]
    assert [(row["annotator"], row["choice"] in ("1", "2")) for row in rows] == [
        ("ana", True),
        ("", False),
        ("", False),
    ]
    assert {rows[2]["answer_1"], rows[2]["answer_2"]} == {"one\ntwo", "three"}
    fine = "1" if rows[1]["answer_1"] == "fine" else "2"
    rows[1] |= {"annotator": "bob", "choice": fine}
    rows[2] |= {"annotator": "bob", "choice": "Tie "}
    _write(file, rows)
    assert read_judgements(survey, file) == 2
    assert _same(survey) == {(IDS[0], "ana", "x"), (IDS[1], "bob", "y"), (IDS[2], "bob", "tie")}  # y is "fine"
    assert read_judgements(survey, file) == 0, "a second time it brings nothing new"
    there = survey_of(tmp_path / "there")
    write_survey(survey, file)
    assert read_judgements(there, file) == 3
    assert _same(there) == _same(survey)


def test_no_cell_is_computed_by_a_spreadsheet(tmp_path: Path) -> None:
    survey, file = Survey(tmp_path, "hostile"), tmp_path / "pairs.csv"
    survey.post("step", [(prompt(text), text, text + "!") for text in HOSTILE], 1, Terms())
    write_survey(survey, file)
    cells = [cell for row in _rows(file) for cell in row.values() if cell]
    assert len(cells) == 4 * len(HOSTILE)
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    assert {row["prompt"] for row in _rows(file)} == {"'" + text for text in HOSTILE}


def test_texts_of_any_length_and_kind_do_not_harm_a_sheet(tmp_path: Path) -> None:
    survey, file = Survey(tmp_path, "long"), tmp_path / "pairs.csv"
    texts = ['"quoted", and; more', "x" * 300_000, "\u202eabc\x1b[31m\x00"]
    survey.post("step", [(prompt("?"), text, "other") for text in texts], 1, Terms())
    write_survey(survey, file)
    rows = _rows_of_any_length(file)
    assert {t for row in rows for t in (row["answer_1"], row["answer_2"])} == {*texts, "other"}
    _write(file, [{**row, "annotator": "ana", "choice": "1"} for row in rows])
    assert read_judgements(survey, file) == 3


def _rows_of_any_length(file: Path) -> list[dict[str, str]]:
    before = csv.field_size_limit(10**9)
    try:
        return _rows(file)
    finally:
        csv.field_size_limit(before)


ROW = {"question": "q" + IDS[0], "annotator": "ana", "choice": "1"}
GOOD = {"question": "q" + IDS[1], "annotator": "ana", "choice": "2"}


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"question": "qffff"}, "pairs.csv, row 3: .* no question 'ffff'; is the file of another survey"),
        ({"choice": "A"}, "row 3: the choice is 'a'; it may be one of"),
        ({"annotator": ""}, "row 3: '' cannot be a person's name"),
        ({"annotator": "=x"}, "row 3: '=x' cannot be"),
        ({"question": "q" + IDS[1]}, "row 3: ana has judged question .* before, and differently"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_of_its_file_is_kept(
    tmp_path: Path, wrong: dict[str, str], match: str
) -> None:
    survey, file = survey_of(tmp_path), tmp_path / "pairs.csv"
    _write(file, [GOOD, {**ROW, **wrong}])
    with pytest.raises(DataError, match=match):
        read_judgements(survey, file)
    assert survey.judgements() == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"question,choice\nq1,1\n", r"lacks the columns \['annotator'\]"),
        (b"", "lacks the columns"),
        (b"question,annotator,choice\nq1\n", "row 2: the row ends before"),
        (b'question,annotator,choice\n"q1,ana,1\n', "is not a CSV file"),
        ("question,annotator,choice\nq1,ä,1\n".encode("latin-1"), "not text in UTF-8"),
    ],
)
def test_a_damaged_sheet_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_judgements(survey_of(tmp_path), file)


def test_a_sheet_of_a_spreadsheet_that_writes_semicolons_is_read(tmp_path: Path) -> None:
    survey, file = survey_of(tmp_path), tmp_path / "pairs.csv"
    file.write_text(f"question;annotator;choice\nq{IDS[0]};ana;skip\n", encoding="utf-8-sig")
    assert read_judgements(survey, file) == 1
    assert _same(survey) == {(IDS[0], "ana", "skip")}


def _export(task: dict[str, Any], label: str | None, by: Any, **more: Any) -> dict[str, Any]:
    """A task as Label Studio exports it, with one annotation."""
    result = [{"from_name": "better", "to_name": "prompt", "type": "choices", "value": {"choices": [label]}}]
    annotation = {"id": 1, "completed_by": by, "was_cancelled": label is None, "lead_time": 4.5,
                  "result": result if label else []}  # fmt: skip
    return {"id": 9, **task, "annotations": [annotation | more], "predictions": []}


def test_label_studio_gets_tasks_with_a_configuration_and_its_export_comes_back(tmp_path: Path) -> None:
    survey, file = survey_of(tmp_path, needed=1), tmp_path / "tasks.json"
    survey.judge(judged(IDS[0], "ana", "x"))
    files = write_survey(survey, file)
    assert files == [file, tmp_path / "tasks.xml"]
    tasks = json.loads(file.read_text())
    assert [task["data"]["question"] for task in tasks] == IDS[1:], "complete ones need nobody"
    config = ElementTree.fromstring(files[1].read_text())
    assert {e.get("value") for e in config.iter("Choice")} == {"answer 1", "answer 2", "tie"}
    assert {e.get("value", "")[1:] for e in config.iter("Text")} <= tasks[0]["data"].keys()
    first = "x" if tasks[0]["data"]["answer_1"] == min(PAIRS[1][1:]) else "y"
    export = [_export(tasks[0], "answer 1", {"id": 3, "email": "bob@example.org"}), _export(tasks[1], None, 7)]
    file.write_text(json.dumps(export))
    assert read_judgements(survey, file) == 2
    assert _same(survey) == {(IDS[0], "ana", "x"), (IDS[1], "bob@example.org", first), (IDS[2], "user 7", "skip")}
    assert survey.judgements()[-1].seconds == 4.5


def test_the_configuration_offers_no_tie_where_the_survey_has_none(tmp_path: Path) -> None:
    files = write_survey(survey_of(tmp_path, ties=False), tmp_path / "tasks.json")
    assert "tie" not in files[1].read_text()


Damage = Callable[[list[dict[str, Any]]], Any]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda tasks: {"tasks": tasks}, "is not a list of tasks"),
        (lambda tasks: [tasks[0], {"data": {}}], "task 2: it is not laid out as an export of Label Studio is"),
        (lambda tasks: [tasks[0], "x"], "task 2: it is not laid out"),
        (lambda tasks: [tasks[0], _export(tasks[1], "B", 1)], "task 2: the choice is 'B'"),
        (lambda tasks: [tasks[0], _export(tasks[1], "tie", 1, result=[])], "task 2: it is not laid out"),
        (lambda tasks: [tasks[0], _export(tasks[1], "tie", None)], "task 2: it is not laid out"),
    ],
)
def test_a_damaged_export_is_refused_with_its_task(tmp_path: Path, damage: Damage, match: str) -> None:
    survey, file = survey_of(tmp_path), tmp_path / "tasks.json"
    tasks = [_export({"data": {"question": id}}, "answer 1", 1) for id in IDS[:2]]
    file.write_text(json.dumps(damage(tasks)))
    with pytest.raises(DataError, match=match):
        read_judgements(survey, file)
    file.write_text("[{")
    with pytest.raises(DataError, match="is not JSON"):
        read_judgements(survey, file)
    assert survey.judgements() == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="must end with one of"):
        write_survey(survey_of(tmp_path), tmp_path / "pairs.xlsx")
