"""A price on answers that are too long or too short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from tasks.contract import Bounds, SpecError
from tasks.kinds import Scorer


def length_penalty(
    *,
    most: Annotated[int, Bounds(min=0)] | None = None,
    least: Annotated[int, Bounds(min=0)] = 0,
    price: Annotated[float, Bounds(above=0)] = 1.0,
    counted_in: Literal["words", "characters"] = "words",
) -> Scorer:
    """−price for every word (or character) beyond `most` or short of `least`; 0 for lengths between the two.

    Meant as one of several scorers of an `ensemble` with `how: weighted`, where its weight multiplies the price. Alone
    it is a judge of length: P(a beats b) = σ(score(a) − score(b)). Raises SpecError where it bounds nothing, or where
    no length lies between the bounds.

    Args:
        most: greatest length without a price; default: none is too long.
        least: smallest length without a price.
        price: score that one word, or character, costs.
        counted_in: what the length is measured in; words are what white space separates.
    """
    _check_bounds(most, least)

    def cost(text: str) -> float:
        length = len(text) if counted_in == "characters" else len(text.split())
        beyond = 0 if most is None else max(0, length - most)
        return price * (beyond + max(0, least - length))

    def score(prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]) -> list[float]:
        return [0.0 - cost(text) for text in completions]

    return Scorer.scoring(score)


def identity(*, online: bool, base: object, most: int | None = None, least: int = 0, **_: Any) -> dict[str, str]:
    """Nothing outside. Raises SpecError for bounds that leave no length, or every length, free."""
    _check_bounds(most, least)
    return {}


def _check_bounds(most: int | None, least: int) -> None:
    if most is None and least == 0:
        raise SpecError("length_penalty bounds nothing: set `most`, `least`, or both")
    if most is not None and least > most:
        raise SpecError(f"length_penalty: least = {least} is above most = {most}, so every answer would pay")
