"""Every method, killed at any moment and started again, ends in the bytes of a training that nothing disturbed.

The methods' own tests kill each of them once between two iterations, in the fast suite.
"""

import random
import shutil
import time
from pathlib import Path

import pytest

from tasks.kinds import Policy, RewardModel
from tests.forked_ranks import kill_forked_ranks, on_forked_ranks
from tests.tasks.rollouts.methods import METHODS, run_method
from tests.tasks.rollouts.small import files_of, plain_curves
from tests.workspace import Killed, Mortal, Workspace


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_killed_while_it_samples_ends_in_the_same_bytes(
    method: str, policy: Policy, value: RewardModel, teacher: Policy, tmp_path: Path
) -> None:
    """In the third iteration, behind a checkpoint."""
    straight, folder = Workspace(tmp_path / "straight"), tmp_path / "killed"
    options = {"iterations": 3, "checkpoint_every": 2, "teacher": teacher}
    expected = run_method(method, policy, value, straight, **options)
    with pytest.raises(Killed):
        run_method(method, policy, value, Mortal(folder, done=2.2), **options)
    work = Workspace(folder)
    assert files_of(run_method(method, policy, value, work, **options).path) == files_of(expected.path)
    assert plain_curves(work) == plain_curves(straight)[2:]
    assert work.totals == straight.totals


def attempt(method: str, policy: Policy, value: RewardModel, teacher: Policy, folder: Path) -> None:
    run_method(method, policy, value, Workspace(folder), checkpoint_every=1, iterations=8, teacher=teacher)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_whose_process_is_killed_at_random_moments_ends_in_the_same_bytes(
    method: str, policy: Policy, value: RewardModel, teacher: Policy, tmp_path: Path
) -> None:
    """SIGKILL, after a random part of what a whole training takes, until an attempt ends by itself. Each attempt gets a
    third more time than the one before, so that the test ends on any machine."""
    moments, folder = random.Random(0), tmp_path / "killed"
    for name in ("first", "straight"):  # the first one also pays for imports, so that the second one is timed
        begun = time.monotonic()
        on_forked_ranks(tmp_path, attempt, method, policy, value, teacher, tmp_path / name, world=1, seconds=900)
    whole, kills = time.monotonic() - begun, 0
    while not kill_forked_ranks(
        tmp_path, attempt, method, policy, value, teacher, folder, world=1, env={}, rank=0,
        pause=whole * moments.uniform(0.05, 0.4) * 1.3**kills,
    ):  # fmt: skip
        kills += 1
    assert kills > 0
    assert files_of(folder / "output") == files_of(tmp_path / "straight" / "output")
    shutil.rmtree(folder)
