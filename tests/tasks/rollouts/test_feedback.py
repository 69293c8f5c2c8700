"""Which answers are learnt from: the best of several, worked by hand; members of an ensemble; what a kill costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import Chosen
from tasks.kinds import Policy, RewardModel, Scorer
from tasks.rollouts import feedback
from tasks.scorers import ensemble
from tests.tasks.rollouts.small import plain_curves, run
from tests.workspace import Killed, Workspace

NAN = float("nan")


def test_of_each_n_answers_the_best_is_taken_and_none_where_all_are_without_a_score() -> None:
    scores = np.array([1.0, 3.0, 2.0, NAN, NAN, NAN, 5.0, NAN, 5.0])
    assert feedback.best_of_each(scores, 3).tolist() == [1, 6]  # of equal ones the first
    assert feedback.best_of_each(scores, 1).tolist() == [0, 1, 2, 6, 8]
    assert feedback.best_of_each(np.array([NAN, NAN]), 2).tolist() == []


def test_best_of_learns_from_the_best_and_counts_all_that_it_sampled(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    """4 prompts × 3 answers, each the best of 4: 48 samples and questions an iteration, 12 answers learnt from."""
    seen: list[int] = []

    def brevity(asked: Any, texts: list[str], truths: Any) -> list[float]:
        seen.append(len(texts))
        return [-len(t) / 10 for t in texts]

    work = Workspace(tmp_path)
    run(policy, value, work, iterations=1, best_of=4, oracle=Scorer.scoring(brevity))
    row = work.curves[0][1]
    assert work.totals["samples"] == 48
    assert work.totals["queries"] == sum(seen) <= 48
    assert work.totals["tokens"] > 12 * row["val/length"]
    once = Workspace(tmp_path / "once")
    run(policy, value, once, iterations=1, k=12)  # the same draws, all learnt from
    assert row["objective/scores"] > once.curves[0][1]["objective/scores"] + 0.1


def test_a_weighted_reward_reports_its_members_and_a_kill_asks_and_reports_nothing_twice(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    """Dies inside the second iteration's questions, of which five at a time are stored."""
    answered: list[int] = []

    def oracle(name: str, mortal_after: float) -> Scorer:
        def brevity(asked: Any, texts: list[str], truths: Any) -> list[float]:
            if sum(answered) >= mortal_after:
                raise Killed
            answered.append(len(texts))
            return [-len(t) / 10 for t in texts]

        (tmp_path / name).mkdir()
        members = [
            Scorer.scoring(brevity), Chosen("oracles", "format_reward", {"expression": "[a-m ].*"})(),
            Chosen("oracles", "length_penalty", {"most": 2, "price": 0.5})(),
        ]  # fmt: skip
        names = ["short", "form", "long"]
        made = ensemble(members, Workspace(tmp_path / name), how="weighted", weights=[1, 1, 2], names=names)
        live: Scorer = made.open()
        live.questions_per_call = 5
        return live

    straight = Workspace(tmp_path / "straight")
    run(policy, value, straight, oracle=oracle("whole", np.inf), best_of=2)
    row, whole = straight.curves[0][1], sum(answered)
    total = row["rewards/short/mean"] + row["rewards/form/mean"] + 2 * row["rewards/long/mean"]
    assert row["objective/scores"] == pytest.approx(total)
    assert row["rewards/short/std"] > 0
    answered.clear()
    with pytest.raises(Killed):
        run(policy, value, Workspace(tmp_path / "killed"), oracle=oracle("mortal", 35), best_of=2, checkpoint_every=1)
    assert sum(answered) < whole
    work = Workspace(tmp_path / "killed")
    run(policy, value, work, oracle=oracle("healthy", np.inf), best_of=2, checkpoint_every=1)
    assert sum(answered) == whole
    assert work.totals == straight.totals
    assert plain_curves(work) == plain_curves(straight)[-len(work.curves) :]
