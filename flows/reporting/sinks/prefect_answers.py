"""Answers before and after as Markdown for Prefect's page of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from textwrap import wrap

from flows.reporting.answers import ShownAnswer, compared_answers
from flows.reporting.results import NOTHING, headlines
from flows.store.finished import FinishedStep
from flows.store.store import Store
from tasks.message import conversation_text

ANSWERS = 6
"""Prompts whose answers are shown."""
CELL = 400
"""Letters of a prompt or an answer."""
WIDTH = 32
"""Letters of a line of it: Prefect's tables do not wrap lines, and three such columns fit beside each other."""


def answers_section(store: Store, steps: Sequence[FinishedStep]) -> list[str]:
    """Answers of the baseline and of the policy side by side, for the first prompts of the last evaluation, as lines;
    none where it has no answers. Text of models is escaped."""
    reports = headlines(steps)
    compared = compared_answers(store, reports[-1].record) if reports else None
    if compared is None or not compared.pairs:
        return []
    shown = compared.pairs[:ANSWERS]
    rows = [
        f"| {_escaped(conversation_text(pair.prompt))} | {_answer(pair.before)} | {_answer(pair.after)} | "
        f"{NOTHING if pair.p is None else f'{pair.p:.2f}'} |"
        for pair in shown
    ]
    by = f" by {compared.oracle}" if compared.oracle else ""
    head = (
        f"The first {len(shown)} of {len(compared.pairs)} prompts of `{reports[-1].title}`. P: that the answer after "
    )
    lines = [f"{head}wins{by}.", "", "| prompt | before | after | P |", "|---|---|---|---|", *rows]
    return ["### Answers before and after", "", *lines]


def _answer(answer: ShownAnswer) -> str:
    cut = "" if answer.finished else " *(cut)*"
    score = "" if answer.score is None else f"<br>score {answer.score:.2f}"
    return f"{_escaped(answer.text)}{cut}{score}"


def _escaped(text: str) -> str:
    """Text of a model or of a prompt as plain text in a cell of Markdown."""
    short = text if len(text) <= CELL else f"{text[:CELL]}…"
    return "<br>".join(
        re.sub(r"([\\`*_{}\[\]()#+!~|-])", r"\\\1", escape(part, quote=False))
        for line in short.splitlines() for part in wrap(line, WIDTH)
    )  # fmt: skip
