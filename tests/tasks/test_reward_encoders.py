"""Training encoders on scores: pairs of texts, padded batches, their own pooling; equal scores in transformers."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Preferences, RewardModel, Scores
from tasks.training.batches import sorted_micro_batches
from tasks.training.body import inputs_of
from tasks.training.packing import PackingConfig
from tasks.training.pair_texts import PairScores, reads_pairs
from tasks.training.reward import open_classifier
from tasks.training.rows import rows_of
from tasks.training.scores import with_end_token
from tests.flat import fit_reward, tokenize
from tests.tasks.test_reward_models_from_outside import ANSWERS, QUESTION, encoder, made, scores
from tests.workspace import Killed, Mortal, Workspace

BT = Chosen("losses/reward", "bradley_terry", {})
REGRESSION = Chosen("losses/reward", "regression", {})
KINDS = ["deberta", "roberta", "bert", "modernbert"]


def model_of(kind: str, folder: Path, names: tuple[str, ...] = ()) -> RewardModel:
    """An encoder whose weights are small enough to be trained; names: of its outputs, where it has several."""
    found = encoder(folder, kind, outputs=max(1, len(names)))
    if names:
        config = json.loads((folder / "config.json").read_text())
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        (folder / "config.json").write_text(json.dumps({**config, **labels, "problem_type": "regression"}))
    model = open_classifier(found, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.2)
    model.save_pretrained(folder)
    return found


def pairs(n: int = 12) -> Preferences:
    rows = [
        {"prompt_id": f"p{i}", "prompt": QUESTION, "chosen_id": f"w{i}", "rejected_id": f"l{i}",
         "chosen": "light scatters " * (1 + i % 4) + ".", "rejected": "No idea " * (1 + i % 3) + ".", "p": 1.0}
        for i in range(n)
    ]  # fmt: skip
    return Preferences.of(pa.Table.from_pylist(rows))


def by_transformers(model: RewardModel, answers: list[str]) -> list[float]:
    """The scores as someone who knows nothing of this project would compute them, one by one."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.path)
    opened = AutoModelForSequenceClassification.from_pretrained(model.path).eval()
    with torch.no_grad():
        rows = [opened(**tokenizer(QUESTION[0]["content"], a, return_tensors="pt")).logits[0] for a in answers]
    return [float(row[0]) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    """Padded beside longer rows, with the tokenizer's own types of tokens."""
    model = model_of(kind, tmp_path / "m")
    assert reads_pairs(model)
    data = tokenize(model, pairs(), Workspace(tmp_path / "tokenize"))
    rows = with_end_token(rows_of(data, model))
    scorer = PairScores(open_classifier(model, torch.float32), model)
    found = torch.zeros(24, dtype=torch.float64)
    for batch in sorted_micro_batches(rows, PackingConfig(4096, 32, share=False)):
        answers = [a for row in batch.rows.tolist() for a in rows.answers_of(row)]
        found[answers] = scorer(inputs_of(batch, torch.device("cpu"))).detach()
    texts = [t for row in pairs().table.to_pylist() for t in (row["chosen"], row["rejected"])]
    assert found.tolist() == pytest.approx(by_transformers(model, texts), abs=1e-4)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k != "bert" else k for k in KINDS])
def test_a_trained_encoder_prefers_what_was_chosen_and_opens_with_equal_scores(kind: str, tmp_path: Path) -> None:
    model = model_of(kind, tmp_path / "m")
    data, work = tokenize(model, pairs(), Workspace(tmp_path / "tokenize")), Workspace(tmp_path / "fit")
    trained = fit_reward(model, data, work, loss=BT, lr=3e-3, batch=6, epochs=8)
    assert work.curves[-1][1]["rewards/accuracies"] == 1.0
    answers = ["light scatters .", "No idea ."]
    found = scores(trained, [QUESTION] * 2, answers)
    assert found == pytest.approx(by_transformers(trained, answers), abs=1e-4)
    assert found[0] > found[1]  # type: ignore[operator]
    assert "alignflow_score" not in json.loads((trained.path / "config.json").read_text())


def test_an_encoder_learns_attributes_by_the_names_of_its_outputs(tmp_path: Path) -> None:
    model = model_of("bert", tmp_path / "m", ("good", "words"))
    texts = [a for a in ANSWERS if a.strip()]
    rows = [
        {"prompt_id": "p", "prompt": QUESTION, "completion_id": f"c{i}", "completion": t, "stream": 0, "k": i,
         "token_logps": [], "finish_reason": "stop", "attributes": [float("light" in t), len(t.split()) / 10]}
        for i, t in enumerate(texts)
    ]  # fmt: skip
    table = Scores.of(pa.Table.from_pylist(rows, Scores.SCHEMA), {"attributes": '["good", "words"]'})
    data, work = tokenize(model, table, Workspace(tmp_path / "tokenize")), Workspace(tmp_path / "fit")
    trained = fit_reward(model, data, work, loss=REGRESSION, lr=3e-3, batch=7, epochs=15)
    assert work.curves[-1][1]["train/loss"] < 0.5 * work.curves[0][1]["train/loss"]
    assert trained.open().attributes == ("good", "words")


def test_an_interrupted_training_of_an_encoder_ends_in_the_same_bytes(tmp_path: Path) -> None:
    model = model_of("bert", tmp_path / "m")
    data = tokenize(model, pairs(), Workspace(tmp_path / "tokenize"))
    options = {"loss": BT, "lr": 1e-3, "epochs": 2, "batch": 4, "checkpoint_every": 2}
    whole = fit_reward(model, data, Workspace(tmp_path / "straight"), **options)
    with pytest.raises(Killed):
        fit_reward(model, data, Mortal(tmp_path / "killed", 4), **options)
    resumed = fit_reward(model, data, Workspace(tmp_path / "killed"), **options)
    assert (resumed.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_what_an_encoder_cannot_be_trained_with_is_refused(tmp_path: Path) -> None:
    model = model_of("bert", tmp_path / "m")
    data = tokenize(model, pairs(4), Workspace(tmp_path / "tokenize"))
    lora = Chosen("adapters", "lora", {"rank": 4, "alpha": 8.0, "targets": ["all-linear"]})
    with pytest.raises(SpecError, match="is an encoder, which is trained as a whole"):
        fit_reward(model, data, Workspace(tmp_path / "fit"), loss=BT, lr=1e-3, adapter=lora)
    with pytest.raises(SpecError, match="an encoder needs `refuse`"):
        tokenize(model, pairs(4), Workspace(tmp_path / "cut"), max_length=8, truncation="keep_start")
    several = encoder(tmp_path / "several", "bert", outputs=3)
    with pytest.raises(DataError, match="classifies into 3 classes"):
        fit_reward(several, data, Workspace(tmp_path / "f"), loss=BT, lr=1e-3)


def test_a_decoders_checkpoint_with_several_outputs_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    model = made(tmp_path / "m", "llama2", "</s>")
    config = json.loads((model.path / "config.json").read_text())
    (model.path / "config.json").write_text(
        json.dumps(
            {**config, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}, "problem_type": "regression"}
        )
    )
    data = tokenize(model, pairs(4), Workspace(tmp_path / "tokenize"))
    with pytest.raises(DataError, match=r"has the outputs a, b, and the loss 'bradley_terry' trains one"):
        fit_reward(model, data, Workspace(tmp_path / "fit"), loss=BT, lr=1e-3)
