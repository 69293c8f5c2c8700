"""Answers that are sampled and scored while the iteration before is learnt from (`stale: 1`)."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Policy, RewardModel, Scorer
from tasks.rollouts import loop, trainer
from tasks.rollouts.ahead import Ahead, OneAhead, TrainingEnded
from tasks.rollouts.answers import Feedback
from tasks.rollouts.pending import FILE, load_feedback, save_feedback
from tasks.rollouts.refusals import check_off_policy
from tasks.rollouts.rollout import read_rollout
from tasks.rollouts.settings import RolloutConfig
from tests.tasks.rollouts.small import files_of, grouped, plain_curves, run
from tests.workspace import Killed, Mortal, Workspace


def test_each_iterations_answers_are_sampled_by_the_policy_that_the_one_before_starts_from() -> None:
    """Weights are counted by updates: the first two iterations are sampled with the first ones."""
    weights = 0
    engine: list[int] = []
    sampled: list[tuple[int, int]] = []
    laps: list[str] = []

    def draw(iteration: int, check: Any) -> Any:
        check()
        sampled.append((iteration, engine[-1]))
        return iteration

    source = OneAhead(lambda: engine.append(weights), draw, 4, None)
    for iteration in range(4):
        assert source.of(iteration, laps.append) == iteration
        weights += 1
    assert sampled == [(0, 0), (1, 0), (2, 1), (3, 2)]
    assert source.pending() is None
    assert laps == ["draw", "push", "draw", *["draw", "push"] * 3]
    resumed = OneAhead(lambda: engine.append(7), draw, 4, 2)  # type: ignore[arg-type]
    assert [resumed.of(2, laps.append), resumed.of(3, laps.append), sampled[4:]] == [2, 3, [(3, 7)]]
    for one in (source, resumed):
        one.stop()


def test_the_thread_raises_its_own_errors_and_stops_at_the_next_check() -> None:
    ahead: Ahead[int] = Ahead()

    def fail() -> int:
        raise DataError("the oracle is gone")

    ahead.begin(fail)
    with pytest.raises(DataError, match="the oracle is gone"):
        ahead.result()
    entered = threading.Event()

    def endless() -> int:
        while True:
            entered.set()
            ahead.check()

    ahead.begin(endless)
    entered.wait()
    assert ahead.stop(10.0)
    with pytest.raises(TrainingEnded):
        ahead.result()


def _observed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rollouts that a training reads."""
    rollouts: list[Any] = []

    def read(*args: Any, **named: Any) -> Any:
        rollouts.append(found := read_rollout(*args, **named))
        return found

    monkeypatch.setattr(trainer, "read_rollout", read)
    return rollouts


def test_the_ratio_is_one_to_the_policy_that_sampled(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of iteration 2 are one update old: the engine's log-probabilities are not those that are read."""
    rollouts = _observed(monkeypatch)
    work, fresh = Workspace(tmp_path / "stale"), Workspace(tmp_path / "fresh")
    grouped(policy, work, stale=1, lr=3e-3)
    grouped(policy, fresh, lr=3e-3)
    moves = [float((r.rollout.stale_logps - r.rollout.logps).abs().max()) for r in rollouts[:4]]
    assert moves[0] < 1e-4
    assert min(moves[1:]) > 1e-3
    assert all(r.rollout.stale_logps is None for r in rollouts[4:])
    differences = [row["sampler/logp_difference"] for _, row in work.curves]
    assert differences[0] == fresh.curves[0][1]["sampler/logp_difference"] < 1e-5 < 1e-4 < min(differences[1:])
    first, own = (plain_curves(w)[0][1] for w in (work, fresh))
    assert first == pytest.approx(own, abs=1e-4)


def test_with_a_correction_the_ratio_is_one_to_the_newest_policy_and_the_weight_one_to_the_older(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = _observed(monkeypatch)
    grouped(policy, Workspace(tmp_path), stale=1, lr=3e-3, correction="truncate", iterations=3)
    for read in rollouts:
        rollout = read.rollout
        assert rollout.stale_logps is None
        expected = torch.exp(rollout.logps - rollout.answers.sampler_logps).clamp(max=2)
        torch.testing.assert_close(rollout.weights, expected)
    assert float((rollouts[-1].rollout.weights - 1).abs().max()) > 1e-3


def test_answers_come_to_be_what_the_oracle_likes(policy: Policy, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    grouped(policy, work, stale=1, iterations=12, lr=3e-3, k=8, kl_coef=0.01)
    scores = [row["objective/scores"] for _, row in work.curves]
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.3


def test_an_interrupted_training_ends_in_the_same_bytes(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    """`ppo`, with a value network; the answers of the next iteration are in each checkpoint."""
    options: dict[str, Any] = {"iterations": 7, "checkpoint_every": 2, "stale": 1, "epochs": 1}
    straight = Workspace(tmp_path / "straight")
    expected = run(policy, value, straight, **options)
    for at in (1, 3, 6):
        with pytest.raises(Killed):
            run(policy, value, Mortal(tmp_path / "killed", at), **options)
    assert list((tmp_path / "killed" / "work" / "checkpoint").glob(f"*/{FILE}"))
    work = Workspace(tmp_path / "killed")
    assert files_of(run(policy, value, work, **options).path) == files_of(expected.path)
    assert plain_curves(work) == plain_curves(straight)[4:]
    assert work.totals == straight.totals


def test_a_kill_costs_no_question_twice(policy: Policy, tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(prompts: list[Any], texts: list[str], truths: list[Any]) -> list[float | None]:
        asked.append(len(texts))
        return [-len(t) / 10 for t in texts]

    options: dict[str, Any] = {"iterations": 5, "oracle": Scorer.scoring(counted), "checkpoint_every": 2, "stale": 1}
    grouped(policy, Workspace(tmp_path / "straight"), **options)
    straight = asked.copy()
    asked.clear()
    for at in (3, 9):
        with contextlib.suppress(Killed):
            grouped(policy, Mortal(tmp_path / "killed", at), **options)
    assert len(straight) == 5
    assert asked == straight


def test_an_error_of_the_oracle_surfaces_as_itself(policy: Policy, tmp_path: Path) -> None:
    calls: list[int] = []

    def fails_later(prompts: list[Any], texts: list[str], truths: list[Any]) -> list[float | None]:
        calls.append(len(texts))
        if len(calls) == 3:
            raise DataError("no answer from the judge")
        return [-len(t) / 10 for t in texts]

    work = Workspace(tmp_path)
    with pytest.raises(DataError, match="no answer from the judge"):
        grouped(policy, work, oracle=Scorer.scoring(fails_later), stale=1)
    assert [step for step, _ in work.curves] == [1, 2]
    assert not [t for t in threading.enumerate() if t.name == "rollouts"]


def test_pending_answers_are_read_as_they_were_written(policy: Policy, tmp_path: Path) -> None:
    kept: list[Feedback] = []
    real = loop.save_feedback

    def save(feedback: Feedback, folder: Path) -> None:
        kept.append(feedback)
        real(feedback, folder)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "save_feedback", save)
        grouped(policy, Workspace(tmp_path), stale=1, iterations=2, checkpoint_every=1)
    save_feedback(kept[0]._replace(members={"length": torch.arange(12).double() / 7}), tmp_path)
    read = load_feedback(tmp_path)
    assert read is not None
    requests, own = ([r._replace(prompt_tokens=list(r.prompt_tokens)) for r in f.answers.requests]
                     for f in (read, kept[0]))  # fmt: skip
    assert (requests, read.answers.sampled) == (own, kept[0].answers.sampled)
    assert read.answers.table == kept[0].answers.table
    assert read.answers.groups.tolist() == kept[0].answers.groups.tolist()
    assert torch.equal(read.scores, kept[0].scores)  # type: ignore[arg-type]
    assert torch.equal(read.members["length"], torch.arange(12).double() / 7)
    assert read[2:6] == kept[0][2:6]
    assert load_feedback(tmp_path / "nowhere") is None


def test_what_stale_answers_cannot_be_is_refused(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=r"stale = 1 needs temperature 1, not 0\.7"):
        RolloutConfig(stale=1, temperature=0.7)

    class Pairs:
        name, couples, clip, reads_divergences = "online_dpo", True, None, False

    class Full:
        name, couples, clip, reads_divergences = "distill", False, (0.2, 0.2), True

    for config in (RolloutConfig(stale=1), RolloutConfig(correction="mask")):
        with pytest.raises(SpecError, match="`online_dpo` learns from pairs of answers"):
            check_off_policy(Pairs(), config)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"the loss of `distill` has no ratio.*needs a `correction`"):
        check_off_policy(Full(), RolloutConfig(stale=1))  # type: ignore[arg-type]
    check_off_policy(Full(), RolloutConfig(stale=1, correction="truncate"))  # type: ignore[arg-type]
    check_off_policy(Pairs(), RolloutConfig())  # type: ignore[arg-type]
    monkeypatch.setattr("tasks.rollouts.refusals.join", lambda: type("Two", (), {"world": 2}))
    with pytest.raises(SpecError, match="stale = 1 is for a process alone"):
        check_off_policy(Full(), RolloutConfig(stale=1, correction="truncate"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_vllm_samples_in_the_thread_too(policy: Policy, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    work = Workspace(tmp_path)
    grouped(policy, work, stale=1, engine=Chosen("engines", "vllm", {}), iterations=4, lr=3e-3)
    differences = [row["sampler/logp_difference"] for _, row in work.curves]
    assert differences[0] < 1e-4 < min(differences[1:])
