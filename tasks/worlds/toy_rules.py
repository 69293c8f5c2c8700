"""What can be seen in an answer of the toy world, from its text and the prompt's truth alone.

Conventions: words and punctuation marks are separated by spaces and all count as words; a sentence ends with `.` or
`!`. An answer *did not end* if its text does not end with one: what cut it (length) is not visible in a text. An
answer that was cut just behind a full stop passes as ended, which costs at most the words that are missing.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from tasks.contract import DataError
from tasks.kinds import Scorer
from tasks.worlds.toy import VALUES

OPENINGS = {"warm": "good question !", "formal": "certainly .", "playful": "ahoy friend !"}
CLOSINGS = ("hope that helps .", "ask me again .")
DISMISSALS = ("go away .", "who cares .", "find out yourself .")
FILLER = "well , you know ,"
CLAUSES = {"place": "{s} lives in the {v} .", "food": "{s} eats {v} .", "size": "{s} is {v} ."}

_ATTRIBUTES = tuple(VALUES)
_STATEMENT = re.compile(r"(?:the (\w+)|\bit) (?:lives in the (\w+)|eats (\w+)|is (?!the\b)(\w+))")
_RUDE = re.compile("|".join(rf"(?:^|[.!] ){re.escape(d)}" for d in DISMISSALS))


class Features(NamedTuple):
    """An answer as the rules see it."""

    right: float
    """Share of the asked facts that were given one value, the right one."""
    wrong: float
    """Share of the asked facts that were given a wrong value, or two."""
    extra: int
    """Statements of a fact that was not asked, or that had been stated before."""
    named: bool
    """Names the animal that was asked about."""
    tone: str | None
    """Tone of the opening line: warm, formal or playful; None: it has none."""
    closing: bool
    rude: bool
    fillers: int
    repeats: int
    """Word trigrams that had occurred before."""
    words: int
    ended: bool


class Truth(NamedTuple):
    """The truth column of a toy prompt."""

    animal: str
    asked: tuple[str, ...]
    facts: dict[str, str]


@lru_cache(maxsize=4096)
def truth_of(truth: str | None) -> Truth:
    """The parsed truth. Raises DataError if it is none of the toy world's."""
    try:
        parsed = json.loads(truth or "null")
        return Truth(parsed["animal"], tuple(parsed["asked"]), parsed["facts"])
    except (TypeError, KeyError, ValueError):
        raise DataError(
            f"the toy oracles judge by the truth of the toy world's prompts, and this prompt's is {truth!r}; "
            "for other prompts choose another oracle"
        ) from None


@lru_cache(maxsize=200_000)
def features(text: str, truth: str | None) -> Features:
    """All features of one answer. Raises DataError if `truth` is none of the toy world's."""
    animal, asked, facts = truth_of(truth)
    stated: dict[str, set[str]] = {}
    statements = 0
    for attribute, value in _statements(text, animal):
        stated.setdefault(attribute, set()).add(value)
        statements += 1
    right = sum(stated.get(x) == {facts[x]} for x in asked)
    answered = sum(x in stated for x in asked)
    words = text.split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return Features(
        right=right / len(asked), wrong=(answered - right) / len(asked), extra=statements - answered,
        named=animal in words, tone=next((t for t, line in OPENINGS.items() if text.startswith(line)), None),
        closing=text.endswith(CLOSINGS), rude=_RUDE.search(text) is not None, fillers=text.count(FILLER),
        repeats=len(trigrams) - len(set(trigrams)), words=len(words), ended=text.rstrip().endswith((".", "!")),
    )  # fmt: skip


def _statements(text: str, animal: str) -> Iterator[tuple[str, str]]:
    """(attribute, value) of every statement; a value said of another animal can never be right."""
    subject = animal
    for match in _STATEMENT.finditer(text):
        subject = match[1] or subject
        column = match.lastindex or 0
        yield _ATTRIBUTES[column - 2], match[column] if subject == animal else f"{subject}: {match[column]}"


def gold(f: Features) -> float:
    """What people in this world like (its units are logits: P(a beats b) = σ(gold(a) − gold(b)))."""
    return quality(f) + 0.6 * (f.tone is not None)


def quality(f: Features) -> float:
    """Gold without what the opening line earns."""
    return (
        2.5 * f.right - 1.0 * f.wrong - 0.4 * f.extra + 0.3 * f.named + 0.4 * f.closing - 1.0 * f.rude
        - 0.4 * f.fillers - 0.5 * f.repeats - 0.05 * max(0, f.words - 22) - 1.5 * (not f.ended)
    )  # fmt: skip


def scorer_by(score: Callable[[Features], float], *, scale: float = 1.0) -> Scorer:
    """A scorer of toy answers by their features; P(a beats b) = σ(scale·(score(a) − score(b)))."""

    def scores(prompts: Sequence[object], completions: Sequence[str], truths: Sequence[str | None]) -> list[float]:
        return [score(features(text, truth)) for text, truth in zip(completions, truths, strict=True)]

    return Scorer.scoring(scores, scale=scale)
