"""Trainings whose engine has other log-probabilities than the trainer: measured, refused, corrected on request."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tasks.contract import DataError, SpecError
from tasks.engines.transformers import TransformersEngine
from tasks.kinds import Policy
from tasks.rollouts import trainer
from tasks.rollouts.networks import read_tokens
from tests.enumerable import kl
from tests.flat import rloo
from tests.tasks.rollouts.letters import (
    ANSWERS,
    letters_distribution,
    letters_oracle,
    letters_policy,
    letters_prompts,
)
from tests.tasks.rollouts.optima import optimum
from tests.tasks.rollouts.small import CLIPPED, FIXED, TRANSFORMERS, files_of, grouped, plain_curves
from tests.workspace import Workspace


def _disturb(monkeypatch: pytest.MonkeyPatch, factor: float = 1.25) -> None:
    """The engine multiplies its logits, as a temperature of 1/factor does, and records what it samples from."""
    real = TransformersEngine.update

    def update(self: TransformersEngine, weights: Iterable[tuple[str, Tensor]], *rest: Any) -> None:
        real(self, [(n, factor * t if n == "lm_head.weight" else t) for n, t in weights], *rest)

    monkeypatch.setattr(TransformersEngine, "update", update)


def test_a_disturbed_engine_is_refused_unless_the_bound_is_raised_and_its_tokens_are_weighted_on_request(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _disturb(monkeypatch)
    with pytest.raises(DataError, match=r"differ by .* nats per token in the mean \(allowed: 0\.05\)"):
        grouped(policy, Workspace(tmp_path / "refused"), iterations=1)
    made = {}
    for name, options in {"none": {}, "truncate": {}, "mask": {"ratio_floor": 0.9, "ratio_cap": 1.1}}.items():
        work = Workspace(tmp_path / name)
        made[name] = grouped(policy, work, iterations=1, max_mismatch=1.0, correction=name, **options)
        row = work.curves[0][1]
        assert row["sampler/kl_k3"] > 0.005
        assert row["sampler/ratio_min"] < row["sampler/ratio_mean"] < row["sampler/ratio_max"]
        assert 0 < row["sampler/effective_share"] < 1
        assert row.get("sampler/corrected", -1) == -1 if name == "none" else row["sampler/corrected"] >= 0
    weights = {(p.path / "model.safetensors").read_bytes() for p in made.values()}
    assert len(weights) == 3


def test_a_correction_changes_no_bit_where_engine_and_trainer_agree_exactly(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.read_rollout

    def agreeing(networks: Any, feedback: Any, *rest: Any, **named: Any) -> Any:
        own = read_tokens(networks, feedback.answers.rows, {"policy": networks.policy})["policy"].double()
        feedback.answers.__dict__["sampler_logps"] = own
        return real(networks, feedback, *rest, **named)

    monkeypatch.setattr(trainer, "read_rollout", agreeing)
    made, rows = [], []
    for options in ({}, {"correction": "truncate"}, {"correction": "mask", "correction_level": "sequence"}):
        work = Workspace(tmp_path / "-".join(["run", *options.values()]))
        made.append(files_of(grouped(policy, work, iterations=2, **options).path))
        rows.append([row for _, row in plain_curves(work)])
        assert all(row.pop("sampler/corrected", 0.0) == 0 for row in rows[-1])
    assert made[0] == made[1] == made[2]
    assert rows[0] == rows[1] == rows[2]


def test_a_correction_at_another_temperature_is_refused(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"correction = truncate needs temperature 1, not 0\.7"):
        grouped(policy, Workspace(tmp_path), temperature=0.7, correction="truncate")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_correction_leads_a_training_on_a_disturbed_engine_to_its_optimum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLOO with the KL of each token as a loss, whose optimum is one under the policy's own answers. Where the price is
    that of whole answers, the optimum has no advantage anywhere, so that any sampler finds it. Weights of tokens alone
    do not make up for the answers' beginnings, which the engine draws."""
    ref = letters_policy(tmp_path / "ref")
    log_ref = letters_distribution(ref, tmp_path)
    rewards = np.random.default_rng(5).normal(size=log_ref.shape)
    target = optimum("token_k3", log_ref, rewards, 0.5, ANSWERS)
    _disturb(monkeypatch)
    distances = {}
    for name, options in {
        "none": {}, "token": {"correction": "truncate"},
        "answer": {"correction": "truncate", "correction_level": "sequence", "ratio_cap": 10.0},
    }.items():  # fmt: skip
        trained = rloo(
            ref, letters_prompts(), letters_oracle(rewards), Workspace(tmp_path / name), ref, iterations=800,
            prompts_per_iteration=4, k=256, lr=2e-3, schedule="cosine", kl_coef=0.5, kl_form="token_k3",
            engine=TRANSFORMERS, objective=CLIPPED, kl_controller=FIXED, missing_eos_penalty=0.0,
            max_tokens=3, checkpoint_every=10**6, max_mismatch=5.0,
            **options,
        )  # fmt: skip
        distances[name] = kl(letters_distribution(trained, tmp_path), target)
    print(distances)
    assert distances["answer"] < min(distances["none"] / 2, distances["token"])
    assert distances["answer"] < 0.02
