"""What a judge's reply means. Only the reply is read, never what was judged."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tasks.asking.reply import Reply

_VERDICT = re.compile(r"\[\[([ABC])\]\]")
_RATING = re.compile(r"\[\[\s*([0-9]+(?:\.[0-9]+)?)\s*\]\]")
_GRADE = re.compile(r"\[\[\s*([0-9]{1,3})\s*:\s*([0-9]+(?:\.[0-9]+)?)\s*\]\]")
_AROUND = " \t*_`.#>"
"""What may stand around a verdict alone on the last line: people's and models' emphasis."""
P_FIRST = {"A": 1.0, "B": 0.0, "C": 0.5}
"""P(the answer shown first is better) of each verdict."""


def verdict_of(reply: Reply) -> float | None:
    """P(A is better): 1, 0, or ½ for a tie; None where the reply has no verdict, or does not say which of several.

    A verdict alone on the last line counts, whatever the text before it quotes; else all verdicts in the reply must be
    the same. A reply that was cut at its length limit has none.
    """
    letter = _only(_VERDICT, reply)
    return None if letter is None else P_FIRST[letter]


def rating_of(reply: Reply, low: float, high: float) -> float | None:
    """The rating `[[7]]` by the same rules; None where it is missing, not clear, or not from low to high."""
    number = _only(_RATING, reply)
    return None if number is None else _within(float(number), low, high)


def grades_of(reply: Reply, count: int, low: float, high: float) -> list[float] | None:
    """The grades `[[1: 7]]` of all criteria in order; None where one is missing, not clear, or not from low to high."""
    if not reply.whole:
        return None
    found: dict[int, set[float]] = {}
    for number, grade in _GRADE.findall(reply.text):
        found.setdefault(int(number), set()).add(float(grade))
    if found.keys() != set(range(1, count + 1)) or any(len(several) > 1 for several in found.values()):
        return None
    grades = [_within(found[i].pop(), low, high) for i in range(1, count + 1)]
    return None if any(g is None for g in grades) else [g for g in grades if g is not None]


def weighted_grade(reply: Reply, weights: Sequence[float], low: float, high: float) -> float | None:
    """Σ weight · grade / Σ weight, from low to high."""
    grades = grades_of(reply, len(weights), low, high)
    return None if grades is None else sum(w * g for w, g in zip(weights, grades, strict=True)) / sum(weights)


def probability_of(reply: Reply, letters: Sequence[str] = ("A", "B")) -> float | None:
    """P(A is better) = the softmax over the log-probabilities of the two letters as the first token.

    A letter with a space before it is the same answer: their probabilities add up. None where one of the two is not
    among the tokens whose log-probabilities the server gave. Source: AlpacaEval's annotators by log-probabilities.
    """
    several = [[p for token, p in reply.first.items() if token.strip() == letter] for letter in letters]
    if not all(several):
        return None
    a, b = (math.fsum(map(math.exp, ps)) for ps in several)
    return a / (a + b) if a + b > 0 else None


def agreed(forward: float | None, backward: float | None) -> float | None:
    """P(a is better) of both orders where they agree on the winner, as their mean; else ½.

    forward: with a shown first; backward: P(a is better) with b shown first. Source: MT-bench counts a win only if both
    orders agree (FastChat, `show_result.py`).
    """
    if forward is None or backward is None:
        return None
    return (forward + backward) / 2 if (forward - 0.5) * (backward - 0.5) > 0 else 0.5


def _only(pattern: re.Pattern[str], reply: Reply) -> str | None:
    if not reply.whole:
        return None
    lines = reply.text.strip().splitlines()
    if lines and (alone := pattern.fullmatch(lines[-1].strip(_AROUND))):
        return str(alone[1])
    found = set(pattern.findall(reply.text))
    return str(found.pop()) if len(found) == 1 else None


def _within(value: float, low: float, high: float) -> float | None:
    return value if low <= value <= high else None
