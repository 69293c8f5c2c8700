"""A format that answers must have, as a regular expression: 1 where an answer has it, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from tasks.contract import DataError, SpecError
from tasks.kinds import Scorer

if TYPE_CHECKING:
    from regex import Pattern

SECONDS = 1.0
"""Longest time for one answer. Usual expressions need microseconds; one that backtracks can need years."""


def format_reward(*, expression: str, where: Literal["whole", "anywhere"] = "whole") -> Scorer:
    """1 for an answer that matches a regular expression, 0 for one that does not: a reward for keeping to a format.

    Alone it is a verifiable reward; beside others its share is its weight in an `ensemble` with `how: weighted`, and a
    negative weight makes it a format to avoid. As a judge it says P(a beats b) = σ(1) ≈ .73 where a alone matches.

    The syntax is that of Python's package `regex`, which has all of `re`: `(?s)` lets `.` match line breaks, `(?i)`
    ignores case. One that does not compile is refused before anything runs. An answer for which the search takes more
    than a second of computing, because the expression backtracks without end, ends the step with a message: it never
    becomes a score, so that no result depends on how fast a machine is. Possessive repeats (`++`) and atomic groups
    (`(?>…)`) do not backtrack. Raises SpecError for an invalid expression, DataError for a search that takes too long.

    Args:
        expression: the regular expression, such as `(?s)<think>.+</think>\\s*<answer>.+</answer>`.
        where: whole: the answer from its beginning to its end; anywhere: some part of it.
    """
    pattern = compile_expression(expression)
    match = pattern.fullmatch if where == "whole" else pattern.search

    def score(prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]) -> list[float]:
        return [float(_matches(match, pattern, text)) for text in completions]

    return Scorer.scoring(score)


def identity(*, online: bool, base: object, expression: str, **_: Any) -> dict[str, str]:
    """Nothing outside. Raises SpecError for an invalid expression."""
    compile_expression(expression)
    return {}


def compile_expression(expression: str) -> Pattern[str]:
    """The compiled expression. Raises SpecError, with the place of the mistake, where it is invalid."""
    import regex

    try:
        return regex.compile(expression)
    except regex.error as e:
        place = "" if e.pos is None else f", at character {e.pos + 1}"
        raise SpecError(f"expression = {expression!r} is an invalid regular expression: {e.msg}{place}") from None


def _matches(match: Any, expression: str, text: str) -> bool:
    try:
        return match(text, timeout=SECONDS) is not None
    except TimeoutError:
        raise DataError(
            f"the expression {expression!r} needs more than {SECONDS:g} s for one answer of {len(text)} characters, "
            f"because it tries too many ways to match it. Make its repeats possessive (`++`, `*+`) or its alternatives "
            f"exclusive. The answer begins {text[:200]!r}"
        ) from None
