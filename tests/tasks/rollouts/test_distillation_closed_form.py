"""Distillation has one optimum, the teacher: the real `distill` must come near it, by either estimator and discount."""

from pathlib import Path

import pytest

from tests.enumerable import kl
from tests.flat import distill
from tests.tasks.rollouts.letters import letters_distribution, letters_policy, letters_prompts
from tests.tasks.rollouts.small import CLIPPED, TRANSFORMERS
from tests.workspace import Workspace


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "discount"), [("sampled", 0.0), ("sampled", 1.0), ("full", 0.0), ("full", 1.0)])
def test_the_student_reaches_the_teacher(estimator: str, discount: float, tmp_path: Path) -> None:
    """From 1.0 and 1.6 nats away; the teacher is of another width and depth."""
    student = letters_policy(tmp_path / "student")
    teacher = letters_policy(tmp_path / "teacher", seed=3, hidden=96, std=0.15)
    target = letters_distribution(teacher, tmp_path)
    start = letters_distribution(student, tmp_path)
    assert kl(start, target) > 0.5 < kl(target, start)
    trained = distill(
        student, teacher, letters_prompts(), Workspace(tmp_path / "distill"), iterations=300, prompts_per_iteration=4,
        k=64, lr=1e-3, estimator=estimator, discount=discount, objective=CLIPPED, engine=TRANSFORMERS, epochs=1,
        minibatches=2, max_tokens=3, checkpoint_every=10**6,
    )  # fmt: skip
    found = letters_distribution(trained, tmp_path)
    assert kl(found, target) < 0.05 > kl(target, found)
