"""Scorers whose score is made of several named numbers: attributes that they measure, or scores of their members."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from difflib import get_close_matches
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tasks.contract import SpecError
from tasks.queried import Queried

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Blend(NamedTuple):
    """How the score of an ensemble comes about, so that its members' scores can be reported without another query."""

    names: tuple[str, ...]
    """Of the members, each different."""
    scores: Callable[..., Sequence[Sequence[float] | None]]
    """`(prompts, completions, truths)` → the score by each member per row, None where one of them gives none."""
    combine: Callable[[Sequence[Any], npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    """Prompts of A rows and the members' scores of them, `(A, M)`, NaN for none → the score of each row, `(A,)`."""


class Measuring(Queried):
    """What a scorer with attributes has besides its score."""

    attributes: tuple[str, ...] = ()
    """Names of the numbers that it measures of an answer, whose weighted sum is the score; empty: the score alone."""
    weights: tuple[float, ...] = ()
    """One per attribute."""
    blend: Blend | None = None
    """Of an ensemble: the scores that its own is made of; None where those alone do not determine it."""
    _measure: Callable[..., Sequence[Sequence[float] | None]] | None = None

    def with_blend(self, blend: Blend | None) -> Self:
        """The same scorer, which also knows how its score comes about."""
        self.blend = blend
        return self

    @classmethod
    def measuring(cls, measure: Callable[..., Sequence[Sequence[float] | None]], attributes: Sequence[str]) -> Self:
        """A scorer by attributes: `measure(prompts, completions, truths)` → a number of each per row, None: no answer.

        Its score is their mean, until `weighted` says otherwise.
        """
        scorer = cls()
        scorer._measure, scorer.attributes = measure, tuple(attributes)
        scorer.weights = (1 / len(attributes),) * len(attributes)
        return scorer

    def weighted(self, weights: Mapping[str, float] | None) -> Self:
        """The same scorer whose score is Σ weight · attribute; attributes that are not named count 0.

        None: all alike. Raises SpecError for names that are none of its attributes.
        """
        if weights is None:
            return self
        if not self.attributes:
            raise SpecError(f"`weights` names {', '.join(weights)}, but the oracle gives one score without attributes")
        for name in weights:
            if name not in self.attributes:
                near = get_close_matches(name, self.attributes, 1)
                hint = f" (did you mean '{near[0]}'?)" if near else ""
                raise SpecError(f"weights.{name}: the oracle's attributes are {', '.join(self.attributes)}{hint}")
        other = copy(self)
        other.weights = tuple(weights.get(name, 0.0) for name in self.attributes)
        return other

    def measure(
        self, prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]
    ) -> Sequence[Sequence[float] | None]:
        """A number of each attribute per row; see `measuring`."""
        if self._measure is None:
            raise SpecError("the scorer gives one score without attributes")
        return self.query("measure", self._measure, prompts, completions, truths)

    def weighted_sums(self, rows: Sequence[Sequence[float] | None]) -> list[float | None]:
        """The score of each row of measured attributes."""
        return [None if row is None else sum(map(mul, self.weights, row)) for row in rows]
