"""Ensembles: what several scores become, bounds and uncertainties worked by hand, features against a dense inverse."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.judging.ensembles import combined, covariance_factor, disagreement, distance
from tasks.kinds import Completions, Ensemble, Policy, RewardModel, Scorer
from tasks.scorers import ensemble
from tests.answers import completions, scorer
from tests.flat import fit_reward
from tests.tasks.training.tables import preferences, tokenized
from tests.workspace import Workspace

SCORES = [{"a": 1.0, "b": 0.0, "c": -2.0}, {"a": 3.0, "b": 4.0, "c": 1.0}, {"a": 2.0, "b": -1.0, "c": None}]
BASE = completions({"x": ["a", "b"]}, stream=9)
ASKED = [BASE.table.column("prompt")[0].as_py()]


def _members() -> list[Scorer]:
    return [scorer(s, scale=scale) for s, scale in zip(SCORES, (1.0, 0.5, 1.0), strict=True)]  # type: ignore[arg-type]


def _made(folder: Path, oracles: Sequence[Scorer], how: str = "mean", **options: Any) -> Ensemble:
    return ensemble([*oracles], Workspace(folder), how=how, **options)  # type: ignore[arg-type]


def _score(made: Ensemble, *texts: str) -> list[float | None]:
    return [*made.open().score(ASKED * len(texts), texts, [None] * len(texts))]


def test_the_mean_is_that_of_scaled_scores_and_an_answer_that_one_leaves_out_has_none(tmp_path: Path) -> None:
    # a: 1, 3·½, 2; b: 0, 4·½, −1; c: none by the third
    assert _score(_made(tmp_path, _members()), "a", "b", "c") == [pytest.approx(4.5 / 3), pytest.approx(1 / 3), None]


def test_weights_are_not_normalised_and_equal_ones_are_the_mean(tmp_path: Path) -> None:
    weighted = _made(tmp_path / "w", _members(), "weighted", weights=[2.0, 0.0, -1.0])
    assert _score(weighted, "a", "b") == pytest.approx([2 * 1 - 2, 0 + 1])
    even = _made(tmp_path / "even", _members(), "weighted", weights=[1 / 3] * 3)
    assert _score(even, "a") == pytest.approx(_score(_made(tmp_path / "mean", _members()), "a"))


def test_the_worst_and_the_lower_bound_are_of_scores_above_each_members_baseline(tmp_path: Path) -> None:
    # baselines over a and b: ½, 1.75, ½; a above them: ½, −.25, 1.5; b: −½, .25, −1.5
    worst = _made(tmp_path / "worst", _members(), "worst", base_samples=BASE)
    assert _score(worst, "a", "b") == pytest.approx([-0.25, -1.5])
    bound = _made(tmp_path / "bound", _members(), "lower_bound", base_samples=BASE, c=2.0)
    above = np.array([0.5, -0.25, 1.5])
    deviation = np.sqrt(((above - above.mean()) ** 2).sum() / 2)  # M − 1
    assert _score(bound, "a", "b") == pytest.approx([above.mean() - 2 * deviation, -above.mean() - 2 * deviation])


def test_a_constant_per_prompt_of_one_member_changes_no_bound(tmp_path: Path) -> None:
    moved = [*_members()[:2], scorer({"a": 102.0, "b": 99.0})]
    for how in ("worst", "lower_bound"):
        one, other = (
            _score(_made(tmp_path / f"{how}{i}", members, how, base_samples=BASE), "a", "b")
            for i, members in enumerate((_members(), moved))
        )
        assert one == pytest.approx(other)


def test_its_uncertainty_is_the_unbiased_deviation_of_the_members_probabilities(tmp_path: Path) -> None:
    live = _made(tmp_path, _members()).open()
    p = 1 / (1 + np.exp(-np.array([1.0, -0.5, 3.0])))
    by_hand = np.sqrt(((p - p.mean()) ** 2).sum() / 2)
    assert live.knows_uncertainty
    assert live.uncertainty(ASKED * 2, ["a", "b"], ["b", "a"], [None, None]) == pytest.approx([by_hand, by_hand])
    assert live.uncertainty(ASKED * 2, ["a", "a"], ["a", "c"], [None, None]) == [0.0, None]


def test_a_single_member_knows_no_uncertainty(tmp_path: Path) -> None:
    live = _made(tmp_path, _members()[:1]).open()
    assert not live.knows_uncertainty
    with pytest.raises(SpecError, match="does not know how uncertain it is"):
        live.uncertainty(ASKED, ["a"], ["b"], [None])


def test_each_distinct_answer_is_scored_once_for_many_pairs(tmp_path: Path) -> None:
    members = _members()
    live = _made(tmp_path, members).open()
    live.uncertainty(ASKED * 3, ["a", "a", "b"], ["b", "b", "a"], [None] * 3)
    assert [len(m.questions) for m in members] == [2, 2, 2]  # type: ignore[attr-defined]


def test_distances_are_those_of_a_dense_inverse() -> None:
    rng = np.random.default_rng(0)
    differences, vectors = rng.normal(size=(20, 5)), rng.normal(size=(7, 5))
    sigma = 0.3 * np.eye(5) + sum(np.outer(d, d) for d in differences)
    expected = np.sqrt(np.einsum("ad,de,ae->a", vectors, np.linalg.inv(sigma), vectors))
    assert distance(vectors, covariance_factor(differences, 0.3)) == pytest.approx(expected)


def test_what_many_pairs_compared_is_less_uncertain_than_what_none_did() -> None:
    factor = covariance_factor(np.array([[1.0, 0.0]] * 99), 1.0)
    assert distance(np.eye(2), factor) == pytest.approx([0.1, 1.0])  # 1/√(1 + 99), 1/√1


def test_several_scorers_outputs_serve_as_features(tmp_path: Path) -> None:
    pairs = preferences(2)
    texts = [row[side] for row in pairs.table.to_pylist() for side in ("chosen", "rejected")]
    tables = [{t: float(i) for i, t in enumerate(texts)}, {t: float(i * i) for i, t in enumerate(texts)}]
    members = [scorer({**t, "a": a, "b": 0.0}) for t, a in zip(tables, (1.0, -1.0), strict=True)]
    made = _made(tmp_path, members, pairs=pairs, uncertainty="features", ridge=2.0)
    sigma = 2.0 * np.eye(2) + np.outer([1, 1], [1, 1]) + np.outer([1, 5], [1, 5])  # of 0 − 1, 0 − 1 and 2 − 3, 4 − 9
    expected = np.sqrt(np.array([1, -1]) @ np.linalg.inv(sigma) @ np.array([1, -1]))
    assert made.open().uncertainty(ASKED, ["a"], ["b"], [None]) == pytest.approx([expected])


@pytest.fixture(scope="module")
def reward(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder = tmp_path_factory.mktemp("rewards")
    loss = Chosen("losses/reward", "bradley_terry", {})
    return fit_reward(  # type: ignore[no-any-return]
        policy, tokenized(preferences(24), policy, folder / "rows"), Workspace(folder), loss=loss, lr=1e-3, batch=8
    )


def test_the_features_of_a_reward_model_are_what_its_head_reads(reward: RewardModel) -> None:
    import torch

    from tasks.training.features import feature_reader
    from tasks.training.reward import open_reward_model

    head = open_reward_model(reward, torch.float32).score
    found = feature_reader(reward, "float32")
    texts = ["the fox", "roots . good", "fish"]
    states = np.array(found.read(ASKED * 3, texts))
    assert found.width == states.shape[1] == head.in_features
    scores = states @ head.weight.detach().double().numpy()[0]
    assert scores == pytest.approx(np.array(reward.open().score(ASKED * 3, texts, [None] * 3)), abs=1e-5)


def test_a_lower_bound_by_features_is_the_score_less_the_distance_from_the_base_samples_mean(
    reward: RewardModel, tmp_path: Path
) -> None:
    from tasks.training.features import feature_reader

    pairs, texts = preferences(24), ["the fox", "roots . good", "fish"]
    made = _made(
        tmp_path, [reward], "lower_bound", pairs=pairs, base_samples=BASE, uncertainty="features", c=3.0, ridge=0.5
    )
    read = feature_reader(reward, "float32").read
    rows = pairs.table.to_pylist()
    delta = np.array([
        np.subtract(*read([row["prompt"]] * 2, [row["chosen"], row["rejected"]])) for row in rows
    ])  # fmt: skip
    inverse = np.linalg.inv(0.5 * np.eye(delta.shape[1]) + delta.T @ delta)
    states, mean = np.array(read(ASKED * 3, texts)), np.mean(read(ASKED * 2, ["a", "b"]), axis=0)
    far = np.sqrt(np.einsum("ad,de,ae->a", states - mean, inverse, states - mean))
    scores = np.array(reward.open().score(ASKED * 3, texts, [None] * 3))
    assert _score(made, *texts) == pytest.approx((scores - 3.0 * far).tolist(), abs=1e-4)
    between = np.sqrt((states[0] - states[1]) @ inverse @ (states[0] - states[1]))
    assert made.open().uncertainty(ASKED, texts[:1], texts[1:2], [None]) == pytest.approx([between], abs=1e-4)


def test_an_ensemble_of_an_ensemble_and_a_rule_is_one(tmp_path: Path) -> None:
    inner = _made(tmp_path / "inner", _members()[:2])
    outer = _made(tmp_path / "outer", [inner, _members()[2]])
    assert _score(outer, "a") == pytest.approx([((1 + 1.5) / 2 + 2) / 2])


def test_prompts_without_base_samples_are_refused_with_their_number(tmp_path: Path) -> None:
    made = _made(tmp_path, _members(), "worst", base_samples=BASE).open()
    other = [[{"role": "user", "content": "another"}]]
    with pytest.raises(DataError, match=r"1 of 2 prompts have no base samples in this ensemble .* give `base_samples`"):
        made.score(ASKED + other, ["a", "a"], [None, None])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"how": "weighted"}, "needs `weights`, one for each of the 3 oracles"),
        ({"how": "weighted", "weights": [1.0]}, "needs `weights`, one for each of the 3 oracles"),
        ({"how": "weighted", "weights": [0.0, 0.0, 0.0]}, "not all 0"),
        ({"how": "weighted", "weights": [1.0, float("nan"), 1.0]}, "`weights` must be finite"),
        ({"how": "mean", "weights": [1.0, 1.0, 1.0]}, "`weights` are for `how: weighted`, and `how` is mean"),
        ({"how": "worst"}, "`how: worst` needs `base_samples`"),
        ({"how": "lower_bound"}, "`how: lower_bound` needs `base_samples`"),
        ({"how": "mean", "uncertainty": "features"}, "needs `pairs`, the preferences that trained the model"),
    ],
)
def test_an_ensemble_whose_score_is_not_defined_is_refused(
    options: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=problem):
        _made(tmp_path, _members(), **options)


def test_one_member_has_no_lower_bound_and_a_rule_has_no_features(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs at least 2 oracles; or set `uncertainty: features`"):
        _made(tmp_path, _members()[:1], "lower_bound", base_samples=BASE)
    with pytest.raises(SpecError, match="has no features"):
        _made(tmp_path / "f", _members()[:1], pairs=preferences(2), uncertainty="features")


def test_base_samples_that_nobody_scores_are_refused(tmp_path: Path) -> None:
    unscored: Completions = completions({"x": ["c", "c"]})
    with pytest.raises(DataError, match=r"none of the 2 base samples for the prompt \w+ has a score by every member"):
        _made(tmp_path, _members(), "worst", base_samples=unscored)


def test_deviations_and_means_of_arrays() -> None:
    scores = np.array([[1.0, 3.0], [np.nan, 1.0]])
    assert combined(scores, "lower_bound", c=1.0)[0] == pytest.approx(2 - np.sqrt(2))
    assert np.isnan(combined(scores, "worst")[1])
    assert disagreement(np.zeros((1, 2)), np.zeros((1, 2))) == pytest.approx([0.0])
