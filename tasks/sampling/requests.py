"""The common interface of the sampling engines: options, requests and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from tasks.contract import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.calls import Adapter
    from tasks.kinds import Policy

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


class SampledAnswer(NamedTuple):
    """One sampled completion."""

    text: str
    """Without special tokens, and up to the stop string if one ended it."""
    tokens: list[int]
    """As sampled, including the stop token or stop string that ended it; nothing is appended to a truncated one."""
    token_logps: list[float]
    """Under the untruncated temperature-1 distribution, one per token, nats."""
    finish_reason: FinishReason


class Engine(Protocol):
    """A loaded base model that answers requests as itself or, with an adapter on it, as another policy."""

    def use(self, policy: Policy) -> None:
        """Answer as `policy` from now on: the loaded base, or an adapter of it.

        Raises SpecError or DataError for an adapter that does not fit.
        """
        ...

    def generate(self, requests: Sequence[Request], options: Options, on_progress: OnProgress) -> list[SampledAnswer]:
        """One answer per request, in their order. `on_progress` receives the number of finished ones.

        The answers depend only on the requests and their order, not on earlier calls.
        """
        ...

    def generate_parts(
        self, parts: Iterable[Sequence[Request]], options: Options, on_progress: OnProgress
    ) -> Iterator[list[SampledAnswer]]:
        """The answers to the requests of each part in turn.

        An engine may begin the next part before one is complete. `on_progress` receives the number of finished requests
        of all parts.
        """
        ...

    def update(self, weights: Iterable[tuple[str, Tensor]], adapter: Adapter | None = None) -> None:
        """Replace the weights of the base in place, or with `adapter` those of an adapter on it. Types and devices may
        differ. Raises SpecError or DataError for unknown and missing names and for wrong shapes, before the answers
        change.

        Without `adapter` the names are those of the transformers model's `state_dict()`; the base answers without an
        adapter, and `cached_engine` no longer returns this engine. With it, names and weights are those of
        `tasks.training.adapters.learning_parameters`; the base stays as it is, so that `cached_engine` returns this
        engine for every adapter of it.
        """
        ...

    def rest(self, *, renewed: bool = False) -> None:
        """Free what memory can be filled again soon. Any other method takes it back first.

        renewed: `update` brings all weights of the base before the next answers, so that they need not be kept; until
        then every other method that needs them raises RuntimeError.
        """
        ...

    def close(self) -> None:
        """Free the memory. The engine cannot be used afterwards."""
        ...


DECODES_TOGETHER = "transformers"
"""Name of the engine that decodes a mixture of two policies (`tasks/sampling/mixture.py`)."""


def check_mixture(engine: str, mixture: float) -> None:
    """Raise SpecError for a mixture that an engine of this name cannot sample."""
    if 0 < mixture < 1 and engine != DECODES_TOGETHER:
        raise SpecError(
            f"mixture = {mixture:g} draws each token from the scores of policy and reference together, which the "
            f"engine {engine} cannot do: set `engine: {DECODES_TOGETHER}`, or a mixture of 0 (the policy itself) or 1 "
            "(the reference)"
        )


_cached: dict[tuple[Any, ...], Engine] = {}


def cached_engine(policy: Policy, key: tuple[Any, ...], load: Callable[[], Engine]) -> Engine:
    """The engine of `key`, loaded if needed, which answers as `policy`. Only one engine per process is cached.

    key: of the base and of all options that change answers, so that the base and its adapters share one engine.
    """
    if key not in _cached:
        close_engine()
        _cached[key] = load()
    engine = _cached[key]
    engine.use(policy)
    return engine


def evict(engine: Engine) -> None:
    """Remove the keys of an engine whose base changes; it stays cached until it is closed."""
    for key in [key for key, loaded in _cached.items() if loaded is engine]:
        _cached[(object(),)] = _cached.pop(key)


def rest() -> None:
    """Let the cached engine free memory while this process waits for its next step."""
    for engine in _cached.values():
        engine.rest()


def close_engine() -> None:
    """Close the cached engine, if there is one."""
    while _cached:
        _cached.popitem()[1].close()
