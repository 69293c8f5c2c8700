"""fit_reward as a task: the head, what is learnt, what transformers makes of the result, kills, refusals; scoring."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.agree import reward_accuracy
from tasks.contract import Chosen, DataError, SpecError
from tasks.judge import compare, score
from tasks.kinds import Completions, Policy, Preferences, RewardModel, Scorer
from tasks.load import load_oracle
from tasks.oracles.reward_model import identity
from tasks.rendering import Template
from tasks.training.batches import micro_batches
from tasks.training.body import inputs_of
from tasks.training.packing import PackingConfig
from tasks.training.reward import open_reward_model
from tasks.training.rows import rows_of
from tasks.training.scores import AnswerScores, with_end_token
from tests.answers import named
from tests.flat import fit_reward
from tests.models import tiny_policy
from tests.tasks.training.tables import message, preferences, tokenized
from tests.workspace import Killed, Mortal, Workspace

BT = Chosen("losses/reward", "bradley_terry", {})
TIMING = {"tokens_per_second"}


@pytest.fixture(scope="module")
def reward(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    return _trained(policy, tmp_path_factory.mktemp("reward"), epochs=12)[0]


def _trained(start: Policy | RewardModel, folder: Path, **options: object) -> tuple[RewardModel, Workspace]:
    work = Workspace(folder)
    data = tokenized(preferences(24), start, folder)
    settings = {"loss": BT, "lr": 1e-3, "batch": 8, **options}
    return fit_reward(start, data, work, **settings), work


def _weights(model: RewardModel) -> bytes:
    return (model.path / "model.safetensors").read_bytes()


def _by_transformers(reward: RewardModel, prompt: str, answer: str) -> float:
    """The score as someone who knows nothing of this project would compute it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward.path)
    asked = [*message(prompt), {"role": "assistant", "content": answer}]
    ids = tokenizer.apply_chat_template(asked, return_dict=False)
    assert ids[-1] == tokenizer.eos_token_id
    model = AutoModelForSequenceClassification.from_pretrained(reward.path).eval()
    with torch.no_grad():
        padded = torch.tensor([[*ids, *[tokenizer.pad_token_id] * 5]])
        mask = (padded != tokenizer.pad_token_id).long()
        return float(model(input_ids=padded, attention_mask=mask).logits[0, 0])


def _answers(texts: dict[str, list[str]]) -> Completions:
    rows = [
        {"prompt_id": asked, "prompt": message(asked), "completion_id": f"{asked}-{i}", "completion": text,
         "stream": 0, "k": i, "token_logps": [-1.0], "finish_reason": "stop"}
        for asked, told in texts.items() for i, text in enumerate(told)
    ]  # fmt: skip
    return Completions.of(pa.Table.from_pylist(rows))


def test_it_learns_which_answers_are_chosen(policy: Policy, tmp_path: Path) -> None:
    _, work = _trained(policy, tmp_path, epochs=12)
    curves = [metrics for _, metrics in work.curves]
    assert curves[-1]["train/loss"] < 0.1 < 0.4 < curves[0]["train/loss"]
    assert curves[-1]["rewards/accuracies"] == 1.0
    assert curves[-1]["rewards/margins"] == pytest.approx(
        curves[-1]["rewards/chosen"] - curves[-1]["rewards/rejected"], abs=1e-5
    )
    assert set(curves[0]) == {
        "train/loss", "grad_norm", "lr", "tokens_per_second", "rewards/chosen", "rewards/rejected", "rewards/margins",
        "rewards/accuracies",
    }  # fmt: skip


def test_the_new_head_is_drawn_from_one_over_the_square_root_of_width_plus_one(tmp_path: Path) -> None:
    wide = tiny_policy(tmp_path, hidden=1024, layers=1)
    heads = [open_reward_model(wide, torch.float32, seed).score for seed in (0, 0, 1)]
    assert heads[0].weight.std().item() == pytest.approx(1025**-0.5, rel=0.1)
    assert abs(heads[0].weight.mean().item()) < 0.005
    assert heads[0].bias is None
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)


@pytest.mark.parametrize(
    "shape",
    [
        PackingConfig(4096, 32, True),
        PackingConfig(4096, 32, True, span_cost=0.0),
        PackingConfig(1, 32, True),
        PackingConfig(200, 32, False),
    ],
)
def test_a_score_is_the_head_at_the_last_token_however_rows_are_packed(
    shape: PackingConfig, policy: Policy, tmp_path: Path
) -> None:
    model = open_reward_model(policy, torch.float32)
    rows = rows_of(tokenized(preferences(10), policy, tmp_path), policy)
    scorer = AnswerScores(model)
    for batch in micro_batches(with_end_token(rows), np.arange(10), shape):
        found = scorer(inputs_of(batch, torch.device("cpu"))).tolist()
        answers = [a for row in batch.rows for a in rows.answers_of(row)]
        for answer, value in zip(answers, found, strict=True):
            ids = torch.tensor([[*rows.prompts.at(answer // 2), *rows.answers.at(answer)]])
            with torch.no_grad():
                assert value == pytest.approx(float(model(input_ids=ids).logits[0, 0]), abs=1e-4)


def test_transformers_opens_it_with_equal_scores(reward: RewardModel) -> None:
    live = reward.open()
    asked = ["where does the swan live ?", "what does the fox eat ?", "where is it ?"]
    told = ["the swan lives in the swamp . it eats roots .", "fish", "the bear eats fish and roots ."]
    found = live.score([message(a) for a in asked], told, [None] * 3)
    assert found == pytest.approx([_by_transformers(reward, *pair) for pair in zip(asked, told, strict=True)], abs=1e-4)
    config = json.loads((reward.path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert "_name_or_path" not in config


def test_it_scores_and_compares_where_an_oracle_is_wanted(reward: RewardModel, tmp_path: Path) -> None:
    answers = _answers({"what does the swan eat ?": ["fish good", "roots bad", "fish good"]})
    scores = score(answers, reward, Workspace(tmp_path / "s")).frame["score"].to_list()
    assert scores[0] == scores[2]
    win_probs = compare(answers, reward, Workspace(tmp_path / "c")).table.to_pylist()
    found = {(row["a_id"][-1], row["b_id"][-1]): row["p"] for row in win_probs}
    assert found["0", "1"] == pytest.approx(1 / (1 + np.exp(scores[1] - scores[0])), abs=1e-9)
    assert found["0", "2"] == 0.5
    assert {row["first"] for row in win_probs} == {None}


def test_training_goes_on_from_a_reward_model_with_its_own_head(reward: RewardModel, tmp_path: Path) -> None:
    more, work = _trained(reward, tmp_path, lr=1e-9, epochs=1)
    assert work.curves[0][1]["rewards/accuracies"] > 0.9
    head = open_reward_model(more, torch.float32, seed=5).score.weight
    torch.testing.assert_close(head, open_reward_model(reward, torch.float32, seed=6).score.weight)


def test_a_checkpoint_of_the_users_is_an_oracle_where_it_lies(reward: RewardModel, tmp_path: Path) -> None:
    told = identity(online=False, base=reward.path.parent, path=reward.path.name)
    assert told == {"content": reward.path}
    made = load_oracle(oracle=Chosen("oracles", "reward_model", {"path": str(reward.path)}))
    assert isinstance(made, RewardModel)
    assert made.path == reward.path
    assert made.open().score([message("where ?")], ["fish"], [None]) == reward.open().score(
        [message("where ?")], ["fish"], [None]
    )
    with pytest.raises(SpecError, match=r"no file or directory '\./nothing' \(relative to"):
        identity(online=False, base=tmp_path, path="./nothing")
    with pytest.raises(DataError, match="not a Hugging Face model directory"):
        load_oracle(oracle=Chosen("oracles", "reward_model", {"path": str(tmp_path)}))


def test_an_interrupted_fit_ends_in_the_same_bytes(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(preferences(16), policy, tmp_path)
    options = {"loss": BT, "lr": 1e-3, "epochs": 3, "batch": 4, "checkpoint_every": 3}
    straight = Workspace(tmp_path / "straight")
    expected = fit_reward(policy, data, straight, **options)
    with pytest.raises(Killed):
        fit_reward(policy, data, Mortal(tmp_path / "killed", 5), **options)
    assert (tmp_path / "killed" / "work" / "checkpoint" / "step-3").exists()
    work = Workspace(tmp_path / "killed")
    found = fit_reward(policy, data, work, **options)
    assert [step for step, _ in work.curves] == list(range(4, 13))
    assert _weights(found) == _weights(expected)
    for (_, one), (_, other) in zip(straight.curves[3:], work.curves, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMING} == {k: v for k, v in other.items() if k not in TIMING}


def _with_tokens(policy: Policy, folder: Path, **tokens: str | None) -> Policy:
    """A copy of the policy with other entries in tokenizer_config.json."""
    shutil.copytree(policy.path, folder)
    config = json.loads((policy.path / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **tokens}))
    return Policy(folder)


def test_a_tokenizer_without_eos_is_refused(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no EOS"):
        open_reward_model(_with_tokens(policy, tmp_path / "p", eos_token=None), torch.float32)


def test_a_pad_that_is_the_eos_leaves_the_score_at_the_eos(policy: Policy, tmp_path: Path) -> None:
    padded = _with_tokens(policy, tmp_path / "p", pad_token="<eos>")
    model = open_reward_model(padded, torch.float32)
    assert model.config.pad_token_id is None
    asked = [*message("where ?"), {"role": "assistant", "content": "fish"}]
    (ids,) = Template(padded).conversations([asked])
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        assert model(input_ids=torch.tensor([ids])).logits[0, 0] == pytest.approx(float(hidden @ model.score.weight[0]))


def test_a_model_that_reads_both_ways_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1
    )
    model = LlamaForSequenceClassification(config)
    AnswerScores(model)
    plain = model.forward
    model.forward = lambda **inputs: plain(input_ids=inputs["input_ids"].flip(1))  # type: ignore[method-assign]
    with pytest.raises(SpecError, match="does not score by its last token"):
        AnswerScores(model)


def _pairs(asked: str, *margins: list[float], scale: float = 1.0) -> tuple[Preferences, list[Scorer]]:
    """Pairs of the prompts `asked`, whose scores by several scorers, written in their texts, differ by `margins`."""
    rows = [
        {"prompt_id": prompt, "prompt": message(prompt), "chosen_id": f"w{i}", "rejected_id": f"l{i}",
         "chosen": " ".join(map(str, of_pair)), "rejected": " ".join("0" for _ in of_pair), "p": 0.8}
        for i, (prompt, *of_pair) in enumerate(zip(asked, *margins, strict=True))
    ]  # fmt: skip

    def reads(place: int) -> Scorer:
        def score(_: object, texts: list[str], __: object) -> list[float | None]:
            return [None if number == "nan" else float(number) for number in (t.split()[place] for t in texts)]

        return Scorer.scoring(score, scale=scale)

    return Preferences.of(pa.Table.from_pylist(rows)), [reads(place) for place in range(len(margins))]


def test_accuracy_calibration_and_likelihood_are_those_worked_by_hand(tmp_path: Path) -> None:
    """Differences ×2 are 2, 2, −2, 0: right 1, 1, 0, ½. Said: .8808 (three pairs, ⅔ right) and .5 (½ right).

    ECE: ¾ · |⅔ − .8808| + ¼ · |½ − ½| = .1606. NLL: (2 · .126928 + 2.126928 + .693147) / 4 = .768483.
    """
    pairs, (oracle,) = _pairs("aabc", [1.0, 1.0, -1.0, 0.0], scale=2.0)
    report = reward_accuracy(pairs, oracle, Workspace(tmp_path))
    rows = named(report)
    assert rows["eval/accuracy"]["value"] == pytest.approx(2.5 / 4)
    assert rows["eval/ece"]["value"] == pytest.approx(0.160598, abs=1e-6)
    assert rows["eval/nll"]["value"] == pytest.approx(0.768483, abs=1e-6)
    assert rows["eval/margin"]["value"] == pytest.approx(0.25)
    assert rows["eval/accuracy_ceiling"]["value"] == pytest.approx(0.8)
    assert rows["eval/accuracy"]["n"] == 3
    assert report.per_prompt is not None
    assert report.per_prompt.column("accuracy").to_pylist() == [1.0, 0.0, 0.5]


def test_pairs_without_a_score_are_left_out_and_told(tmp_path: Path) -> None:
    pairs, (oracle,) = _pairs("ab", [1.0, float("nan")])
    work = Workspace(tmp_path)
    report = reward_accuracy(pairs, oracle, work)
    assert report.table.column("value")[0].as_py() == 1.0
    assert any("1 of 2 pairs left out" in notice for notice in work.notices)
    nothing, (oracle,) = _pairs("b", [float("nan")])
    with pytest.raises(DataError, match="none of 1 pairs"):
        reward_accuracy(nothing, oracle, Workspace(tmp_path / "none"))


def test_the_change_of_accuracy_is_paired_by_pairs_with_an_interval_over_prompts(tmp_path: Path) -> None:
    """Right now 1, 1, 0, 1; before 0, ½, 0, 1: d = 1, ½, 0, 0, mean .375 over the prompts a, a, b, c.

    Totals 1.5, 0, 0 of 2, 1, 1 pairs at .375: residuals .75, −.375, −.375; t(2, .975) = 4.302653.
    """
    pairs, (now, was) = _pairs("aabc", [1, 1, -1, 1], [-1, 0, -1, 1])
    work = Workspace(tmp_path)
    report = reward_accuracy(pairs, now, work, was)
    rows = named(report)
    change = rows["eval/accuracy_change"]
    assert rows["eval/accuracy"]["value"] == 0.75
    assert (change["value"], change["n"], change["unit"]) == (0.375, 3, "probability")
    half = 4.302652729911275 * ((0.75**2 + 2 * 0.375**2) * 3 / 2) ** 0.5 / 4
    assert change["ci_high"] - 0.375 == pytest.approx(half)
    assert 0.375 - change["ci_low"] == pytest.approx(half)
    assert report.per_prompt is not None
    assert report.per_prompt.column("accuracy_change").to_pylist() == [0.75, 0, 0]
    assert report.per_prompt.column("accuracy").to_pylist() == [1, 0, 1]
    assert work.totals == {"queries": 2 * 7, "unanswered": 0}


def test_only_pairs_that_both_score_count_in_the_change(tmp_path: Path) -> None:
    nan = float("nan")
    pairs, (now, was) = _pairs("aabc", [1, nan, 1, -1], [-1, -1, nan, -1])
    work = Workspace(tmp_path)
    report = reward_accuracy(pairs, now, work, was)
    rows = named(report)
    assert rows["eval/accuracy"]["value"] == pytest.approx(2 / 3)
    assert (rows["eval/accuracy_change"]["value"], rows["eval/accuracy_change"]["n"]) == (0.5, 2)
    assert report.per_prompt is not None
    assert report.per_prompt.column("accuracy_change").to_pylist() == [1, None, 0]
    assert sum("1 of 4 pairs left out" in notice for notice in work.notices) == 2
    apart, (now, was) = _pairs("ab", [1, nan], [nan, 1])
    with pytest.raises(DataError, match="no pair is answered by both"):
        reward_accuracy(apart, now, Workspace(tmp_path / "apart"), was)
