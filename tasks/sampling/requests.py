"""What an engine is asked and what it answers: the one interface of all engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Options:
    """How tokens are drawn: the same for all requests of a call."""

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; the answer's text ends before them."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end an answer and belong to it."""


class Request(NamedTuple):
    """One completion to be drawn."""

    prompt_tokens: Sequence[int]
    seed: int
    """63 bits that all randomness of this completion comes from."""
    max_tokens: int


class Answer(NamedTuple):
    """One completion as it was drawn."""

    text: str
    """Without special tokens; up to the stop string, where one ended it."""
    tokens: list[int]
    """As drawn: with the stop token, or those of the stop string, that ended it; nothing appended to a cut one."""
    token_logps: list[float]
    """Under the untruncated temperature-1 distribution, one per token, nats."""
    finish_reason: FinishReason


class Engine(Protocol):
    """A policy that is loaded and answers requests."""

    def generate(self, requests: Sequence[Request], options: Options, tell: Callable[[int], None]) -> list[Answer]:
        """One answer per request, in their order. `tell` hears how many are finished so far.

        What comes out is fixed by the requests, their order included: nothing of an earlier call remains.
        """
        ...

    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all loaded weights in place: what is drawn from now on comes from these.

        Names are those of the transformers model's `state_dict()`; types and devices may be others. Raises SpecError,
        with nothing changed, at unknown and missing names and at wrong shapes. `cached_engine` no longer returns this
        engine.
        """
        ...

    def close(self) -> None:
        """Give the memory back. The engine is of no use afterwards."""
        ...


_cached: dict[tuple[Any, ...], Engine] = {}


def cached_engine(key: tuple[Any, ...], load: Callable[[], Engine]) -> Engine:
    """The engine that `load` makes, kept until another is asked for: one at a time per process."""
    if key not in _cached:
        close_engine()
        _cached[key] = load()
    return _cached[key]


def evict(engine: Engine) -> None:
    """Let no key lead to an engine any more, because its weights change; it is still the one that is held."""
    for key in [key for key, loaded in _cached.items() if loaded is engine]:
        _cached[(object(),)] = _cached.pop(key)


def close_engine() -> None:
    """Close the engine that is held, if any."""
    while _cached:
        _cached.popitem()[1].close()
