"""One iteration of a training by rollouts, whatever the method."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from tasks.contract import Workspace
from tasks.kinds import Oracle, Scorer
from tasks.rollouts.ahead import AnswerSource, CheckedEngine, OneAhead, OnPolicy
from tasks.rollouts.answers import Answers, Feedback
from tasks.rollouts.divergence import check_rollout, confirm_checkpoint
from tasks.rollouts.feedback import comparisons_of, scores_of
from tasks.rollouts.laps import Laps
from tasks.rollouts.method import Method
from tasks.rollouts.networks import Networks
from tasks.rollouts.redraw import draw_again
from tasks.rollouts.resume import ResumeState
from tasks.rollouts.rollout import read_rollout
from tasks.rollouts.sampler import Sampler
from tasks.rollouts.settings import LoopConfig
from tasks.rollouts.sft_mix import SftMix
from tasks.rollouts.update import learn
from tasks.training.optimizer import Updater


@dataclass
class Progress:
    """What a checkpoint has besides weights and the optimizer's state."""

    step: int
    """Iterations so far."""
    coefficient: float
    """Of the KL penalty, for the next iteration."""
    totals: Counter[str]
    """samples, tokens, queries; an iteration that a kill undid and another attempt ran again counts once."""
    difference: float | None
    """Between sampler and trainer in the first iteration, nats per token; None before it."""


@dataclass(frozen=True)
class Trainer:
    """What every iteration of a training needs."""

    method: Method
    networks: Networks
    sampler: Sampler
    oracle: Oracle | None
    """Live; None for a method that asks none."""
    config: LoopConfig
    resumed: ResumeState
    mix: SftMix | None
    work: Workspace
    rests: bool
    """Whether the engine gives its memory back while the networks learn."""

    def source(self, pending: Feedback | None) -> AnswerSource:
        """Where the answers come from. pending: those that a checkpoint has of its next iteration."""
        engine, iterations = self.sampler.engine, self.config.iterations

        def update() -> None:
            engine.update(*self.networks.weights)

        def rest() -> None:
            if self.rests:
                engine.rest(renewed=self.config.adapter is None)

        def ahead(iteration: int, check: Callable[[], None]) -> Feedback:
            return self._draw(iteration, replace(self.sampler, engine=CheckedEngine(engine, check)))

        def now(iteration: int, ended: Callable[[str], None]) -> Feedback:
            def show(share: float) -> None:
                self.work.progress(iteration + 0.5 * share, iterations, "iterations")

            return self._draw(iteration, self.sampler, show, ended)

        if self.config.rollout.stale:
            return OneAhead(update, ahead, iterations, pending)
        return OnPolicy(update, now, rest)

    def iterate(self, source: AnswerSource, optimizer: Updater, progress: Progress) -> dict[str, float]:
        """Take answers, give credit and learn once; `progress` moves on. Returns the metrics."""
        laps, iteration, config, work = Laps(), progress.step, self.config, self.work
        number = self.resumed.iterations + iteration
        feedback = source.of(iteration, laps.ended)
        rollout, difference, metrics = read_rollout(
            self.networks, feedback, config.rollout, progress.difference, divergences=self.method.reads_divergences
        )
        check_rollout(rollout, config.kl.max_kl, self.method.name, iteration)
        confirm_checkpoint(work.path / "checkpoint")
        targets = self.method.targets(rollout, progress.coefficient)
        laps.ended("read")
        rates = config.rates(iteration)
        learnt = learn(
            self.networks, optimizer, self.method, rollout, targets, config, rates, number, self.mix
        )  # fmt: skip
        laps.ended("update")
        used = rollout.own_answers
        progress.totals.update(
            samples=used + feedback.unanswered + feedback.discarded + feedback.by_opponent,
            queries=feedback.queries,
            tokens=feedback.tokens,
        )
        metrics = learnt | dict(metrics) | dict(targets.metrics) | laps.shares | {
            "kl_coef": progress.coefficient, "lr": rates[0],
            "tokens_per_second": int(rollout.rows.tokens.sum()) / laps.seconds,
        }  # fmt: skip
        if self.method.redraws:
            metrics["objective/discarded"] = float(feedback.discarded)
        progress.step += 1
        progress.coefficient = config.kl.after(progress.coefficient, rollout.kl, used)
        progress.difference = difference if progress.difference is None else progress.difference
        return metrics

    def _draw(
        self, iteration: int, sampler: Sampler, on_progress: Callable[[float], None] = lambda share: None,
        ended: Callable[[str], None] = lambda lap: None,
    ) -> Feedback:  # fmt: skip
        """An iteration's answers, and what the oracle says of them and of those that are drawn in their place."""
        oracle, journals = self.oracle, self.work.path / "scores" / str(iteration)
        number = self.resumed.iterations + iteration - self.resumed.begun
        answers = sampler.sample(number, on_progress)
        ended("draw")
        if oracle is None:
            return Feedback(answers, None, 0, 0, tokens=int(answers.lengths.sum()))
        if self.method.feedback == "comparisons":
            feedback = comparisons_of(self.method, answers, oracle, journals, self.work)
            ended("score")
            return feedback
        assert isinstance(oracle, Scorer)

        def ask(some: Answers, least: int = 0) -> Feedback:
            return scores_of(some, oracle, journals, self.work, best_of=self.method.best_of, least=least)

        feedback = draw_again(ask(answers, least=2), sampler, number, self.method.redraws, ask)
        ended("score")  # and drawing again, where the method does
        return feedback
