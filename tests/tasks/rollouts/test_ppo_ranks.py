"""PPO of two ranks learns as one process does: prompts, questions and rows are shared, unequally too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.contract import Chosen, SpecError
from tasks.kinds import Policy, RewardModel, Scorer
from tasks.ranks import this_rank
from tasks.rollouts.refusals import check_ranks
from tests.forked_ranks import RankWorkspace, on_forked_ranks
from tests.tasks.rollouts.small import TIMING, files_of, run
from tests.tasks.rollouts.test_ppo_adapters import LORA, reward_adapter
from tests.tasks.training.tables import demonstrations
from tests.workspace import Killed

OPTIONS: dict[str, Any] = {
    "iterations": 2, "prompts_per_iteration": 5, "k": 3, "minibatches": 3, "epochs": 1, "lr": 1e-3, "checkpoints": [1],
    "checkpoint_every": 1, "max_tokens_per_microbatch": 64, "demonstrations": demonstrations(5), "sft": 0.5,
    "sft_batch": 3,
}  # fmt: skip
"""Two minibatches of 6 answers and one of 3: ranks get 3 and 3, or 3 and none."""
Curves = list[tuple[int, dict[str, float]]]


def learn(
    policy: Policy, value: RewardModel, folder: Path, options: dict[str, Any], dies_at: int = 0
) -> tuple[Curves, dict[str, float]]:
    """Curves and totals; the result lies in `folder`. dies_at: an iteration behind which every rank dies."""
    asked: list[tuple[str, str]] = []

    def brevity(prompts: Sequence[Any], told: Sequence[str], truths: Sequence[str | None]) -> list[float]:
        asked.extend((json.dumps(p), t) for p, t in zip(prompts, told, strict=True))
        return [-len(t) / 10 for t in told]

    work = RankWorkspace(folder)
    real = work.log

    def log(step: int, metrics: dict[str, float]) -> None:
        real(step, metrics)
        if step == dies_at:
            raise Killed

    work.log = log  # type: ignore[method-assign]
    try:
        run(policy, value, work, **{**OPTIONS, **options}, oracle=Scorer.scoring(brevity))
    except Killed:
        assert dies_at
    return [(s, {k: v for k, v in row.items() if k not in TIMING}) for s, row in work.curves], work.totals


def _alike(one: Path, two: Path, curves: Curves, expected: Curves) -> None:
    """Weights to 1e-5, curves to 1e-6; what sampler and trainer differ by is rounding itself, around a ratio of 1."""
    assert files_of(one).keys() == files_of(two).keys()
    for file in one.rglob("*.safetensors"):
        for name, tensor in load_file(file).items():
            found = load_file(two / file.relative_to(one))[name]
            torch.testing.assert_close(found, tensor, rtol=0, atol=1e-5, msg=f"{file.name} {name}")
    for (_, a), (_, b) in zip(curves, expected, strict=True):
        rounding = {name for name in a if name.startswith("sampler/")}
        of_ratio = {name for name in rounding if "ratio" in name or "share" in name}
        assert max(abs(a[name] - (name in of_ratio)) for name in rounding) < 1e-5
        assert a.keys() == b.keys()
        for name in a.keys() - rounding:
            assert a[name] == pytest.approx(b[name], abs=1e-6, rel=1e-6), name


@pytest.mark.parametrize("options", [{}, {"adapter": LORA, "lr": 1e-2, "temperature": 0.7}], ids=["whole", "adapter"])
def test_two_ranks_learn_as_one_process(
    options: dict[str, Any], policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    critic = reward_adapter(policy, tmp_path / "critic") if options else value
    (tmp_path / "one").mkdir()
    expected, totals = learn(policy, critic, tmp_path / "one", options)
    (tmp_path / "two").mkdir()
    (curves, found), _ = on_forked_ranks(tmp_path, learn, policy, critic, tmp_path / "two", options)
    _alike(tmp_path / "one" / "output", tmp_path / "two" / "output", curves, expected)
    assert found == totals


@pytest.mark.slow
def test_what_two_ranks_began_one_process_ends(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    expected, _ = learn(policy, value, tmp_path / "straight", {"iterations": 3})
    on_forked_ranks(tmp_path, learn, policy, value, tmp_path / "killed", {"iterations": 3}, 2)
    curves, _ = learn(policy, value, tmp_path / "killed", {"iterations": 3})
    _alike(tmp_path / "straight" / "output", tmp_path / "killed" / "output", curves, expected[1:])


def test_vllm_is_refused_on_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    check_ranks(Chosen("engines", "vllm", {}))
    monkeypatch.setattr("tasks.rollouts.refusals.join", lambda: this_rank()._replace(world=2))
    check_ranks(Chosen("engines", "transformers", {}))
    with pytest.raises(SpecError, match="sample with `engine: transformers`"):
        check_ranks(Chosen("engines", "vllm", {}))
