"""Live oracles: how queries get to their functions, to the store of answers, or to a server by a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from tasks.contract import SpecError

QUESTIONS_PER_CALL = 64
"""Questions that a local oracle gets in one call: enough for a batch, few enough to be lost by a kill."""


class QuerySession(Protocol):
    """What a live oracle asks through: `tasks.judging.session.Session`."""

    def stored(
        self, oracle: str, what: str, rows: Sequence[tuple[Any, ...]], function: Callable[..., Any]
    ) -> list[Any]:
        """Answers to rows of arguments; those that the store has not are the function's, and are stored."""
        ...


class Queried:
    """What a live oracle has besides its functions.

    A cheap rule is called directly. An oracle with `stored_as` is called for the questions whose answers the store has
    not. One that `asks` gets the session as its last argument: it makes the digests of its questions itself, because
    only it knows what it sends, and looks them up there.
    """

    stored_as = ""
    """Name under which its answers are stored; empty: they are not, because they cost nothing, or it asks by itself.

    `open_oracle` adds what else may change an answer: the oracle's code, its parameters, the files that it reads.
    """
    opened_by = ""
    """Of an oracle in a store that code opens: the digest of that code."""
    asks = False
    """Whether it looks up and asks by itself."""
    questions_per_call = QUESTIONS_PER_CALL
    """Questions that it gets in one call. A server's are many, so that its requests never run out."""
    live_members: Sequence[Queried] = ()
    """Live oracles that it queries."""
    session: QuerySession | None = None
    """Through which it asks; None outside of a task."""

    def with_live_members(self, members: Sequence[Queried]) -> Self:
        """The same oracle, which queries others: what it is bound to they are bound to."""
        self.live_members = members
        return self

    def bind(self, session: QuerySession, *, stored: bool = True) -> Self:
        """Let it and the oracles that it queries ask through `session` from now on.

        stored: look up the answers of an oracle with `stored_as` too, not only of those that ask.
        """
        self.session = session if stored or self.asks else None
        for member in self.live_members:
            member.bind(session, stored=stored)
        return self

    def query(self, what: str, function: Callable[..., Any], *columns: Sequence[Any]) -> Sequence[Any]:
        """The function's answers to rows, given as columns; `what` they are: equal rows have one answer of each.

        Raises SpecError where an oracle that asks has no session.
        """
        if self.asks:
            if self.session is None:
                raise SpecError("an oracle that asks needs a session: open it with `tasks.judging.opening.open_oracle`")
            return list(function(*columns, self.session))
        if self.stored_as and self.session is not None:
            return self.session.stored(self.stored_as, what, [*zip(*columns, strict=True)], function)
        return list(function(*columns))


class Comparing(Queried):
    """What an oracle that compares two answers has."""

    antisymmetric = True
    """Whether p(a, b) = 1 − p(b, a) always holds, so that each unordered pair is queried once."""
    _compare: Callable[..., Sequence[float | None]] | None = None
    _uncertainty: Callable[..., Sequence[float | None]] | None = None

    @classmethod
    def of(
        cls, *, compare: Callable[..., Sequence[float | None]], antisymmetric: bool = True, stored_as: str = ""
    ) -> Self:
        """An oracle that compares: `compare(prompts, a, b, truths)` → P(a beats b) for each row, None: no answer.

        `prompts` are lists of messages, `a` and `b` texts, `truths` JSON or None, all of one length.
        stored_as: see `Queried`.
        """
        oracle = cls()
        oracle._compare, oracle.antisymmetric, oracle.stored_as = compare, antisymmetric, stored_as
        return oracle

    @classmethod
    def asking(cls, *, compare: Callable[..., Sequence[float | None]], antisymmetric: bool = False) -> Self:
        """An oracle that looks up and asks by itself: `compare(prompts, a, b, truths, session)`, else as in `of`.

        The session is a `tasks.judging.session.Session`.
        """
        oracle = cls.of(compare=compare, antisymmetric=antisymmetric)
        oracle.asks = True
        return oracle

    def compare(
        self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], truths: Sequence[str | None]
    ) -> Sequence[float | None]:
        """P(a beats b) row by row; see `of`."""
        if self._compare is None:
            raise SpecError(f"{type(self).__name__} cannot compare; open it first with `open()`")
        return self.query("compare", self._compare, prompts, a, b, truths)

    def with_uncertainty(self, uncertainty: Callable[..., Sequence[float | None]]) -> Self:
        """The same oracle, which also knows how uncertain it is: `uncertainty(prompts, a, b, truths)`, see there."""
        self._uncertainty = uncertainty
        return self

    @property
    def knows_uncertainty(self) -> bool:
        return self._uncertainty is not None

    def uncertainty(
        self, prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], truths: Sequence[str | None]
    ) -> Sequence[float | None]:
        """How uncertain the oracle is which of a and b is better, row by row: ≥ 0, equal if they are exchanged."""
        if self._uncertainty is None:
            raise SpecError(f"{type(self).__name__} does not know how uncertain it is; an `ensemble` does")
        return self.query("uncertainty", self._uncertainty, prompts, a, b, truths)
