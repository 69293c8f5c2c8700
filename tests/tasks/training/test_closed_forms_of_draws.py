"""Labels drawn once: DPO, and a reward model with its exact policy, against the truth and a tabular fit, by n."""

import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_expit

from tasks.contract import Chosen
from tasks.kinds import Policy, Preferences, RewardModel, Table
from tests.enumerable import EOS, Matrix, World, kl, normalised, small_world_in
from tests.enumerable_training import (
    SETTINGS,
    Games,
    bradley_terry,
    distribution_of,
    drawn_pairs,
    evenly,
    pairs,
    rankings,
    trained,
)
from tests.flat import fit_reward
from tests.workspace import Workspace

BETA = 0.5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return small_world_in(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def readable(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world._replace(ref=with_tokenizer(world.ref, tmp_path_factory.mktemp("readable") / "ref"))


def with_tokenizer(policy: Policy, folder: Path) -> Policy:
    """The policy with a tokenizer of one word for each token, because a reward model names its EOS."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", *"abcdefg"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    copytree(policy.path, folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token=words[EOS],
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    ).save_pretrained(folder)  # fmt: skip
    return Policy(folder)


def counted_draws(world: World, n: int) -> Games:
    """How often each ordered pair occurs in n pairs of each prompt: which pair evenly, its order by Bradley-Terry."""
    rng, p = np.random.default_rng(n), bradley_terry(world.rewards)
    counts = np.zeros_like(p)
    above = np.transpose(np.tril_indices(p.shape[1], -1))
    for x in range(len(p)):
        a, b = above[rng.integers(len(above), size=n)].T
        turned = rng.random(n) > p[x, a, b]
        np.add.at(counts[x], (np.where(turned, b, a), np.where(turned, a, b)), 1)
    return counts


def tabular_estimate(counts: Games) -> Matrix:
    """Maximum likelihood of Bradley-Terry with a free reward for every answer; the mean of each prompt is 0."""

    def fitted(wins: Matrix) -> Matrix:
        def negative(r: Matrix) -> tuple[float, Matrix]:
            margins = r[:, None] - r[None, :]
            pull = wins * np.exp(log_expit(-margins))
            return -float((wins * log_expit(margins)).sum()), pull.sum(axis=0) - pull.sum(axis=1)

        found = minimize(negative, np.zeros(len(wins)), jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
        return np.asarray(found.x - found.x.mean())

    return np.stack([fitted(wins) for wins in counts])


def as_policy(world: World, rewards: Matrix) -> Matrix:
    """π_ref·exp(r/β), the exact policy of a reward."""
    return normalised(world.log_ref + rewards / BETA)


def reward_model(world: World, data: Table, loss: str, folder: Path, steps: int) -> RewardModel:
    settings = {**SETTINGS, "batch": len(data), "lr": 3e-3, "steps": steps}
    return fit_reward(world.ref, data, Workspace(folder), loss=Chosen("losses/reward", loss, {}), **settings)


def scores_of(model: RewardModel, world: World) -> Matrix:
    """Scores of all answers, as Hugging Face's own class computes them."""
    from transformers import AutoModelForSequenceClassification

    scorer = AutoModelForSequenceClassification.from_pretrained(model.path)
    with torch.no_grad():
        return np.array([
            [float(scorer(input_ids=torch.tensor([[*asked, *answer]])).logits) for answer in world.answers]
            for asked in world.asked
        ])  # fmt: skip


def test_the_tabular_estimate_is_the_truth_where_counts_are_probabilities(world: World) -> None:
    p = bradley_terry(world.rewards)
    truth = world.rewards - world.rewards.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(tabular_estimate(p * (1 - np.eye(p.shape[1]))), truth, atol=1e-4)
    assert kl(as_policy(world, truth), as_policy(world, tabular_estimate(counted_draws(world, 300)))) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("n", [3_000, 30_000, 300_000])
def test_trained_on_labels_drawn_once_errors_are_those_of_the_tabular_estimate(
    n: int, readable: World, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """DPO's policy, and the exact policy of a reward model, are within twice the tabular estimate's distance from
    π_ref·exp(r/β). A row of the table is an ordered pair, weighted by how often it was drawn: the objective on n rows.
    """
    counts = counted_draws(readable, n // len(readable.rewards))
    data: Preferences = pairs(readable, counts, np.ones_like(counts))
    target = as_policy(readable, readable.rewards)
    tabular, start = kl(as_policy(readable, tabular_estimate(counts)), target), kl(readable.log_ref, target)

    def record(method: str, reached: float, steps: int, seconds: float) -> None:
        note = f"tabular maximum likelihood {tabular:.1e}"
        record_property("closed form", (f"{method}, {n:,} labels drawn once", note, start, reached, steps, seconds))

    began, loss = time.perf_counter(), Chosen("losses/pairwise", "dpo", {"beta": BETA})
    dpo = trained(readable, data, loss, tmp_path / "dpo", steps=400, lr=3e-3)
    reached = kl(distribution_of(dpo, readable, tmp_path), target)
    record("dpo", reached, 400, time.perf_counter() - began)
    began = time.perf_counter()
    model = reward_model(readable, data, "bradley_terry", tmp_path / "reward", 200)
    by_reward = kl(as_policy(readable, scores_of(model, readable)), target)
    record("reward model", by_reward, 200, time.perf_counter() - began)
    assert start >= 0.5
    assert reached <= 2 * tabular
    assert by_reward <= 2 * tabular


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce", "all_pairs"])
def test_a_reward_model_recovers_the_rewards_and_with_them_the_exact_policy(
    loss: str, readable: World, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Labels in expectation: pairs weighted by Bradley-Terry, or rankings by Plackett-Luce."""
    began, p = time.perf_counter(), bradley_terry(readable.rewards)
    data = drawn_pairs(readable, evenly(p) + evenly(p).transpose(0, 2, 1), p) if loss == "bradley_terry" else rankings(
        readable, readable.rewards)  # fmt: skip
    target = as_policy(readable, readable.rewards)
    found = as_policy(readable, scores_of(reward_model(readable, data, loss, tmp_path, 200), readable))
    start, reached, seconds = kl(readable.log_ref, target), kl(found, target), time.perf_counter() - began
    record_property("closed form", (f"reward model, {loss}", "π_ref·exp(r/β)", start, reached, 200, seconds))
    assert start >= 0.5
    assert reached <= 1e-4
