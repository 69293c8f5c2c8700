"""What a later round draws: the same course goes on, another one repeats nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Policy, RewardModel
from tasks.rl import value_of
from tasks.rollouts.noise import DEMONSTRATIONS, MINIBATCHES, PROMPTS, shuffled
from tasks.sampling.requests import Request
from tests.tasks.rollouts.small import prompts, run
from tests.workspace import Workspace

Asked = list[tuple[tuple[int, ...], int]]
"""Prompt and seed of every draw."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found: Asked = []
    real = TransformersEngine.generate

    def generate(self: TransformersEngine, requests: Sequence[Request], *rest: Any) -> Any:
        found.extend((tuple(r.prompt_tokens), r.seed) for r in requests)
        return real(self, requests, *rest)

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    return found


@pytest.mark.parametrize("other", [{"prompts_per_iteration": 1, "k": 2}, {"prompts": prompts(4)}])
def test_a_round_of_another_size_repeats_no_draw_of_the_one_before(
    other: dict[str, Any], asked: Asked, policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    """A first round of 5 × 4 prompts is in its fourth pass through 6; then the old size again."""
    first = run(policy, value, Workspace(tmp_path / "1"), iterations=5)
    second = run(first, None, Workspace(tmp_path / "2"), iterations=2, ref=policy, **other)
    run(second, None, Workspace(tmp_path / "3"), iterations=3, ref=policy)
    assert len(set(asked)) == len(asked)


def test_a_round_of_another_stream_goes_on_with_the_order_of_prompts(
    asked: Asked, policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    run(policy, value, Workspace(tmp_path / "whole"), iterations=5)
    whole, asked[:] = list(asked), []
    half = run(policy, value, Workspace(tmp_path / "1"), iterations=2)
    run(half, value_of(half), Workspace(tmp_path / "2"), iterations=3, ref=policy, stream=2)
    assert [p for p, _ in asked] == [p for p, _ in whole]
    assert asked[:24] == whole[:24]
    assert not set(asked[24:]) & set(whole)


def test_a_refused_round_that_is_tried_again_as_another_stream_is_another_candidate(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    made = [run(policy, value, Workspace(tmp_path / str(n)), iterations=1, stream=n) for n in (1, 2, 1)]
    weights = [(p.path / "model.safetensors").read_bytes() for p in made]
    assert weights[0] == weights[2] != weights[1]


def test_each_purpose_has_shuffles_of_its_own() -> None:
    """[seed, i] and [seed, i, 0] are one stream to NumPy."""
    made = [
        tuple(shuffled(20, 0, purpose, i, *more).tolist())
        for purpose, more in ((PROMPTS, ()), (MINIBATCHES, (0,)), (DEMONSTRATIONS, ()))
        for i in range(4)
    ]
    assert len(set(made)) == len(made)
