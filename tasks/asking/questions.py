"""Rows of a table as questions to a server, and its replies as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.asking.asker import Asker
from tasks.asking.prompts import PromptTemplate
from tasks.asking.reply import Reply
from tasks.asking.requests import ChatOptions
from tasks.asking.unparsed import Unparsed
from tasks.asking.verdicts import agreed
from tasks.judging.session import Session
from tasks.judging.turns import reference_answer
from tasks.message import conversation_text

Read = Callable[[Reply], float | None]
"""What a reply means; None: nothing can be read."""


@dataclass(frozen=True)
class Questionnaire:
    """How texts become a number: a template, a server, a reading of its reply."""

    asker: Asker
    options: ChatOptions
    template: PromptTemplate
    read: Read
    unparsed: Unparsed
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What templates are given besides the texts that are judged."""

    def numbers(self, texts: Sequence[dict[str, str]], session: Session) -> list[float | None]:
        """The mean over the samples that can be read, for each row of texts; None where none can."""
        several = [self.options.requests(self.template.messages(t, **self.values)) for t in texts]
        requests = [request for samples in several for request in samples]
        replies = self.asker.replies(requests, session)
        read = [self.read(reply) for reply in replies]
        self.unparsed.check(requests, replies, read, session)
        k = self.options.samples
        return [_mean(read[i : i + k]) for i in range(0, len(read), k)]

    def compare(
        self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], truths: Sequence[str | None], session: Session
    ) -> list[float | None]:
        """P(a is better), row by row, with a shown first."""
        return self.numbers(_pairs(prompts, a, b), session)

    def compare_agreeing(
        self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], truths: Sequence[str | None], session: Session
    ) -> list[float | None]:
        """P(a is better), row by row: ½ where the two orders do not agree on the winner."""
        p = self.numbers(_pairs(prompts, a, b) + _pairs(prompts, b, a), session)
        forward, backward = p[: len(a)], [None if x is None else 1 - x for x in p[len(a) :]]
        return [agreed(x, y) for x, y in zip(forward, backward, strict=True)]

    def score(
        self, prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None], session: Session
    ) -> list[float | None]:
        """One number per answer. A reference answer in `truths` is shown where the template shows any."""
        rows = zip(prompts, completions, truths, strict=True)
        return self.numbers([_answer(p, x, truth) for p, x, truth in rows], session)


def _answer(prompt: Any, completion: str, truth: str | None) -> dict[str, str]:
    reference = reference_answer(truth, prompt)
    return {
        "prompt": conversation_text(prompt),
        "answer": completion,
        **({"reference": reference} if reference else {}),
    }


def _pairs(prompts: Sequence[Any], a: Sequence[str], b: Sequence[str]) -> list[dict[str, str]]:
    rows = zip(prompts, a, b, strict=True)
    return [{"prompt": conversation_text(p), "a": x, "b": y} for p, x, y in rows]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None
