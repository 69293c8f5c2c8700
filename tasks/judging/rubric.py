"""Rubrics: what a judge is shown of an answer, and the score that its judgement states.

A rubric is a template in Jinja's language, in a sandbox that escapes nothing and executes nothing. What is judged goes
in as values, so nothing in it is read as a template, and only the judgement is searched for a score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tasks.contract import SpecError
from tasks.judging.templates import SandboxTemplate
from tasks.message import Message, conversation_text

ADDITIVE = """\
Judge how well an AI assistant answered a user. Points add up, from 0 to 5; each point needs those before it:
1. The answer is about what the user asked, even if much is missing or beside the point.
2. It covers a good part of the question, without settling it.
3. It is of use as it is: what the user asked for is there, whatever its style.
4. It is written from an assistant's view, complete, well ordered and clear, with little left to improve.
5. It fits this user and question as an expert's answer would: to the point, insightful, easy to follow.

User: {{ prompt }}
Answer of the assistant: {{ answer }}

State in at most a hundred words how the answer earned its points. Then end with one line:
Score: <total points>"""
"""The additive rubric of self-rewarding language models (Yuan et al., arXiv 2401.10020, figure 2), in our own words."""

_AROUND = " \t\r*_`.#>"
"""What may stand around a score that is alone on the last line."""


@dataclass(frozen=True)
class Rubric:
    """A template with the values prompt and answer, which asks for a whole number behind the text `lead`."""

    template: str = ADDITIVE
    lead: str = "Score: "
    """What a judgement writes before its score; empty: a judgement is a score and nothing else."""
    lowest: int = 0
    highest: int = 5

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise SpecError(
                f"lowest = {self.lowest} must be below highest = {self.highest}: they bound a judgement's score"
            )
        self._compiled.require("prompt", "answer")

    @property
    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def scores(self) -> range:
        """All scores that a judgement may state."""
        return range(self.lowest, self.highest + 1)

    def judgement(self, score: int) -> str:
        """The text of a judgement that states a score and nothing else."""
        return f"{self.lead}{score}"

    def question(self, prompt: Sequence[Message], answer: str, special: Sequence[str] = ()) -> list[Message]:
        """The message to which a judge answers. special: texts that a tokenizer takes for turns, which are broken."""
        text = self._compiled.text(
            prompt=_without(special, conversation_text(prompt)), answer=_without(special, answer)
        )
        return [{"role": "user", "content": text}]

    def score_in(self, judgement: str) -> float | None:
        """The score that a judgement states; None where it states none, several, or one out of bounds.

        A score alone on the last line counts, whatever the text before it quotes; else all must be the same.
        """
        lines = judgement.strip().splitlines()
        if not lines:
            return None
        alone = self._pattern.fullmatch(lines[-1].strip(_AROUND))
        found = {alone[1]} if alone else set(self._pattern.findall(judgement)) if self.lead.strip() else set()
        if len(found) != 1:
            return None
        score = float(found.pop())
        return score if self.lowest <= score <= self.highest else None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        lead = r"\s*".join(map(re.escape, self.lead.split()))
        return re.compile(rf"{lead}\s*(-?\d+(?:\.\d+)?)(?:\s*/\s*{self.highest})?(?!\s*/|\.?\d)", re.IGNORECASE)

    @cached_property
    def _compiled(self) -> SandboxTemplate:
        return SandboxTemplate(self.template, "the rubric")


def _without(special: Sequence[str], text: str) -> str:
    """The text, in which nothing is one of the special tokens: a space follows their first character."""
    for token in special:
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text
