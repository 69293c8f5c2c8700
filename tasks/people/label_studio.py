"""A survey as tasks for Label Studio, with its labelling configuration, and an export of it as judgements.

The layout is that of its guide (labelstud.io/guide/task_format): a list of tasks, each with `data` and, in an
export, `annotations` with `result`, `was_cancelled` (skipped), `lead_time` in seconds and `completed_by`, which is a
number or an account with its e-mail address.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.contract import DataError
from tasks.files import atomic_replace
from tasks.people.exchange import Row, items
from tasks.people.survey import Survey

CONFIG = """<View>
  <Header value="Prompt"/>
  <Text name="prompt" value="$prompt"/>
  <Header value="Answer 1"/>
  <Text name="answer_1" value="$answer_1"/>
  <Header value="Answer 2"/>
  <Text name="answer_2" value="$answer_2"/>
  <Choices name="better" toName="prompt" choice="single" showInline="true" required="true">
    <Choice value="answer 1" hotkey="1"/>
    <Choice value="answer 2" hotkey="2"/>{tie}
  </Choices>
</View>
"""
TIE = '\n    <Choice value="tie" hotkey="3"/>'
NAME = "better"
"""Of the control whose result is read."""
CHOICES = {"answer 1": "1", "answer 2": "2", "tie": "tie", "skip": "skip"}


def write_tasks(survey: Survey, file: Path) -> list[Path]:
    """Write the pairs that still need judgements as tasks to import, and FILE.xml, the labelling configuration."""
    tasks = [
        {"data": {"question": i.question, "prompt": i.prompt, "answer_1": i.answer_1, "answer_2": i.answer_2}}
        for i in items(survey.questions()) if i.missing
    ]  # fmt: skip
    config = file.with_suffix(".xml")
    texts = {file: json.dumps(tasks, ensure_ascii=False, indent=1), config: CONFIG.format(tie=TIE * survey.terms.ties)}
    for path, text in texts.items():
        with atomic_replace(path) as fresh:
            fresh.write_text(text, encoding="utf-8")
    return [*texts]


def read_export(file: Path) -> Iterator[Row]:
    """The judgements of an export. Raises DataError with the number of the task, counted from 1."""
    try:
        tasks = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as e:
        raise DataError(f"{file} is not JSON ({e}): export it from Label Studio as JSON") from None
    if not isinstance(tasks, list):
        raise DataError(f"{file} is not a list of tasks: export it from Label Studio as JSON")
    for number, task in enumerate(tasks, 1):
        where = f"task {number}"
        try:
            question = task["data"]["question"]
            annotations = task.get("annotations", [])
            rows = [_row(where, question, annotation) for annotation in annotations]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            raise DataError(f"{file}, {where}: it is not laid out as an export of Label Studio is "
                            f"({type(e).__name__}: {e})") from None  # fmt: skip
        yield from rows


def _row(where: str, question: object, annotation: Mapping[str, Any]) -> Row:
    if annotation.get("was_cancelled"):
        choice = "skip"
    else:
        [result] = [r for r in annotation["result"] if r["from_name"] == NAME]
        [label] = result["value"]["choices"]
        choice = CHOICES.get(str(label), str(label))
    seconds = annotation.get("lead_time")
    return Row(where, str(question), _annotator(annotation), choice, float(seconds or 0))


def _annotator(annotation: Mapping[str, Any]) -> str:
    by = annotation["completed_by"]
    if isinstance(by, Mapping):
        return str(by.get("email") or f"user {by['id']}")
    return by if isinstance(by, str) else f"user {int(by)}"
