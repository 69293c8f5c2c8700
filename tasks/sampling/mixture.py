"""Answers of the geometric mixture π^(1−m)·π_ref^m of a policy and its reference, token by token.

m = 0 is the policy, m = 1 the reference, each with the very answers that an engine with its weights gives. Between them
both decode together, so the engine has to decode with models of this process; one that cannot answers as the reference
by taking its weights for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tasks.sampling.decoding import DecodingModel
from tasks.sampling.requests import Engine, OnProgress, Options, Request, SampledAnswer, check_mixture

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.calls import Adapter

    Weights = tuple[Iterable[tuple[str, Tensor]], Adapter | None]


@runtime_checkable
class MixingEngine(Protocol):
    """An engine that decodes together with a model of this process."""

    def generate_mixture(
        self,
        reference: DecodingModel,
        mixture: float,
        requests: Sequence[Request],
        options: Options,
        on_progress: OnProgress,
    ) -> list[SampledAnswer]: ...


class DecodableReference(Protocol):
    """The reference of a policy that trains, as its trainer holds it."""

    def decoding(self) -> DecodingModel:
        """The trainer's own copy, ready to decode until the trainer uses one of its networks."""
        ...

    def answer_on(self, engine: Engine) -> None:
        """Give the engine the reference's weights."""
        ...

    def restore(self, engine: Engine) -> None:
        """Give the engine the policy's weights."""
        ...


@dataclass(frozen=True)
class MixtureSampler:
    """Samples the mixture with an engine that answers as the policy."""

    engine: Engine
    reference: DecodableReference
    mixture: float
    """m in [0, 1]: weight of the reference."""

    def generate(self, requests: Sequence[Request], options: Options, on_progress: OnProgress) -> list[SampledAnswer]:
        """One answer per request, in their order; afterwards the engine answers as the policy again.

        The reference takes no further memory where the engine is `transformers`: the trainer's own copy decodes.
        Raises SpecError for a mixture of both that the engine cannot decode.
        """
        if self.mixture == 0:
            return self.engine.generate(requests, options, on_progress)
        if isinstance(self.engine, MixingEngine):
            reference = self.reference.decoding()
            return self.engine.generate_mixture(reference, self.mixture, requests, options, on_progress)
        check_mixture(type(self.engine).__name__, self.mixture)
        self.reference.answer_on(self.engine)
        try:
            return self.engine.generate(requests, options, on_progress)
        finally:
            self.reference.restore(self.engine)
