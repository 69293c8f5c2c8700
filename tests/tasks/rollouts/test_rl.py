"""ppo as a task: what it learns, kills, rounds that go on exactly, what is kept, refusals."""

import contextlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Policy, RewardModel, Scorer
from tasks.rl import checkpoint_at, value_of
from tasks.rollouts import trainer, update
from tasks.rollouts.networks import Networks
from tests.models import TEXTS, tiny_policy
from tests.tasks.rollouts.small import ADAPTIVE, TIMING, files_of, plain_curves, prompts, run, value_from
from tests.tasks.training.tables import demonstrations
from tests.workspace import Killed, Mortal, Workspace

HALVING = Chosen("kl_controllers", "halving", {})


def _curve(work: Workspace, name: str) -> list[float]:
    return [row[name] for _, row in work.curves]


def test_answers_come_to_be_what_the_oracle_likes(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    run(policy, value, work, iterations=12, lr=3e-3, k=8, kl_coef=0.01)
    scores = _curve(work, "objective/scores")
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.3
    assert _curve(work, "objective/kl")[0] == 0 < 0.2 < _curve(work, "objective/kl")[-1]


def test_curves_have_the_fields_names_and_start_where_nothing_has_moved(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    work = Workspace(tmp_path)
    run(policy, value, work, epochs=1)
    assert set(work.curves[0][1]) == {
        "objective/kl", "objective/kl_k3", "objective/entropy", "objective/scores", "objective/scores_std",
        "objective/non_score_reward", "objective/rlhf_reward", "objective/unanswered", "policy/approx_kl",
        "policy/clip_frac", "loss/policy", "loss/value", "value/clip_frac", "val/explained_variance", "val/finished",
        "val/length", "sampler/logp_difference", "sampler/logp_difference_max", "sampler/ratio_mean",
        "sampler/ratio_min", "sampler/ratio_max", "sampler/effective_share", "sampler/kl", "sampler/kl_k3", "grad_norm",
        "value/grad_norm", "kl_coef", "lr", *TIMING,
    }  # fmt: skip
    for _, row in work.curves:
        assert sum(row[name] for name in TIMING if name.startswith("time/")) == pytest.approx(1)
    assert [step for step, _ in work.curves] == [1, 2, 3, 4]
    for name in ("policy/approx_kl", "policy/clip_frac", "value/clip_frac"):  # one update per rollout: before it
        assert _curve(work, name) == pytest.approx([0, 0, 0, 0], abs=1e-9)
    assert max(_curve(work, "sampler/logp_difference_max")) < 1e-4
    first = work.curves[0][1]
    cut = 1 - first["val/finished"]
    assert first["objective/rlhf_reward"] == pytest.approx(first["objective/scores"] - cut, abs=1e-6)
    assert work.totals["samples"] == work.totals["queries"] == 4 * 4 * 3
    assert work.totals["tokens"] == pytest.approx(12 * sum(_curve(work, "val/length")))


def test_the_price_follows_its_controller(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    """Below the target of 0.5 nats, each iteration of 12 answers takes 12/100 of 20% off."""
    work = Workspace(tmp_path)
    run(policy, value, work, kl_controller=ADAPTIVE, lr=1e-5)
    assert max(_curve(work, "objective/kl")) < 0.1
    assert _curve(work, "kl_coef") == pytest.approx([0.05 * (1 - 0.024) ** i for i in range(4)])


def test_an_interrupted_training_ends_in_the_same_bytes(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "iterations": 7, "checkpoints": [2, 6], "kl_controller": ADAPTIVE, "checkpoint_every": 2, "schedule": "linear",
        "demonstrations": demonstrations(), "sft": 0.1, "sft_batch": 4,
    }  # fmt: skip
    straight = Workspace(tmp_path / "straight")
    expected = run(policy, value, straight, **options)
    for at in (1, 3, 6):
        with pytest.raises(Killed):
            run(policy, value, Mortal(tmp_path / "killed", at), **options)
    work = Workspace(tmp_path / "killed")
    found = run(policy, value, work, **options)
    assert files_of(found.path) == files_of(expected.path)
    assert plain_curves(work) == plain_curves(straight)[4:]
    assert work.totals == straight.totals
    assert {"value", "state", "checkpoints"} == {p.name for p in found.path.iterdir() if p.is_dir()}


def test_a_kill_costs_no_question_twice(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    asked: list[int] = []

    def counted(prompts: list[Any], told: list[str], truths: list[Any]) -> list[float | None]:
        asked.append(len(told))
        return [-len(t) / 10 if t else None for t in told]

    for at in (3, 4, 9):
        with contextlib.suppress(Killed):
            run(policy, value, Mortal(tmp_path, at), iterations=5, oracle=Scorer.scoring(counted), checkpoint_every=2)
    assert asked == [12] * 5


def test_two_rounds_are_one_training(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    """At a constant rate: prompts, draws, shuffles, the price and Adam's moments all go on."""
    options: dict[str, Any] = {"ref": policy, "kl_controller": ADAPTIVE, "minibatches": 2}
    whole = Workspace(tmp_path / "whole")
    expected = run(policy, value, whole, iterations=5, **options)
    first = Workspace(tmp_path / "first")
    half = run(policy, value, first, iterations=2, **options)
    second = Workspace(tmp_path / "second")
    found = run(half, value_of(half), second, iterations=3, **options)
    assert files_of(found.path) == files_of(expected.path)
    assert [row for _, row in plain_curves(first) + plain_curves(second)] == [row for _, row in plain_curves(whole)]


def test_without_a_value_port_the_policys_own_network_goes_on(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    first = run(policy, value, Workspace(tmp_path / "first"), iterations=1)
    told, silent = (
        run(first, network, Workspace(tmp_path / name), iterations=1, ref=policy)
        for name, network in (("told", value_of(first)), ("silent", None))
    )
    assert files_of(told.path) == files_of(silent.path)


def test_another_price_or_another_value_network_begins_anew(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    first = run(policy, value, Workspace(tmp_path / "first"), iterations=3, kl_controller=ADAPTIVE)
    dearer = Workspace(tmp_path / "dearer")
    run(first, None, dearer, iterations=1, ref=policy, kl_controller=ADAPTIVE, kl_coef=0.2)
    assert _curve(dearer, "kl_coef") == [0.2]
    other = run(first, value, Workspace(tmp_path / "other"), iterations=1, ref=policy)
    fresh = run(policy, value, Workspace(tmp_path / "fresh"), iterations=1)
    steps = [_adam_steps(p) for p in (first, other, fresh)]
    assert steps == [{6.0}, {2.0}, {2.0}]


def _adam_steps(policy: Policy) -> set[float]:
    from safetensors.torch import load_file

    state = load_file(policy.path / "state" / "optimizer.safetensors")
    return {float(v) for k, v in state.items() if k.endswith(".step")}


def test_moments_stay_away_where_nobody_wants_them(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    made = run(policy, value, Workspace(tmp_path), iterations=1, keep_optimizer=False)
    assert list(files_of(made.path / "state")) == ["progress.json"]


def test_a_checkpoint_is_the_policy_that_training_that_long_gives(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    long = run(policy, value, Workspace(tmp_path / "long"), iterations=4, checkpoints=[2, 4])
    short = run(policy, value, Workspace(tmp_path / "short"), iterations=2)
    weights = [(p.path / "model.safetensors").read_bytes() for p in (checkpoint_at(long, step=2), short)]
    assert weights[0] == weights[1]
    assert files_of(checkpoint_at(long, step=4).path).items() <= files_of(long.path).items()
    with pytest.raises(DataError, match=r"no checkpoint of step 3: kept are \[2, 4\]. Set `checkpoints: \[3, …\]`"):
        checkpoint_at(long, step=3)


def test_a_policy_that_ppo_did_not_make_has_neither_checkpoints_nor_value(policy: Policy) -> None:
    with pytest.raises(DataError, match=r"none was kept \(it holds the weights alone\)"):
        checkpoint_at(policy, step=1)
    with pytest.raises(DataError, match=r"has no value/: it holds the weights alone.*feed the reward model itself"):
        value_of(policy)


def test_without_any_value_network_both_ways_to_one_are_told(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"feed `value` with a reward model .*or with `\{task: value_of"):
        run(policy, None, Workspace(tmp_path))


def test_a_value_start_of_another_tokenizer_is_refused_before_anything_is_drawn_and_serves_as_oracle(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    other = value_from(tiny_policy(tmp_path / "p", texts=TEXTS[:2], vocab=300), tmp_path / "v")
    work = Workspace(tmp_path / "refused")
    with pytest.raises(DataError, match=r"`value` at .* reads the policy's own ids.*As `oracle` this one serves"):
        run(policy, other, work)
    assert (work.progress_calls, list(work.path.iterdir())) == ([], [])
    run(policy, value, Workspace(tmp_path / "serves"), oracle=other, iterations=1)


def test_a_reference_of_another_tokenizer_is_refused(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    ref = tiny_policy(tmp_path / "p", texts=TEXTS[:2], vocab=300)
    with pytest.raises(DataError, match=r"`ref` at .*different tokens"):
        run(policy, value, Workspace(tmp_path), ref=ref)


def test_a_value_network_that_cannot_read_that_far_is_refused(policy: Policy, tmp_path: Path) -> None:
    short = value_from(tiny_policy(tmp_path / "p", positions=16), tmp_path / "v")
    with pytest.raises(DataError, match=r"`value` at .* reads 16 positions.*smaller max_tokens"):
        run(policy, short, Workspace(tmp_path))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"checkpoints": [0, 2, 9]}, r"\[0, 9\] lie outside the iterations 1 to 4"), ({"sft": 0.1}, "come together"),
        ({"demonstrations": demonstrations()}, "come together"),
        ({"prompts_per_iteration": 1, "k": 1}, "prompts_per_iteration 1 and k 1 give one answer per iteration"),
        ({"kl_coef": 0, "kl_controller": ADAPTIVE}, "stays 0 under `adaptive`.*`kl_controller: fixed`"),
        ({"kl_coef": 0.0, "kl_controller": HALVING}, "stays 0 under `halving`.*start above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    options: dict[str, Any], text: str, policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=text):
        run(policy, value, Workspace(tmp_path), **options)


def test_without_prompts_there_is_nothing_to_draw(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no prompts to draw answers to"):
        run(policy, value, Workspace(tmp_path), prompts=prompts(0))


def test_a_diverging_training_stops_with_a_cause(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`ppo` broke in iteration \d+: .*lr is too high"):
        run(policy, value, Workspace(tmp_path), lr=1e6, max_grad_norm=1e9, iterations=6)


def test_dropout_in_the_update_is_found_out(
    policy: Policy, value: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy with dropout that someone puts into training mode behind the rollout."""
    shutil.copytree(policy.path, tmp_path / "policy")
    config = json.loads((policy.path / "config.json").read_text())
    (tmp_path / "policy" / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    real = update.learn

    def learn(networks: Networks, *rest: Any) -> dict[str, float]:
        networks.policy.model.train()
        return real(networks, *rest)

    monkeypatch.setattr(trainer, "learn", learn)
    with pytest.raises(
        DataError, match=r"policy to itself, as the rollout read it.*dropout \(a module in training mode"
    ):
        run(Policy(tmp_path / "policy"), value, Workspace(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_draws_with_the_weights_of_each_iteration(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    run(policy, value, work, engine=Chosen("engines", "vllm", {}), lr=2e-2, iterations=3)
    assert _curve(work, "objective/kl")[-1] > 1
    assert max(_curve(work, "sampler/logp_difference_max")) < 1e-3


def test_demonstrations_mixed_in_get_likelier(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    told = demonstrations()
    losses = {}
    for sft in (1e-9, 5.0):
        work = Workspace(tmp_path / str(sft))
        run(policy, value, work, lr=3e-3, epochs=1, demonstrations=told, sft=sft, sft_batch=len(told))
        losses[sft] = _curve(work, "loss/sft")
    assert losses[1e-9][0] == pytest.approx(losses[5.0][0], abs=1e-6)
    assert losses[5.0][-1] < losses[1e-9][-1] - 0.3


def test_answers_without_a_score_train_nothing_and_are_counted(
    policy: Policy, value: RewardModel, tmp_path: Path
) -> None:
    seen: list[str] = []

    def even_ones(asked: list[Any], told: list[str], truths: list[Any]) -> list[float | None]:
        seen.extend(told)
        return [None if len(t) % 2 else -len(t) / 10 for t in told]

    work = Workspace(tmp_path)
    run(policy, value, work, iterations=2, oracle=Scorer.scoring(even_ones))
    odd = [float(sum(len(t) % 2 for t in part)) for part in (seen[:12], seen[12:])]
    assert 0 < min(odd) < max(odd) < 12
    assert _curve(work, "objective/unanswered") == odd
    assert work.totals["queries"] == work.totals["samples"] == len(seen) == 24
    for answer, text in ((None, "scored 0 of 12 answers"), (float("nan"), "nan for 12 of 12 questions")):
        oracle = Scorer.scoring(lambda p, c, t, a=answer: [a] * len(c))
        with pytest.raises(DataError, match=text):
            run(policy, value, Workspace(tmp_path / str(answer)), oracle=oracle)


def test_another_temperature_still_begins_at_ratio_1(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    """Sampler log-probabilities are at temperature 1, the trainer's at 0.7: both are compared with their own kind."""
    work = Workspace(tmp_path)
    run(policy, value, work, temperature=0.7, iterations=3)
    assert max(_curve(work, "sampler/logp_difference_max")) < 1e-4


def test_rows_one_by_one_train_as_all_together(policy: Policy, value: RewardModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = [run(policy, value, Workspace(tmp_path / str(n)), iterations=2, max_tokens_per_microbatch=n) for n in (0, 1)]
    one, other = (load_file(p.path / "model.safetensors") for p in made)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-4, msg=name)
