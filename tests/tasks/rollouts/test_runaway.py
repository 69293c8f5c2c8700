"""A training that breaks stops with a cause, and with the last state that was good."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import DataError
from tasks.kinds import Policy
from tasks.rollouts import trainer
from tasks.rollouts.answers import Answers
from tasks.rollouts.divergence import Diverged, check_rollout, check_update
from tasks.rollouts.method import Rollout
from tasks.sampling.requests import Request, SampledAnswer
from tests.tasks.rollouts.small import files_of, grouped, plain_curves
from tests.workspace import Workspace


def _rollout(lengths: list[int], log_ratio: float, logp: float = -1.0) -> Rollout:
    sampled = [SampledAnswer("", [5] * n, [logp] * n, "stop") for n in lengths]
    requests, groups = [Request([1], 0, 99)] * len(lengths), np.zeros(len(lengths), np.int64)
    answers = Answers(requests, sampled, pa.table({}), groups, groups > 0)
    logps = torch.full((sum(lengths),), logp).double()
    return Rollout(answers, None, logps, logps - log_ratio, None)


def test_the_bound_is_one_of_a_token_and_short_answers_count_as_ten() -> None:
    """20 tokens at 2.9 nats each, 4 at 7.4: below 3 per token, of 20 and of 10."""
    for rollout in (_rollout([10, 30], 2.9), _rollout([4, 4], 7.4), _rollout([4], -50.0)):
        check_rollout(rollout, 3.0, "grpo", 0)
    check_rollout(_rollout([10, 30], 100.0), None, "grpo", 0)
    with pytest.raises(Diverged, match=r"`grpo` broke in iteration 7: KL\(policy ‖ reference\) is 62 nats per answer "
                                       r"\(allowed: max_kl = 3 per token, 60 here\)"):  # fmt: skip
        check_rollout(_rollout([10, 30], 3.1), 3.0, "grpo", 6)
    with pytest.raises(Diverged, match=r"is 30\.4 nats per answer .* 30 here"):
        check_rollout(_rollout([4], 7.6), 3.0, "grpo", 0)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(Diverged, match="own answers are not finite") as read:
        check_rollout(_rollout([3], 0.0, float("nan")), None, "ppo", 0)
    with pytest.raises(Diverged, match=r"`ppo` broke in iteration 3: grad_norm is inf. Likely causes: lr") as updated:
        check_update({"grad_norm": float("inf"), "loss/policy": 1.0}, "ppo", 2)
    assert (read.value.suspect, updated.value.suspect) == (True, False)


def _breaking(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """The update of an iteration, counted from 0, adds noise to all weights."""
    real = trainer.learn

    def learn(networks: Any, *rest: Any) -> dict[str, float]:
        metrics = real(networks, *rest)
        if rest[-2] == iteration:
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in networks.policy.model.parameters():
                    parameter += torch.randn(parameter.shape)
        return metrics

    monkeypatch.setattr(trainer, "learn", learn)


def test_a_policy_that_runs_away_stops_with_the_checkpoint_from_before_it_did(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third update breaks it, its checkpoint is written, and the fourth iteration's answers show it."""
    straight = Workspace(tmp_path / "straight")
    expected = grouped(policy, straight, checkpoint_every=1)
    work = Workspace(tmp_path / "broken")
    with monkeypatch.context() as patched:
        _breaking(patched, 2)
        with pytest.raises(DataError, match=r"iteration 4: KL.*kl_coef too low.*The state after iteration 2, the "
                                            r"last good one .*step-2: the same step .*With a smaller lr"):  # fmt: skip
            grouped(policy, work, checkpoint_every=1, max_kl=0.3)
    assert [p.name for p in sorted((work.path / "checkpoint").glob("step-*"))] == ["step-2"]
    again = Workspace(tmp_path / "broken")
    assert files_of(grouped(policy, again, checkpoint_every=1, max_kl=0.3).path) == files_of(expected.path)
    assert plain_curves(again) == plain_curves(straight)[2:]


def test_an_update_that_breaks_keeps_the_checkpoint_that_it_started_from(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.learn

    def learn(networks: Any, *rest: Any) -> dict[str, float]:
        if rest[-2] == 2:
            check_update({"loss/policy": float("nan")}, "grpo", 2)
        return real(networks, *rest)

    monkeypatch.setattr(trainer, "learn", learn)
    work = Workspace(tmp_path)
    with pytest.raises(DataError, match=r"iteration 3: loss/policy is nan\. .*after iteration 2, the last good one"):
        grouped(policy, work, checkpoint_every=1)
    assert [p.name for p in (work.path / "checkpoint").glob("step-*")] == ["step-2"]
    shutil.rmtree(work.path)
    with pytest.raises(DataError, match="No state from before was stored"):
        grouped(policy, Workspace(tmp_path), checkpoint_every=9)
