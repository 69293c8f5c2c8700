"""Preference models: comparisons in random order, both outputs, what they answer as oracles, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from tasks.agree import reward_accuracy
from tasks.comparison_text import letter_question
from tasks.contract import Chosen, DataError
from tasks.judge import compare
from tasks.kinds import Completions, Policy, PreferenceModel, Preferences, RewardModel
from tasks.load import load_oracle
from tasks.oracles.preference_model import identity
from tasks.oracles.reward_model import identity as reward_identity
from tasks.preference import as_preference_model, letter_comparisons, score_comparisons
from tests.answers import named
from tests.flat import fit, fit_reward
from tests.tasks.training.tables import message, preferences, tokenized
from tests.workspace import Workspace

PLAIN_TURNS = (
    "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n {{ message['content'] }}{% else %}"
    "\n\n<turn> assistant\n {{ message['content'] }}{% endif %}{% endfor %}\n\n\n"
)
"""The chat template by which RLHFlow's model card renders the context."""


def _trained(output: str, policy: Policy, folder: Path, pairs: Preferences, **options: Any) -> PreferenceModel:
    work = Workspace(folder / "work")
    settings = {"lr": 5e-3, "epochs": 15, "batch": 8, **options}
    model: Policy | RewardModel
    if output == "letter":
        data = tokenized(letter_comparisons(policy, pairs, Workspace(folder / "shown")), policy, folder)
        model = fit(policy, data, work, loss=Chosen("losses/pairwise", "soft_sft", {}), **settings)
    else:
        scores = tokenized(score_comparisons(pairs, Workspace(folder / "shown")), policy, folder)
        model = fit_reward(policy, scores, work, loss=Chosen("losses/reward", "cross_entropy", {}), **settings)
    return as_preference_model(model, Workspace(folder / "model"))


@pytest.fixture(scope="module", params=["log_odds", "letter"])
def judge(request: pytest.FixtureRequest, policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> PreferenceModel:
    """Trained on pairs whose chosen answer ends with `good`, the rejected one with `bad`."""
    return _trained(request.param, policy, tmp_path_factory.mktemp(request.param), preferences(24))


def _answers(texts: list[str]) -> Completions:
    return Completions.of(pa.Table.from_pylist([
        {"prompt_id": "p", "prompt": message("where ?"), "completion_id": f"c{i}", "completion": text, "stream": 0,
         "k": i, "token_logps": [-1.0], "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]))  # fmt: skip


def test_it_learns_which_answer_is_chosen_and_reports_what_the_order_did(
    judge: PreferenceModel, tmp_path: Path
) -> None:
    report = named(reward_accuracy(preferences(24), judge, Workspace(tmp_path)))
    assert report["eval/accuracy"]["value"] > 0.8
    assert 0.3 < report["eval/order_consistency"]["value"] <= 1
    assert report["eval/first_position"]["value"] == pytest.approx(0.5, abs=0.15)


def test_compare_queries_both_orders_and_a_text_against_itself_is_one_half(
    judge: PreferenceModel, tmp_path: Path
) -> None:
    work = Workspace(tmp_path)
    rows = compare(_answers(["fish good", "roots bad", "fish good"]), judge, work).table.to_pylist()
    assert [row["first"] for row in rows] == ["a", "b"] * 3
    assert work.totals["queries"] == 2, "each distinct pair of texts in each order"
    by_pair = {(row["a_id"], row["b_id"], row["first"]): row["p"] for row in rows}
    assert by_pair["c0", "c2", "a"] == by_pair["c0", "c2", "b"] == 0.5
    a, b = judge.open().compare(
        [message("where ?")] * 2, ["fish good", "roots bad"], ["roots bad", "fish good"], [None] * 2
    )
    assert by_pair["c0", "c1", "a"] == pytest.approx(a)
    assert by_pair["c0", "c1", "b"] == pytest.approx(1 - b)


def test_what_is_too_long_has_no_answer(judge: PreferenceModel) -> None:
    long = "fish " * 200
    assert judge.open().compare([message("where ?")] * 2, ["fish", long], ["roots", "x"], [None] * 2)[1] is None


def test_the_letters_probability_is_that_of_the_published_script(policy: Policy, tmp_path: Path) -> None:
    """Logits of the letters at the last position of the rendered message, as the model card of RLHFlow's computes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, plain = (AutoTokenizer.from_pretrained(policy.path) for _ in range(2))
    plain.chat_template = PLAIN_TURNS
    prompt = [*message("where ?"), {"role": "assistant", "content": "there"}, *message("who ?")]
    context = plain.apply_chat_template(prompt, tokenize=False)
    text = f"[CONTEXT] {context} [RESPONSE A] the fox [RESPONSE B] a bear \n"
    assert letter_question(prompt, "the fox", "a bear") == message(text)
    ids = tokenizer.apply_chat_template(message(text), add_generation_prompt=True, return_dict=False)
    ids += tokenizer.encode(" ", add_special_tokens=False)  # this template writes a space before an answer
    model = AutoModelForCausalLM.from_pretrained(policy.path).eval()
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits[0, -1, letters].softmax(0)[0]
    found = PreferenceModel(policy.path).open().compare([prompt], ["the fox"], ["a bear"], [None])
    assert found == [pytest.approx(float(expected), abs=1e-5)]


def test_a_cross_encoder_gives_the_log_odds_of_its_head(policy: Policy, tmp_path: Path) -> None:
    made = _trained("log_odds", policy, tmp_path, preferences(8), epochs=1)
    score = RewardModel(made.path).open().score([message("where ?")], ["[RESPONSE A] fox [RESPONSE B] bear"], [None])[0]
    (p,) = made.open().compare([message("where ?")], ["fox"], ["bear"], [None])
    assert p == pytest.approx(1 / (1 + np.exp(-score)))


def test_the_order_depends_on_ids_and_seed_alone(tmp_path: Path) -> None:
    pairs = preferences(40)
    rows = _shown(pairs, tmp_path / "a").sort("completion_id")
    other = Preferences.of(pairs.table.take(pa.array(np.random.default_rng(1).permutation(40))))
    assert _shown(other, tmp_path / "b").sort("completion_id").equals(rows)
    assert _shown(pairs, tmp_path / "c", seed=1).sort("completion_id")["score"].to_list() != rows["score"].to_list()
    assert 10 <= rows["score"].sum() <= 30, "about half of the chosen answers come first"
    for row, pair in zip(_shown(pairs, tmp_path / "d").iter_rows(named=True), pairs.table.to_pylist(), strict=True):
        first, second = (pair["chosen"], pair["rejected"]) if row["score"] else (pair["rejected"], pair["chosen"])
        assert row["completion"] == f"[RESPONSE A] {first} [RESPONSE B] {second}"


def _shown(pairs: Preferences, folder: Path, **options: Any) -> pl.DataFrame:
    return score_comparisons(pairs, Workspace(folder), **options).frame


def test_soft_labels_are_the_probability_that_the_first_is_better(policy: Policy, tmp_path: Path) -> None:
    pairs = preferences(12)
    scores = _shown(pairs, tmp_path / "s", labels="soft")
    hard = _shown(pairs, tmp_path / "h")
    for soft, first, p in zip(scores["score"], hard["score"], pairs.frame["p"], strict=True):
        assert soft == pytest.approx(p if first else 1 - p)
    letters = letter_comparisons(policy, pairs, Workspace(tmp_path / "l"), labels="soft").frame
    assert letters["p"].to_list() == pairs.frame["p"].to_list()
    assert letters["chosen"].to_list() == ["A" if first else "B" for first in hard["score"]]
    assert set(letter_comparisons(policy, pairs, Workspace(tmp_path / "m")).frame["p"]) == {1.0}


def test_pairs_that_cannot_be_compared_are_counted_and_listed(tmp_path: Path) -> None:
    pairs = _with(preferences(20), chosen={3: "  ", 5: "same"}, rejected={5: "same "})
    work = Workspace(tmp_path)
    made = score_comparisons(pairs, work, max_skipped=0.2)
    assert len(made) == 18
    assert "2 of 20 rows (10.0%) skipped: empty chosen (1), identical sides (1)" in work.notices[0]
    listed = [json.loads(line) for line in (work.output / "skipped.jsonl").read_text().splitlines()]
    assert [(row["row"], row["chosen_id"]) for row in listed] == [(4, "w3"), (6, "w5")]
    with pytest.raises(DataError, match=r"max_skipped = 0\.05 allows fewer"):
        score_comparisons(pairs, Workspace(tmp_path / "few"), max_skipped=0.05)


@pytest.mark.parametrize(
    ("p", "said"), [(None, "have no p"), (float("nan"), "have no p"), (1.5, r"have a p outside \[0, 1\]")]
)
def test_soft_labels_without_a_probability_are_refused(p: float | None, said: str, tmp_path: Path) -> None:
    pairs = _with(preferences(4), p={2: p})
    with pytest.raises(DataError, match=f"1 of 4 pairs {said}"):
        score_comparisons(pairs, Workspace(tmp_path), labels="soft")
    assert len(score_comparisons(pairs, Workspace(tmp_path / "hard"))) == 4


def _with(pairs: Preferences, **changes: dict[int, Any]) -> Preferences:
    rows = pairs.table.to_pylist()
    for name, values in changes.items():
        for i, value in values.items():
            rows[i][name] = value
    return Preferences.of(pa.Table.from_pylist(rows, Preferences.SCHEMA))


def test_letters_that_are_no_single_tokens_are_refused(policy: Policy, tmp_path: Path) -> None:
    shutil.copytree(policy.path, tmp_path / "p")
    file = tmp_path / "p" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "B"}, "content": "A"}
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(DataError, match="two different single tokens"):
        letter_comparisons(Policy(tmp_path / "p"), preferences(4), Workspace(tmp_path / "w"))


def test_a_directory_is_an_oracle_where_it_lies(judge: PreferenceModel, tmp_path: Path) -> None:
    assert identity(online=False, base=judge.path.parent, path=judge.path.name) == {"content": judge.path}
    made = load_oracle(oracle=Chosen("oracles", "preference_model", {"path": str(judge.path)}))
    assert isinstance(made, PreferenceModel)
    assert made.open().compare([message("where ?")], ["a"], ["b"], [None]) == judge.open().compare(
        [message("where ?")], ["a"], ["b"], [None]
    )
    with pytest.raises(DataError, match="is a preference model, which compares two answers and scores none"):
        reward_identity(online=False, base=tmp_path, path=str(judge.path))


def test_a_classifier_from_outside_is_no_preference_model(policy: Policy, tmp_path: Path) -> None:
    reward = fit_reward(
        policy, tokenized(preferences(8), policy, tmp_path), Workspace(tmp_path / "r"),
        loss=Chosen("losses/reward", "bradley_terry", {}), lr=1e-3, batch=8,
    )  # fmt: skip
    with pytest.raises(DataError, match="did not train to compare"):
        identity(online=False, base=tmp_path, path=str(reward.path))
