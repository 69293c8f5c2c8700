"""What a method of reinforcement learning is to the common loop, and what the loop gives it.

Axis letters: S answers, M their tokens, end to end in the order of the answers; m tokens of a micro-batch, which holds
whole answers. Numbers per token and per answer are float64, log-probabilities nats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from tasks.rollouts.answers import Answers, ComparedPairs
from tasks.rollouts.normalisation import Normalisation
from tasks.training.rows import Ints, Rows


class Opponent(NamedTuple):
    """Who answers the prompts besides the policy, so that its answers are compared with these."""

    k: int
    """Answers per prompt."""
    mixture: float
    """m: each token is drawn from π^(1−m)·π_ref^m; 0 is the policy, 1 the reference."""
    is_learnt: bool
    """Whether updates read its answers; else they are only compared."""


@dataclass(frozen=True)
class Rollout:
    """An iteration's answers, what the oracle answered about them, and how the networks read them."""

    answers: Answers
    scores: Tensor | None
    """`(S,)`"""
    logps: Tensor
    """`(M,)`: under the policy before the iteration's first update, at the temperature of the answers."""
    ref_logps: Tensor | None
    """`(M,)`: under the reference, at the same temperature; None without one."""
    values: Tensor | None
    """`(M,)`: of the value network before each token; None without one."""
    divergences: Tensor | None = None
    """`(M,)`: KL(policy ‖ reference) of the distribution of each token; None for a method that does not read them."""
    pairs: ComparedPairs | None = None
    weights: Tensor | None = None
    """`(M,)`: factors of the tokens' losses that correct the sampler; None where nothing does."""
    stale_logps: Tensor | None = None
    """`(M,)`: under the older policy that sampled, where an update's ratio is one to it; None: it is to `logps`."""

    @property
    def rows(self) -> Rows:
        return self.answers.rows

    @property
    def lengths(self) -> Tensor:
        """`(S,)`"""
        return self.answers.lengths

    @property
    def log_ratios(self) -> Tensor:
        """`(M,)`: log π/π_ref. Raises ValueError without a reference."""
        if self.ref_logps is None:
            raise ValueError("this rollout has no log-probabilities of a reference")
        return self.logps - self.ref_logps

    @property
    def kl(self) -> float:
        """KL(policy ‖ reference) by k1, nats per answer; 0 without a reference."""
        return 0.0 if self.ref_logps is None else self.mean_of_own(self.log_ratios)

    def sums(self, values: Tensor) -> Tensor:
        """Sums over each answer's tokens, `(S,)`, of `(M,)` values."""
        return values.new_zeros(len(self.answers)).index_add(0, self.answer_of_token, values)

    def mean_of_own(self, values: Tensor) -> float:
        """Sum over an answer's tokens of `(M,)` values, in the mean over the policy's own answers."""
        return float(values[self.own_tokens].sum()) / self.own_answers

    @property
    def own_answers(self) -> int:
        """Number of answers that the policy sampled."""
        return int((~self.answers.by_opponent).sum())

    @cached_property
    def own_tokens(self) -> Tensor:
        """`(M,)` bool: of an answer that the policy sampled."""
        return self.spread(torch.from_numpy(~self.answers.by_opponent))

    def spread(self, values: Tensor) -> Tensor:
        """Each answer's value at all its tokens, `(M,)`, of `(S,)` values."""
        return values[self.answer_of_token]

    @cached_property
    def answer_of_token(self) -> Tensor:
        """`(M,)`: number of the answer that each token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self.answers)), self.lengths)


class Targets(NamedTuple):
    """What the updates of an iteration learn from."""

    tokens: Mapping[str, Tensor]
    """`(M,)` by the name under which `Method.losses` and `Critic.value_losses` receive them."""
    metrics: Mapping[str, float]
    counted: Tensor | None = None
    """`(S,)` bool: which answers train; None: all. The others count as answers of no tokens."""


class Critic(Protocol):
    """How a value network learns beside the policy."""

    @property
    def value_clip(self) -> float:
        """How far a value may move before it counts as clipped."""
        ...

    def value_losses(self, values: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """Losses of the tokens of a micro-batch, `(m,)`; their mean over a minibatch's tokens is minimised."""
        ...


class Method(ABC):
    """What distinguishes a method: which feedback it needs, what it makes of it (credit), and what a step minimises.

    All the rest is the loop's: prompts, sampling, questions, the networks' outputs, minibatches and micro-batches,
    ranks, checkpoints, the price of a nat.
    """

    name: ClassVar[str]
    """Of messages, and of the state that a later round goes on with."""
    feedback: ClassVar[Literal["scores", "comparisons", "none"]] = "scores"
    """What the oracle is asked about the answers; a Scorer compares by Bradley-Terry."""
    couples: ClassVar[bool] = False
    """Whether the loss couples answers: then `couple` gives its slopes, and `losses` is not called."""

    @property
    def best_of(self) -> int:
        """Of how many answers that are sampled and scored the best one alone is learnt from."""
        return 1

    @property
    def reads_divergences(self) -> bool:
        """Whether `losses` receives `divergences`, KL(policy ‖ reference) of the distribution of each token, with
        gradient."""
        return False

    @property
    def opponent(self) -> Opponent | None:
        """Who else answers the prompts; None: nobody."""
        return None

    @property
    def orders(self) -> Literal["both", "random"]:
        """In which orders an oracle that depends on the order is queried."""
        return "both"

    def pairs(self, answers: Answers) -> tuple[Ints, Ints]:
        """Numbers of the answers to compare, `(N,)` each, for the feedback `comparisons`."""
        raise NotImplementedError

    @property
    def normalisation(self) -> Normalisation:
        """How the losses of a minibatch's tokens become one number."""
        return "token"

    @property
    def max_tokens(self) -> int | None:
        """Divisor of the normalisation `constant`."""
        return None

    @property
    def clip(self) -> tuple[float, float] | None:
        """How far a ratio may fall below 1 and rise above it before its token counts as clipped; None: nothing is."""
        return None

    @property
    def redraws(self) -> int:
        """How often an iteration draws other prompts in place of those whose answers all have one score."""
        return 0

    @property
    def critic(self) -> Critic | None:
        """How the value network learns; None: there is none."""
        return None

    @abstractmethod
    def targets(self, rollout: Rollout, coefficient: float) -> Targets:
        """Credit: what an iteration's updates need of every token.

        coefficient: price of a nat away from the reference, in units of the score.
        """

    def losses(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        """Losses of the tokens of a micro-batch, `(m,)`; the normalisation weighs and adds them up.

        logps: with gradient. tokens: those of `targets`, and old_logps, which the rollout read. answer: `(m,)`, number
        of each token's answer within the micro-batch.
        """
        raise NotImplementedError

    def ratio_logps(self, logps: Tensor, tokens: Mapping[str, Tensor], answer: Tensor) -> Tensor:
        """`(m,)`: log-probabilities whose ratio to `old_logps` is the one that is clipped."""
        return logps

    def couple(self, rollout: Rollout, part: Ints, logps: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Slopes d loss / d logps of a minibatch's tokens, `(M,)` with 0 for those of other answers, and metrics.

        part: the minibatch's answers. logps: `(M,)`, current ones of these answers, without gradient.
        """
        raise NotImplementedError
