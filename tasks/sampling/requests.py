"""The common interface of the sampling engines: options, requests and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length"]
OnProgress = Callable[[int], None]
"""Receives the number of finished requests."""


@dataclass(frozen=True)
class Options:
    """Sampling options, the same for all requests of a call."""

    temperature: float = 1.0
    """0 means greedy decoding."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer and are not part of it."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end an answer and are part of it."""


class Request(NamedTuple):
    """A request for one completion."""

    prompt_tokens: Sequence[int]
    seed: int
    """63 bits; the only source of randomness of this completion."""
    max_tokens: int


class Answer(NamedTuple):
    """One sampled completion."""

    text: str
    """Without special tokens, and up to the stop string if one ended it."""
    tokens: list[int]
    """As sampled, including the stop token or stop string that ended it; nothing is appended to a truncated one."""
    token_logps: list[float]
    """Under the untruncated temperature-1 distribution, one per token, nats."""
    finish_reason: FinishReason


class Engine(Protocol):
    """A loaded policy that answers requests."""

    def generate(self, requests: Sequence[Request], options: Options, on_progress: OnProgress) -> list[Answer]:
        """One answer per request, in their order. `on_progress` receives the number of finished ones.

        The answers depend only on the requests and their order, not on earlier calls.
        """
        ...

    def generate_parts(
        self, parts: Iterable[Sequence[Request]], options: Options, on_progress: OnProgress
    ) -> Iterator[list[Answer]]:
        """The answers to the requests of each part in turn.

        An engine may begin the next part before one is complete. `on_progress` receives the number of finished requests
        of all parts.
        """
        ...

    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all loaded weights in place.

        Names are those of the transformers model's `state_dict()`; types and devices may differ. Raises SpecError for
        unknown and missing names and for wrong shapes, before anything is changed. `cached_engine` no longer returns
        this engine.
        """
        ...

    def close(self) -> None:
        """Free the memory. The engine cannot be used afterwards."""
        ...


_cached: dict[tuple[Any, ...], Engine] = {}


def cached_engine(key: tuple[Any, ...], load: Callable[[], Engine]) -> Engine:
    """The engine of `key`, loaded if needed. Only one engine per process is cached."""
    if key not in _cached:
        close_engine()
        _cached[key] = load()
    return _cached[key]


def evict(engine: Engine) -> None:
    """Remove the keys of an engine whose weights change; it stays cached until it is closed."""
    for key in [key for key, loaded in _cached.items() if loaded is engine]:
        _cached[(object(),)] = _cached.pop(key)


def close_engine() -> None:
    """Close the cached engine, if there is one."""
    while _cached:
        _cached.popitem()[1].close()
