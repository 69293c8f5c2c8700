"""What the networks say of each token, against transformers alone; draws; the checks of an iteration's first update."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import DataError
from tasks.kinds import Policy, Prompts
from tasks.rollouts.answers import Answers, rows_of_answers
from tasks.rollouts.method import Rollout, Targets
from tasks.rollouts.methods.ppo import Ppo
from tasks.rollouts.networks import open_networks, read_tokens
from tasks.rollouts.sampler import PromptOrder
from tasks.rollouts.settings import (
    KeepConfig,
    KlConfig,
    LoopConfig,
    RewardConfig,
    RolloutConfig,
    SftConfig,
    UpdateConfig,
)
from tasks.rollouts.sft_mix import make_sft_mix
from tasks.rollouts.token_heads import TokenLogps
from tasks.rollouts.update import MinibatchStats, check_first, learn
from tasks.sampling.plan import Draws, sampling_plan
from tasks.sampling.requests import Request, SampledAnswer
from tasks.train import logps
from tasks.training.batches import single_row
from tasks.training.body import inputs_of
from tasks.training.model import open_model
from tasks.training.optimizer import chosen_optimizer, make_optimizer
from tasks.training.settings import GradientComputeConfig, StepConfig
from tests.tasks.rollouts.small import CLIPPED, prompts, value_from
from tests.tasks.training.tables import demonstrations, tokenized
from tests.workspace import Workspace

FLOAT32 = GradientComputeConfig("float32")
ASKED = [[1, 9, 8, 7], [1, 9, 8, 7], [1, 20]]
TOLD = [[11, 12, 2], [30], [40, 41, 42, 43]]
REQUESTS, SAMPLED = [Request(p, 0, 9) for p in ASKED], [SampledAnswer("", t, [], "stop") for t in TOLD]
ROWS = rows_of_answers(REQUESTS, SAMPLED)


def test_log_probabilities_and_values_of_each_token_are_those_of_transformers_alone(
    policy: Policy, tmp_path: Path
) -> None:
    temperature = 0.7
    networks = open_networks(policy, value_from(policy, tmp_path / "v"), policy, temperature, FLOAT32)
    said = read_tokens(networks, ROWS, {"logps": networks.policy, "plain": networks.plain, "values": networks.value})
    logps, plain, values = [], [], []
    for prompt, answer in zip(ASKED, TOLD, strict=True):
        for t in range(len(answer)):
            read = torch.tensor([[*prompt, *answer[:t]]])
            with torch.no_grad():
                logits = networks.policy.model(read).logits[0, -1]
                values.append(float(networks.value.model(read).logits[0, 0]))
            logps.append(float((logits / temperature).log_softmax(0)[answer[t]]))
            plain.append(float(logits.log_softmax(0)[answer[t]]))
    for name, expected in (("logps", logps), ("plain", plain), ("values", values)):
        assert said[name].tolist() == pytest.approx(expected, abs=2e-4), name


def test_a_capped_head_is_capped_before_the_temperature(policy: Policy) -> None:
    """cap·tanh(x/cap)/T, as Gemma 2 caps its scores."""
    model = open_model(policy, torch.float32)
    head = TokenLogps(model, 0.5)
    head._check_head = lambda: None  # type: ignore[method-assign]
    model.config.final_logit_softcapping = 4.0
    with torch.no_grad():
        logits = model(torch.tensor([[1, 9, 8]])).logits[0, -1]
    expected = (4 * torch.tanh(logits / 4) / 0.5).log_softmax(0)[11]
    inputs = inputs_of(single_row(np.array([[1, 9, 8]]), np.array([2]), np.array([11])), torch.device("cpu"))
    assert float(head(inputs)) == pytest.approx(float(expected), abs=1e-4)


def _course(policy: Policy, table: Prompts, folder: Path, size: int, k: int = 2) -> PromptOrder:
    return PromptOrder(sampling_plan(policy, table, None, Workspace(folder)), Draws(k, 0, 0), size)


def test_every_pass_takes_each_prompt_once_and_every_draw_has_noise_of_its_own(policy: Policy, tmp_path: Path) -> None:
    course = _course(policy, prompts(5), tmp_path, size=3)
    made = [course.draws(i) for i in range(5)]
    rows = [row for places, _ in made for row in places[::2]]
    assert [sorted(rows[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert rows[:5] != rows[5:10]
    seeds = [r.seed for _, requests in made for r in requests]
    assert len(set(seeds)) == len(seeds) == 5 * 3 * 2


def _seen(log_ratios: list[float]) -> MinibatchStats:
    ratios = torch.tensor(log_ratios).double()
    none = torch.zeros_like(ratios)
    return MinibatchStats(ratios, none, none, none, none)


def test_a_first_update_from_another_policy_is_refused_with_likely_causes() -> None:
    check_first(_seen([0.0, 5e-4, -5e-4]), half=False)
    with pytest.raises(DataError, match=r"off by 0\.0513.*they must be 0.*dropout.*number type"):
        check_first(_seen([0.0, 0.05, 0.0]), half=False)


def test_in_bfloat16_single_tokens_may_move_but_not_their_mean() -> None:
    check_first(_seen([0.05, *np.zeros(99)]), half=True)
    with pytest.raises(DataError, match="ratio of the policy to itself"):
        check_first(_seen([0.05] * 100), half=True)


def test_the_policys_activations_are_gone_before_the_value_network_reads(policy: Policy, tmp_path: Path) -> None:
    """By its backward: its gradients are there when the value network begins."""
    networks = open_networks(policy, value_from(policy, tmp_path / "v"), policy, 1.0, FLOAT32)
    said = read_tokens(networks, ROWS, {"old": networks.policy, "values": networks.value})
    old, values = said["old"].double(), said["values"].double()
    advantages = torch.linspace(-1, 1, len(old)).double()
    answers = Answers(REQUESTS, SAMPLED, pa.table({}), np.array([0, 0, 1]), np.zeros(3, bool))
    rollout = Rollout(answers, None, old, None, values)
    targets = Targets({"advantages": advantages, "returns": values + advantages, "old_values": values}, {})
    head, found = networks.policy.model.lm_head, []
    networks.value.register_forward_pre_hook(lambda *_: found.append(head.weight.grad is not None))
    config = LoopConfig(
        1, (0.1, 0.1), RolloutConfig(), KlConfig(), UpdateConfig(), SftConfig(), StepConfig(), None, FLOAT32,
        KeepConfig(), 0,
    )  # fmt: skip
    optimizer = make_optimizer(chosen_optimizer("adamw"), [networks.learning.parameters()])
    learn(networks, optimizer, Ppo(RewardConfig(), CLIPPED), rollout, targets, config, (0.0, 0.0), 0, None)
    assert found == [True]


@pytest.mark.parametrize("average", ["token", "sequence"])
def test_demonstrations_cost_what_their_log_probabilities_say_at_temperature_1(
    average: str, policy: Policy, tmp_path: Path
) -> None:
    told = demonstrations(10)
    table = logps(policy, tokenized(told, policy, tmp_path), Workspace(tmp_path))
    found = table.frame["logps"].to_numpy()
    expected = -found.sum() / (table.frame["lengths"].sum() if average == "token" else len(found))
    networks = open_networks(policy, value_from(policy, tmp_path / "v"), policy, 0.5, FLOAT32)
    grads = []
    for coefficient in (1.0, 3.0):
        mixed = make_sft_mix(told, policy, SftConfig(coefficient, 10, average), 0, Workspace(tmp_path))  # type: ignore[arg-type]
        assert mixed
        assert mixed.add_gradients(networks, 4) == pytest.approx(expected, abs=1e-4)
        grads.append(networks.policy.model.lm_head.weight.grad.clone())
        networks.policy.model.zero_grad()
    torch.testing.assert_close(grads[1], 3 * grads[0], rtol=1e-4, atol=1e-5)
