"""Writing new prompts after the example of existing ones: what a policy is asked, and which of its texts are new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any

import pyarrow as pa

from tasks.contract import DataError, Workspace
from tasks.ids import digest, prompt_id
from tasks.judging.rouge import Similarity
from tasks.judging.templates import SandboxTemplate
from tasks.kinds import Completions, Prompts
from tasks.message import Message, extra_of

INSTRUCTION = """\
These are requests of users to an assistant:
{% for prompt in prompts %}
{{ loop.index }}. {{ prompt }}
{%- endfor %}

Write one more request of this kind, about something else. Write the request alone."""
_ATTEMPTS = 100
"""Draws of examples for one text, until they are others than for the texts before."""


class Writing:
    """Requests for new prompts, each with a few existing ones as examples.

    stream: names the noise by which examples are chosen. Raises SpecError for a template without prompts; DataError
    where there are fewer prompts with a single message than examples.
    """

    def __init__(self, prompts: Prompts, shots: int, instruction: str, stream: str) -> None:
        self._template = SandboxTemplate(instruction or INSTRUCTION, "the instruction")
        self._template.require("prompts")
        self.texts = single_texts(prompts)
        self._shots, self._stream = shots, stream
        if len(self.texts) <= shots:
            raise DataError(
                f"{len(self.texts)} prompts have a single plain message; {shots} examples need more than that"
            )

    def requests(self, size: int) -> Prompts:
        """A table of `size` different requests. Raises DataError where there are not so many."""
        return Prompts.of(pa.Table.from_pylist([
            {"prompt_id": prompt_id(message), "prompt": message} for message, _ in islice(self.pairs(), size)
        ]))  # fmt: skip

    def pairs(self) -> Iterator[tuple[list[Message], str]]:
        """Different requests, each with an existing prompt that is not among its examples."""
        seen: set[tuple[str, ...]] = set()
        for number in count():
            draws = (self._draw(number, attempt) for attempt in range(_ATTEMPTS))
            drawn = next((d for d in draws if tuple(d[:-1]) not in seen), None)
            if drawn is None:
                raise DataError(
                    f"{len(self.texts)} prompts give only about {number} different sets of {self._shots} examples: "
                    "write fewer, or give more prompts or examples"
                )
            *examples, further = drawn
            seen.add(tuple(examples))
            yield [{"role": "user", "content": self._template.text(prompts=examples)}], further

    def _draw(self, number: int, attempt: int) -> list[str]:
        """As many different prompts as there are examples, and one more."""
        noise = _integers(self._stream, str(number), str(attempt))
        places: dict[int, None] = {}
        while len(places) <= self._shots:
            places[next(noise) % len(self.texts)] = None
        return [self.texts[place] for place in places]


def _integers(*names: str) -> Iterator[int]:
    """Random numbers that belong to names."""
    return (int(digest("writing", *names, str(i))[:15], 16) for i in count())


def single_texts(prompts: Prompts) -> list[str]:
    """The texts of prompts that are one plain message of a user, each once."""
    every: list[list[dict[str, Any]]] = prompts.table.column("prompt").to_pylist()
    single = (p[0]["content"] for p in every if len(p) == 1 and p[0]["role"] == "user" and not extra_of(p[0]))
    return list(dict.fromkeys(single))


def new_prompts(texts: Completions, existing: Sequence[Prompts], max_similarity: float, work: Workspace) -> Prompts:
    """The texts that are whole, not empty, and resemble no existing prompt and none before. Counted in the record.

    Raises DataError if none is left.
    """
    known = Similarity(max_similarity, (text for table in existing for text in _user_texts(table)))
    counts: Counter[str] = Counter()
    rows = []
    for row in texts.table.select(["completion", "finish_reason"]).to_pylist():
        text = row["completion"].strip()
        reason = _reason(text, row["finish_reason"], known)
        counts[reason] += 1
        if reason == "new":
            known.add(text)
            message = [{"role": "user", "content": text}]
            rows.append({"prompt_id": prompt_id(message), "prompt": message})
    work.count(**{f"prompts_{reason}": counts[reason] for reason in ("empty", "cut", "similar", "new")})
    left_out = ", ".join(f"{counts[reason]} {_WHY[reason]}" for reason in _WHY if counts[reason])
    if not rows:
        raise DataError(f"none of {len(texts)} texts is a new prompt: {left_out}")
    if left_out:
        work.notice(f"{len(rows)} of {len(texts)} texts are new prompts; left out: {left_out}")
    return Prompts.of(pa.Table.from_pylist(rows))


_WHY = {
    "empty": "empty or without a word", "cut": "cut by their length",
    "similar": "that resemble a prompt that exists, is held out, or was written before",
}  # fmt: skip


def _reason(text: str, finish_reason: str, known: Similarity) -> str:
    if not any(c.isalnum() for c in text):
        return "empty"
    if finish_reason != "stop":
        return "cut"
    return "similar" if known.resembles(text) else "new"


def _user_texts(prompts: Prompts) -> Iterator[str]:
    """What users wrote in each prompt last."""
    for conversation in prompts.table.column("prompt").to_pylist():
        yield from (m["content"] for m in conversation[-1:] if m["role"] == "user")
