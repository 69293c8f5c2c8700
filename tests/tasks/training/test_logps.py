"""Log-probabilities and their gradients against the plain way: one row at a time through transformers' own forward."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.contract import SpecError
from tasks.kinds import Policy, Table
from tasks.training import head
from tasks.training.batches import micro_batches, sorted_micro_batches
from tasks.training.body import inputs_of
from tasks.training.device import Device, this_device
from tasks.training.logps import AnswerLogps
from tasks.training.model import open_model, packing_for
from tasks.training.packing import PackingConfig
from tasks.training.rows import Rows, rows_of
from tests.tasks.training.tables import demonstrations, preferences, tokenized, win_rates


def plain_logps(model: torch.nn.Module, rows: Rows) -> torch.Tensor:
    """One answer at a time, all scores, no padding."""
    out = []
    for row in range(len(rows)):
        for answer in rows.answers_of(row):
            prompt, completion = rows.prompts.at(row).tolist(), rows.answers.at(answer).tolist()
            ids = torch.tensor([prompt + completion])
            scores = model(ids).logits[0, :-1].log_softmax(-1)
            out.append(scores.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].double().sum())
    return torch.stack(out)


def our_logps(scorer: AnswerLogps, rows: Rows, shape: PackingConfig) -> torch.Tensor:
    out: list[torch.Tensor] = [torch.empty(0)] * len(rows.answer_ids)
    for batch in micro_batches(rows, np.arange(len(rows)), shape):
        answers = [a for row in batch.rows.tolist() for a in rows.answers_of(row)]
        for answer, value in zip(answers, scorer(inputs_of(batch, torch.device("cpu"))), strict=True):
            out[answer] = value
    return torch.stack(out)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


TABLES = {"one answer a prompt": demonstrations(12, prompts=12), "pairs": preferences(), "five answers": win_rates()}
SHAPES = {
    "shared and packed": PackingConfig(4096, 32, True), "padded": PackingConfig(4096, 32, False),
    "small": PackingConfig(64, 32, True), "in spans": PackingConfig(4096, 32, True, span_cost=0.0),
    "in spans, small": PackingConfig(64, 32, True, span_cost=0.0),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_values_and_gradients_are_those_of_one_row_at_a_time(
    table: Table, shape: PackingConfig, policy: Policy, tmp_path: Path
) -> None:
    rows = rows_of(tokenized(table, policy, tmp_path), policy)
    model = open_model(policy, torch.float32)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=len(rows.answer_ids)))
    expected = plain_logps(model, rows)
    (expected * weights).sum().backward()
    wanted = gradients(model)
    found = our_logps(AnswerLogps(model), rows, shape)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=2e-3, msg=name)


def test_chunks_of_the_head_change_nothing(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(tokenized(preferences(), policy, tmp_path), policy)
    model, results = open_model(policy, torch.float32), []
    monkeypatch.setattr(head, "MIN_ROWS", 1)
    monkeypatch.setattr(head, "_BLOCK", 320 * 2)
    for logits in (1 << 24, 320 * 7):
        monkeypatch.setattr(Device, "head_logits", logits)
        values = our_logps(AnswerLogps(model), rows, packing_for(model, this_device(), 4096))
        values.sum().backward()
        results.append((values.detach(), gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=1e-4, atol=1e-4)


def test_pairs_share_their_prompt_and_hardly_a_token_is_padding(policy: Policy, tmp_path: Path) -> None:
    rows = rows_of(tokenized(win_rates(40), policy, tmp_path), policy)
    batches = list(micro_batches(rows, np.arange(40), PackingConfig(4096, 32, True)))
    read = sum(int((b.texts >= 0).sum()) if b.texts is not None else b.ids.size for b in batches)
    once = sum(rows.prompts.size(i) for i in range(0, 40, 5)) + int((rows.answers.lengths - 1).sum())
    assert once <= read < 1.1 * once
    assert read < 0.7 * int(rows.tokens.sum())
    assert sum(b.ids.size for b in batches) < 1.3 * read


def test_a_table_in_one_pass_holds_every_row_once_within_the_budget(policy: Policy, tmp_path: Path) -> None:
    rows = rows_of(tokenized(demonstrations(60, prompts=30), policy, tmp_path), policy)
    batches = list(sorted_micro_batches(rows, PackingConfig(256, 32, True)))
    assert sorted(r for b in batches for r in b.rows.tolist()) == list(range(60))
    assert len(batches) > 3
    assert max(b.ids.size for b in batches) <= 256 + 128


def test_the_parts_of_a_repeated_row_count_as_often_as_it_comes(policy: Policy, tmp_path: Path) -> None:
    rows = rows_of(tokenized(preferences(3), policy, tmp_path), policy)
    scorer = AnswerLogps(open_model(policy, torch.float32))
    once = our_logps(scorer, rows, PackingConfig(4096, 32, True)).detach()
    (batch,) = micro_batches(rows, np.array([1, 0, 1]), PackingConfig(4096, 32, True))
    values = scorer(inputs_of(batch, torch.device("cpu"))).detach()
    expected = torch.cat([once[2 * r : 2 * r + 2] for r in batch.rows.tolist()])
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("granite", {"logits_scaling": 4.0}), ("cohere", {"logit_scale": 0.25}), ("qwen2", {}), ("gpt2", {}),
    ],
)  # fmt: skip
def test_other_architectures_give_their_own_scores(
    family: str, options: dict[str, float], policy: Policy, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128} if family == "gpt2" else {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, vocab_size=320, **sizes, **special, **options)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().eval()
    rows = rows_of(tokenized(win_rates(10), policy, tmp_path), policy)
    expected = plain_logps(model, rows)
    expected.sum().backward()
    wanted = gradients(model)
    found = our_logps(AnswerLogps(model), rows, packing_for(model, this_device(), 4096))
    found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=2e-3, msg=name)


def test_a_model_that_does_more_to_its_scores_is_refused(policy: Policy) -> None:
    model = open_model(policy, torch.float32)
    head = model.forward
    model.forward = lambda **inputs: type(out := head(**inputs))(logits=out.logits * 1.5)
    with pytest.raises(SpecError, match="computes its logits in a way"):
        AnswerLogps(model)
