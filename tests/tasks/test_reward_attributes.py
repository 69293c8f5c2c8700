"""Reward models with several named outputs: regression, units, weights, what transformers makes of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.adapt import merge
from tasks.contract import Chosen, DataError, SpecError
from tasks.judge import compare, score
from tasks.judging.attributes import as_attributes
from tasks.kinds import Completions, Policy, RewardModel, Scorer, Scores
from tasks.losses.reward.regression import regression
from tasks.training.attribute_targets import learnt_attributes, standardised
from tasks.training.examples import examples_of
from tasks.training.heads import Attribute, attributes_of, write_attributes
from tasks.training.reward import open_reward_model
from tasks.training.rows import rows_of
from tasks.training.scores import with_end_token
from tests.flat import fit_reward
from tests.tasks.training.tables import message, preferences, scores, tokenized
from tests.workspace import Workspace

REGRESSION = Chosen("losses/reward", "regression", {})
BT = Chosen("losses/reward", "bradley_terry", {})
LORA = Chosen("adapters", "lora", {"rank": 4, "alpha": 8.0, "targets": ["all-linear"]})
NAN = float("nan")


def table(rows: list[list[float | None] | None], names: tuple[str, ...] = ("good", "words")) -> Scores:
    plain = scores([0.0] * len(rows)).table.drop_columns(["attributes"])
    kind = Scores.SCHEMA.field("attributes").type
    return Scores.of(plain.append_column("attributes", pa.array(rows, kind)), {"attributes": json.dumps(names)})


def by_words(n: int, policy: Policy, folder: Path, *, every_other: bool = False) -> Scores:
    """Attributes that the answers' texts determine: whether "fish" is in it, and its words."""
    texts = scores([0.0] * n).table.column("completion").to_pylist()
    rows: list[list[float | None] | None] = [
        [10.0 + 4 * ("fish" in t), None if every_other and i % 2 else float(len(t.split()))]
        for i, t in enumerate(texts)
    ]
    found = tokenized(table(rows), policy, folder)
    assert isinstance(found, Scores)
    return found


def completions(texts: list[str]) -> Completions:
    rows = [
        {"prompt_id": "p", "prompt": message("where ?"), "completion_id": f"c{i}", "completion": text, "stream": 0,
         "k": i, "token_logps": [-1.0], "finish_reason": "stop"} for i, text in enumerate(texts)
    ]  # fmt: skip
    return Completions.of(pa.Table.from_pylist(rows))


@pytest.fixture(scope="module")
def trained(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> tuple[RewardModel, Scores, Workspace]:
    folder = tmp_path_factory.mktemp("regression")
    data, work = by_words(40, policy, folder, every_other=True), Workspace(folder / "fit")
    return fit_reward(policy, data, work, loss=REGRESSION, lr=2e-3, batch=10, epochs=30), data, work


def test_the_loss_is_the_mean_over_known_attributes() -> None:
    """(1 − 3)² and (2 − 1)²: 2.5; the second row knows one: (0 − 2)² = 4. d/ds of a missing one is 0."""
    outputs = torch.tensor([[1.0, 2.0], [0.0, 7.0]], requires_grad=True)
    found = regression(outputs, torch.tensor([[3.0, 1.0], [2.0, NAN]]))
    assert found.tolist() == [2.5, 4.0]
    found.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[-2.0, 1.0], [-4.0, 0.0]]
    assert regression(torch.tensor([1.0]), torch.tensor([3.0])).tolist() == [4.0]
    assert regression(torch.tensor([[1.0], [1.0]]), torch.tensor([[NAN], [1.0]])).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match=r"scores \(2,\), target_scores \(2, 3\)"):
        regression(torch.zeros(2), torch.zeros(2, 3))


def test_targets_have_mean_0_and_deviation_1_over_the_rows_that_have_them(policy: Policy) -> None:
    """good: 1, 3, 2, of mean 2 and deviation √(2/3); words: 10, 14."""
    rows = table([[1.0, 10.0], [3.0, None], [2.0, 14.0]])
    found = learnt_attributes(policy, rows, REGRESSION, ["scores", "target_scores"])
    assert [a.name for a in found] == ["good", "words"]
    assert [(a.mean, a.std) for a in found] == [(2.0, pytest.approx((2 / 3) ** 0.5)), (12.0, 2.0)]
    assert standardised(rows, found)[:, 1].tolist() == pytest.approx([-1.0, NAN, 1.0], nan_ok=True)
    assert standardised(rows, found)[:, 0].tolist() == pytest.approx([-(1.5**0.5), 1.5**0.5, 0.0])


def test_it_learns_both_attributes_and_gives_them_in_their_units(
    trained: tuple[RewardModel, Scores, Workspace],
) -> None:
    model, data, work = trained
    assert work.curves[0][1]["train/loss"] > 0.5 > 0.05 > work.curves[-1][1]["train/loss"]
    own = data.table.to_pylist()
    live = model.open()
    found = live.measure([r["prompt"] for r in own], [r["completion"] for r in own], [None] * len(own))
    for row, values in zip(own, found, strict=True):
        assert values is not None
        assert values[0] == pytest.approx(row["attributes"][0], abs=1.5)
        if row["attributes"][1] is not None:
            assert values[1] == pytest.approx(row["attributes"][1], abs=2)
    assert live.attributes == ("good", "words")


def test_transformers_opens_it_with_the_same_raw_outputs_and_their_names(
    trained: tuple[RewardModel, Scores, Workspace],
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, _, _ = trained
    opened = AutoModelForSequenceClassification.from_pretrained(model.path).eval()
    assert opened.config.id2label == {0: "good", 1: "words"}
    assert (opened.config.problem_type, opened.config.num_labels) == ("regression", 2)
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    asked = [*message("where ?"), {"role": "assistant", "content": "the fish eat roots"}]
    with torch.no_grad():
        raw = opened(torch.tensor([tokenizer.apply_chat_template(asked, return_dict=False)])).logits[0].tolist()
    (ours,) = model.open().measure([message("where ?")], ["the fish eat roots"], [None])
    stored = attributes_of(model.path)
    assert ours == pytest.approx([a.mean + a.std * x for a, x in zip(stored, raw, strict=True)], abs=1e-4)


def test_scores_and_comparisons_weigh_the_attributes(
    trained: tuple[RewardModel, Scores, Workspace], tmp_path: Path
) -> None:
    model, _, _ = trained
    answers = completions(["fish", "the swan lives in the swamp", "roots"])
    rows = score(answers, model, Workspace(tmp_path / "mean")).table.to_pylist()
    assert [r["score"] for r in rows] == pytest.approx([sum(r["attributes"]) / 2 for r in rows])
    weights = {"words": -0.5}
    found = score(answers, model, Workspace(tmp_path / "w"), weights=weights)
    assert found.attributes == ("good", "words")
    assert found.table.column("score").to_pylist() == pytest.approx([-0.5 * r["attributes"][1] for r in rows])
    p = compare(answers, model, Workspace(tmp_path / "c"), weights=weights).table.to_pylist()[0]["p"]
    delta = -0.5 * (rows[0]["attributes"][1] - rows[1]["attributes"][1])
    assert p == pytest.approx(1 / (1 + np.exp(-delta)))


def test_unknown_weights_are_refused_with_the_nearest_name(
    trained: tuple[RewardModel, Scores, Workspace], tmp_path: Path
) -> None:
    answers = completions(["fish", "roots"])
    with pytest.raises(
        SpecError, match=r"weights\.word: the oracle's attributes are good, words \(did you mean 'words'"
    ):
        score(answers, trained[0], Workspace(tmp_path), weights={"word": 1.0})
    plain = Scorer.scoring(lambda prompts, texts, truths: [0.0] * len(texts))
    with pytest.raises(SpecError, match="gives one score without attributes"):
        plain.weighted({"good": 1.0})


def test_training_goes_on_with_the_stored_units_and_refuses_other_outputs(
    trained: tuple[RewardModel, Scores, Workspace], policy: Policy, tmp_path: Path
) -> None:
    model, data, _ = trained
    more = by_words(12, policy, tmp_path)
    names = ["scores", "target_scores"]
    assert learnt_attributes(model, more, REGRESSION, names) == attributes_of(model.path)
    assert learnt_attributes(policy, more, REGRESSION, names) != attributes_of(model.path)
    with pytest.raises(DataError, match=r"has the outputs good, words, and the table has the attributes good: start"):
        learnt_attributes(model, table([[1.0], [2.0]], ("good",)), REGRESSION, names)
    pairs = tokenized(preferences(8), model, tmp_path / "pairs")
    with pytest.raises(DataError, match=r"has the outputs good, words, and the loss 'bradley_terry' trains one"):
        fit_reward(model, pairs, Workspace(tmp_path / "bt"), loss=BT, lr=1e-3)
    one = fit_reward(policy, tokenized(preferences(8), policy, tmp_path / "p"), Workspace(tmp_path / "one"), loss=BT,
                     lr=1e-3, batch=8)  # fmt: skip
    with pytest.raises(DataError, match=r"has one output, and the table has the attributes good, words"):
        learnt_attributes(one, data, REGRESSION, names)


def test_models_are_merged_only_where_their_outputs_have_equal_units(
    trained: tuple[RewardModel, Scores, Workspace], tmp_path: Path
) -> None:
    model, _, _ = trained
    merged = merge([model, model], Workspace(tmp_path / "merged"))
    assert attributes_of(merged.path) == attributes_of(model.path)
    other = RewardModel(shutil.copytree(model.path, tmp_path / "other"))
    write_attributes(other.path, [a._replace(std=2 * a.std) for a in attributes_of(model.path)])
    with pytest.raises(DataError, match="have outputs of other names, means or standard deviations"):
        merge([model, other], Workspace(tmp_path / "refused"))


def test_attributes_that_cannot_be_learnt_are_refused(policy: Policy) -> None:
    names = ["scores", "target_scores"]
    for rows, message_ in (
        ([[1.0, 2.0], [1.0, 3.0]], "'good' is 1 in all 2 rows that have it"),
        ([[1.0, None], [2.0, None]], "'words' is missing in all rows"),
        ([[1.0, float("inf")], [2.0, 3.0]], "'words' is not finite in 1 rows"),
        ([[1.0], [2.0, 3.0]], "row 1 has 1 attributes, and the table names 2"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message_):
            learnt_attributes(policy, table(rows), REGRESSION, names)  # type: ignore[arg-type]


def test_a_row_without_any_attribute_is_refused_by_the_trainer(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(table([[1.0, 2.0], None, [2.0, 3.0]]), policy, tmp_path)
    assert isinstance(data, Scores)
    found = learnt_attributes(policy, data, REGRESSION, ["scores", "target_scores"])
    rows = with_end_token(rows_of(data, policy))
    with pytest.raises(DataError, match="not finite on 1 of 3 rows, first row 1"):
        examples_of(data, rows, REGRESSION, None, RewardModel, attributes=found)


def test_an_adapter_keeps_its_head_of_several_outputs(policy: Policy, tmp_path: Path) -> None:
    data = by_words(16, policy, tmp_path)
    work = Workspace(tmp_path / "fit")
    model = fit_reward(policy, data, work, loss=REGRESSION, lr=5e-3, batch=8, epochs=3, adapter=LORA)
    opened = open_reward_model(model, torch.float32)
    assert opened.score.weight.shape[0] == 2
    assert model.open().attributes == ("good", "words")
    more = fit_reward(model, data, Workspace(tmp_path / "more"), loss=REGRESSION, lr=1e-9, batch=16, adapter=LORA)
    torch.testing.assert_close(open_reward_model(more, torch.float32).score.weight, opened.score.weight)
    assert attributes_of(more.path) == attributes_of(model.path)


def test_a_strangers_regression_model_has_the_names_of_its_config(tmp_path: Path) -> None:
    from tests.tasks.test_reward_models_from_outside import QUESTION, encoder

    model = encoder(tmp_path, outputs=3)
    config = json.loads((model.path / "config.json").read_text())
    labels = {"0": "helpfulness", "1": "correctness", "2": "verbosity"}
    changed = {
        **config,
        "problem_type": "regression",
        "id2label": labels,
        "label2id": {v: int(k) for k, v in labels.items()},
    }
    (model.path / "config.json").write_text(json.dumps(changed))
    assert attributes_of(model.path) == (Attribute("helpfulness"), Attribute("correctness"), Attribute("verbosity"))
    live = model.open()
    (values,) = live.measure([QUESTION], ["No idea ."], [None])
    assert values is not None
    (found,) = live.weighted({"verbosity": 2.0}).score([QUESTION], ["No idea ."], [None])
    assert found == pytest.approx(2 * values[2])


def test_scores_of_the_same_answers_become_attributes_of_one_table() -> None:
    one, other = scores([1.0, 2.0, None]), scores([5.0, 7.0, 9.0])
    shuffled = Scores.of(other.table.take(pa.array([2, 0, 1])), other.metadata)
    found = as_attributes([one, shuffled], ["gold", "length"])
    assert found.attributes == ("gold", "length")
    assert found.table.column("attributes").to_pylist() == [[1.0, 5.0], [2.0, 7.0], [None, 9.0]]
    assert found.table.column("score").to_pylist() == [3.0, 4.5, None]
    with pytest.raises(DataError, match="must score the same answers: 1 of 3 answers of the first have no row"):
        as_attributes([one, Scores.of(other.table.slice(0, 2))], ["gold", "length"])
    with pytest.raises(SpecError, match="each of 2 tables a name of its own"):
        as_attributes([one, other], ["gold", "gold"])
