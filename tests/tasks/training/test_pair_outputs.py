"""What a loss may read of a pair beside its log-probabilities: sums over common tokens, and log-weights."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError
from tasks.kinds import Logps, Policy, Preferences
from tasks.training import head
from tasks.training.batches import micro_batches
from tasks.training.body import inputs_of
from tasks.training.device import this_device
from tasks.training.examples import Examples, examples_of
from tasks.training.gradient_checkpointing import use_gradient_checkpointing
from tasks.training.logps import AnswerLogps
from tasks.training.model import open_model
from tasks.training.packing import PackingConfig
from tasks.training.parallel import Network
from tasks.training.placement import place
from tasks.training.rows import Rows, rows_of, with_common_lengths
from tasks.training.step import add_gradients
from tests.flat import fit, logps
from tests.tasks.training.tables import message, preferences, tokenized
from tests.workspace import Workspace

LD_DPO = Chosen("losses/pairwise", "ld_dpo", {"beta": 0.5, "alpha": 0.25})
WPO = Chosen("losses/pairwise", "wpo", {"beta": 0.5})
CPU = torch.device("cpu")
PACKED, PADDED = PackingConfig(4096, 32, True), PackingConfig(4096, 32, False)
SHAPES = {
    "shared and packed": PACKED, "padded": PADDED, "one row a pass": PackingConfig(1, 32, True),
    "in spans": PackingConfig(4096, 32, True, span_cost=0.0),
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Preferences:
    found = tokenized(preferences(12), policy, tmp_path_factory.mktemp("pairs"))
    assert isinstance(found, Preferences)
    return found


def outputs(scorer: AnswerLogps, rows: Rows, shape: PackingConfig) -> torch.Tensor:
    """`(A, 3)`, in the order of the table."""
    found = torch.zeros(len(rows.answer_ids), len(scorer.outputs), dtype=torch.float64)
    for batch in micro_batches(rows, np.arange(len(rows)), shape):
        answers = [a for row in batch.rows.tolist() for a in rows.answers_of(row)]
        found[answers] = scorer(inputs_of(batch, CPU)).detach()
    return found


def by_hand(model: torch.nn.Module, rows: Rows, answer: int, length: int) -> tuple[float, float]:
    """In float64, of one answer alone: the sum of its first tokens, and the mean log-weight of all."""
    prompt, tokens = rows.prompts.at(answer // 2).tolist(), rows.answers.at(answer).tolist()
    with torch.no_grad():
        own = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :].double().log_softmax(-1)
    picked = own.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return float(picked[:length].sum()), float((picked - own.exp().square().sum(-1).log()).mean())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_common_sums_and_log_weights_are_those_of_one_answer_alone(
    shape: PackingConfig, policy: Policy, pairs: Preferences
) -> None:
    rows = with_common_lengths(rows_of(pairs, policy))
    model = open_model(policy, torch.float32)
    found = outputs(AnswerLogps(model, outputs=("", "common", "weight")), rows, shape)
    lengths = rows.answers.lengths
    assert (lengths[::2] != lengths[1::2]).sum() > 6
    for answer in range(len(lengths)):
        shorter = min(lengths[2 * (answer // 2)], lengths[2 * (answer // 2) + 1])
        common, weight = by_hand(model, rows, answer, int(shorter))
        assert found[answer, 1:].tolist() == pytest.approx([common, weight], abs=2e-5)
    shorter_ones = lengths == rows.common
    assert torch.equal(found[shorter_ones, 0], found[shorter_ones, 1]), "all its tokens are common"


def test_the_common_sum_is_the_log_probability_of_the_answer_cut_to_that_length(
    policy: Policy, pairs: Preferences
) -> None:
    """Both are sums of the same float32 numbers; another length of the row moves their last bits."""
    rows = with_common_lengths(rows_of(pairs, policy))
    scorer = AnswerLogps(open_model(policy, torch.float32), outputs=("", "common", "weight"))
    assert rows.common is not None
    kept = [rows.answers.at(a)[:n] for a, n in enumerate(rows.common)]
    cut = rows.answers._replace(
        values=np.concatenate(kept), offsets=np.concatenate([[0], np.cumsum([len(x) for x in kept])])
    )
    truncated = outputs(
        scorer, Rows(rows.prompts, cut, rows.starts, rows.prompt_ids, rows.answer_ids, common=rows.common), PADDED
    )[:, 0]
    torch.testing.assert_close(outputs(scorer, rows, PADDED)[:, 1], truncated, rtol=1e-6, atol=1e-6)


def test_what_the_loss_does_not_read_leaves_every_bit_of_the_log_probabilities(
    policy: Policy, pairs: Preferences
) -> None:
    rows = rows_of(pairs, policy)
    model = open_model(policy, torch.float32)
    plain, gradients = AnswerLogps(model), []
    (batch,) = micro_batches(with_common_lengths(rows), np.arange(12), PACKED)
    for scorer in (plain, AnswerLogps(model, outputs=("", "common", "weight"))):
        found = scorer(inputs_of(batch, CPU))
        logps = found if found.dim() == 1 else found[:, 0]
        logps.sum().backward()
        gradients.append((logps.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        model.zero_grad()
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert all(torch.equal(a, b) for a, b in zip(gradients[0][1], gradients[1][1], strict=True))


def test_log_weights_have_no_gradient(policy: Policy, pairs: Preferences) -> None:
    model = open_model(policy, torch.float32)
    (batch,) = micro_batches(rows_of(pairs, policy), np.arange(12), PACKED)
    found = AnswerLogps(model, outputs=("", "weight"))(inputs_of(batch, CPU))
    found[:, 1].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_collisions_are_exact_and_finite_where_logits_are_extreme(scale: float) -> None:
    """Against float64; a softmax that rounds to one token has log Σ π² = 0, and log Σ exp(2z) alone would overflow."""
    rng = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(700, 8, generator=rng), scale * torch.randn(50, 8, generator=rng)
    targets = torch.randint(50, (700,), generator=rng)
    found = head.head_logps(hidden, weight, None, targets, 0.0, 1.0, 1, collisions=True)
    own = (hidden.double() @ weight.T.double()).log_softmax(-1)
    assert found.log_collisions is not None
    assert found.log_collisions.isfinite().all()
    exact = (2 * own).logsumexp(-1)
    torch.testing.assert_close(found.log_collisions.double(), exact, rtol=1e-4, atol=max(1e-5, 1e-7 * scale * 20))
    assert not found.log_collisions.requires_grad


def _examples(policy: Policy, pairs: Preferences, loss: Chosen, folder: Path) -> Examples:
    ref = logps(policy, pairs, Workspace(folder / "ref"))
    return examples_of(pairs, rows_of(pairs, policy), loss, ref)


def _gradients(
    policy: Policy, examples: Examples, loss: Chosen, packing: PackingConfig, *, checkpointed: bool = False
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model = open_model(policy, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    if checkpointed:
        use_gradient_checkpointing(model)
    network: Network = place(AnswerLogps(model, outputs=examples.outputs), this_device(), half=False, sharded=False)
    step = add_gradients(network, examples, loss, np.arange(len(examples.rows)), packing)
    return step.losses.sum(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("loss", [LD_DPO, WPO], ids=["ld_dpo", "wpo"])
def test_micro_batches_padding_and_checkpointing_change_no_gradient(
    loss: Chosen, policy: Policy, pairs: Preferences, tmp_path: Path
) -> None:
    examples = _examples(policy, pairs, loss, tmp_path)
    total, wanted = _gradients(policy, examples, loss, PACKED)
    others = [
        _gradients(policy, examples, loss, PackingConfig(1, 32, True)), _gradients(policy, examples, loss, PADDED),
        _gradients(policy, examples, loss, PACKED, checkpointed=True),
    ]  # fmt: skip
    for other, gradients in others:
        torch.testing.assert_close(other, total, rtol=1e-5, atol=1e-5)
        for one, found in zip(wanted, gradients, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", [LD_DPO, WPO], ids=["ld_dpo", "wpo"])
def test_a_policy_that_is_its_reference_begins_at_log_2_times_its_weights(
    loss: Chosen, policy: Policy, pairs: Preferences, tmp_path: Path
) -> None:
    examples = _examples(policy, pairs, loss, tmp_path)
    work = Workspace(tmp_path / "fit")
    ref = logps(policy, pairs, Workspace(tmp_path / "again"))
    fit(policy, pairs, work, ref, loss=loss, lr=1e-9, batch=12)
    rows = with_common_lengths(rows_of(pairs, policy))
    found = outputs(AnswerLogps(open_model(policy, torch.float32), outputs=("", "weight")), rows, PACKED)[:, 1]
    weight = float((found[::2] + found[1::2]).exp().mean()) if loss is WPO else 1.0
    assert work.curves[0][1]["train/loss"] == pytest.approx(np.log(2) * weight, rel=1e-5)
    assert examples.outputs == ("", "weight" if loss is WPO else "common")


def test_an_answer_of_two_pairs_has_a_common_sum_with_each(policy: Policy, tmp_path: Path) -> None:
    """Joined by ids alone, the second pair would read the sum of the first one's length."""
    rows = [
        {"prompt_id": "p", "prompt": message("where ?"), "chosen_id": "w", "rejected_id": f"l{i}",
         "chosen": "the swan lives in the swamp .", "rejected": text, "p": 0.5}
        for i, text in enumerate(["fish", "the bear eats fish", "fish"])
    ]  # fmt: skip
    table = tokenized(Preferences.of(pa.Table.from_pylist(rows)), policy, tmp_path)
    assert isinstance(table, Preferences)
    ref = logps(policy, table, Workspace(tmp_path / "ref")).table.to_pylist()
    sums = [row["common_logps"] for row in ref if row["completion_id"] == "w"]
    assert sums[0] == pytest.approx(sums[2], abs=1e-5)
    assert abs(sums[0] - sums[1]) > 1.0
    examples = _examples(policy, table, LD_DPO, tmp_path)
    assert examples.columns["ref_chosen_common_logps"].tolist() == pytest.approx(sums, abs=1e-5)


def test_a_reference_without_common_sums_is_refused(policy: Policy, pairs: Preferences, tmp_path: Path) -> None:
    ref = logps(policy, pairs, Workspace(tmp_path / "ref"))
    older = Logps.of(ref.table.drop_columns(["common_logps", "common_lengths"]), ref.metadata)
    with pytest.raises(DataError, match=r"answers have no log-probability of the \d+ tokens that they share"):
        examples_of(pairs, rows_of(pairs, policy), LD_DPO, older)
