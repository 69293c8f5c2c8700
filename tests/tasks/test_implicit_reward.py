"""The implicit reward of two policies as a scorer: against log-probabilities of the table, with adapters, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks.training.implicit_scorer as implicit
from tasks.agree import implicit_accuracy, reward_accuracy
from tasks.contract import DataError
from tasks.judge import compare, score
from tasks.kinds import Policy
from tasks.scorers import implicit_reward
from tests.adapters import adapter_policy
from tests.answers import completions, named, rows
from tests.flat import logps
from tests.models import tiny_policy
from tests.tasks.training.tables import message, preferences, tokenized
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return tiny_policy(tmp_path_factory.mktemp("other") / "model", seed=5)


def test_its_score_is_beta_times_the_log_ratio_of_the_whole_answer(
    policy: Policy, other: Policy, tmp_path: Path
) -> None:
    data = tokenized(preferences(6), policy, tmp_path / "pairs")
    ratio = np.array([
        [row["logps"] for row in rows(logps(model, data, Workspace(tmp_path / name)))]
        for name, model in (("policy", policy), ("ref", other))
    ])  # fmt: skip
    pairs = data.table.to_pylist()
    scorer = implicit_reward(policy, other, beta=0.25).open()
    asked = [pair["prompt"] for pair in pairs for _ in "ab"]
    texts = [pair[side] for pair in pairs for side in ("chosen", "rejected")]
    found = scorer.score(asked, texts, [None] * len(texts))
    assert found == pytest.approx((0.25 * (ratio[0] - ratio[1])).tolist(), abs=1e-5)
    assert max(abs(x or 0) for x in found) > 0.1


def test_its_reward_accuracy_is_the_agreement_of_the_policy(policy: Policy, other: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(40), policy, tmp_path / "pairs")
    tables = [logps(model, data, Workspace(tmp_path / name)) for name, model in (("p", policy), ("r", other))]
    direct = named(implicit_accuracy(data, *tables, Workspace(tmp_path / "direct")))
    oracle = implicit_reward(policy, other, beta=2.0)
    scored = named(reward_accuracy(data, oracle, Workspace(tmp_path / "scored")))
    for field in ("value", "ci_low", "ci_high"):
        assert scored["eval/accuracy"][field] == pytest.approx(direct["eval/accuracy"][field])
    assert scored["eval/margin"]["value"] == pytest.approx(2.0 * direct["eval/margin"]["value"], abs=1e-5)
    assert 0.1 < scored["eval/accuracy"]["value"] < 0.9


def test_it_judges_and_scores_a_table_and_reads_the_whole_conversation(
    policy: Policy, other: Policy, tmp_path: Path
) -> None:
    oracle = implicit_reward(policy, other, beta=1.0)
    table = completions({"x": ["the fox", "roots"], "y": ["fish .", "the bear eats ."]})
    scores = [row["score"] for row in rows(score(table, oracle, Workspace(tmp_path / "score")))]
    probabilities = [row["p"] for row in rows(compare(table, oracle, Workspace(tmp_path / "compare")))]
    by_hand = [1 / (1 + np.exp(scores[j] - scores[i])) for i, j in ((0, 1), (2, 3))]
    assert probabilities == pytest.approx(by_hand)
    history = [*message("where does the fox live ?"), {"role": "assistant", "content": "the swamp ."}]
    longer = [[*history, *message("and what does it eat ?")], message("and what does it eat ?")]
    one, two = oracle.open().score(longer, ["fish .", "fish ."], [None, None])
    assert one != two


def test_an_answer_that_is_too_long_has_no_score(policy: Policy, other: Policy) -> None:
    scorer = implicit_reward(policy, other, beta=1.0).open()
    short, long = scorer.score([message("what ?")] * 2, ["fish .", "fish . " * 100], [None, None])
    assert short is not None
    assert long is None
    assert scorer.score([message("what ?")], ["fish . " * 100], [None]) == [None]


@pytest.mark.parametrize("adapted_ref", [False, True])
def test_adapters_of_one_base_are_scored_with_one_base_in_memory(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapted_ref: bool
) -> None:
    tuned = adapter_policy(policy, tmp_path / "tuned", seed=1)
    ref = adapter_policy(policy, tmp_path / "ref", seed=2, rank=2) if adapted_ref else policy
    opened: list[Policy] = []
    open_model: Any = implicit.open_model
    monkeypatch.setattr(
        implicit, "open_model", lambda source, dtype: (opened.append(source), open_model(source, dtype))[1]
    )
    scorer = implicit_reward(tuned, ref, beta=1.0).open()
    data = tokenized(preferences(5), policy, tmp_path / "pairs")
    pairs = data.table.to_pylist()
    found = scorer.score([p["prompt"] for p in pairs], [p["chosen"] for p in pairs], [None] * 5)
    assert opened == [tuned]
    both = [rows(logps(m, data, Workspace(tmp_path / str(i)))) for i, m in enumerate((tuned, ref))]
    ratios = [both[0][2 * i]["logps"] - both[1][2 * i]["logps"] for i in range(5)]
    assert found == pytest.approx(ratios, abs=1e-5)
    assert max(map(abs, ratios)) > 0.1


def test_a_policy_against_itself_is_zero(policy: Policy) -> None:
    scorer = implicit_reward(policy, policy, beta=3.0).open()
    assert scorer.score([message("what ?")], ["fish ."], [None]) == [0.0]


def test_a_reference_with_another_tokenizer_is_refused(policy: Policy, tmp_path: Path) -> None:
    foreign = tiny_policy(tmp_path / "foreign", vocab=300)
    with pytest.raises(DataError, match="different tokenizers or chat templates, so log π/π_ref is not defined"):
        implicit_reward(policy, foreign, beta=1.0)


def test_its_file_names_both_policies_by_content_and_nothing_of_a_folder(
    policy: Policy, other: Policy, tmp_path: Path
) -> None:
    implicit_reward(policy, other, beta=0.5).save(tmp_path)
    content = json.loads((tmp_path / "scorer.json").read_text())
    assert content == {
        "members": {
            "policy": [{"kind": "Policy", "content": policy.digest}],
            "ref": [{"kind": "Policy", "content": other.digest}],
        },
        "params": {"beta": 0.5},
    }
