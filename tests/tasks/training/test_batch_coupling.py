"""Losses that read more than their rows: the whole optimizer batch, answers to other prompts, targets, anchors.

Batch 8 × 1 = 1 × 8 and packed = padded, against plain passes over the whole batch at once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen, DataError, SpecError
from tasks.kinds import Policy, Preferences
from tasks.ranks import Ranks
from tasks.train import logps
from tasks.training import examples as examples_module
from tasks.training.body import computes_in_spans
from tasks.training.device import this_device
from tasks.training.examples import Examples, examples_of, loss_on_batch
from tasks.training.logps import AnswerLogps
from tasks.training.metrics import StepLosses, step_metrics
from tasks.training.model import open_model
from tasks.training.packing import PackingConfig
from tasks.training.parallel import Replica
from tasks.training.rows import rows_of
from tasks.training.step import add_gradients
from tests.flat import fit
from tests.losses import loss_of
from tests.tasks.training.loss_inputs import Inputs, inputs_for
from tests.tasks.training.tables import (
    AOT,
    APO_ZERO_UNPAIRED,
    DPO,
    KTO,
    NASH,
    SLIC,
    XPO,
    preferences,
    tokenized,
)
from tests.tasks.training.test_logps import plain_logps
from tests.workspace import Killed, Mortal, Workspace

SHAPES = {
    "one pass": PackingConfig(4096, 32, True), "row by row": PackingConfig(1, 32, True),
    "padded": PackingConfig(200, 32, False), "in spans": PackingConfig(100, 32, True, span_cost=0.0),
}  # fmt: skip
EVERY_SHAPE = [
    pytest.param(shape, id=name, marks=[pytest.mark.slow] if name in ("padded", "in spans") else [])
    for name, shape in SHAPES.items()
]
SOFTMAX = """
    from torch import Tensor


    def softmax(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor) -> Tensor:
        '''Each pair against the margins of the whole batch.'''
        margins = policy_chosen_logps - policy_rejected_logps
        return margins.logsumexp(0) - margins


    def couples_rows() -> bool:
        return True
"""


Make = Callable[[Chosen], Inputs]


@pytest.fixture(scope="module")
def inputs_of(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The inputs for a loss, made once for all losses that take the same."""
    folder, made = tmp_path_factory.mktemp("inputs"), dict[str, Inputs]()

    def make(loss: Chosen) -> Inputs:
        kind = loss.folder + "-with-targets" * (loss.name in ("slic", "xpo"))
        if kind not in made:
            made[kind] = inputs_for(loss, policy, folder / str(len(made)))
        return made[kind]

    return make


def network_of(model: Any) -> Replica:
    return Replica(AnswerLogps(model), this_device(), Ranks(), half=False)


def expected_step(
    examples: Examples, loss: Chosen, policy: Policy, total: Callable[[Examples], float]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and gradients of the whole batch at once, by one plain pass per answer."""
    model = open_model(policy, torch.float32)
    every = torch.arange(len(examples.rows))
    kl = 0.0
    if examples.mismatched is not None:
        with torch.no_grad():
            own = plain_logps(model, examples.mismatched.rows)
        kl = float((own - examples.mismatched.ref_logps).mean())
    losses = loss_on_batch(examples, loss, every, plain_logps(model, examples.rows), kl)
    ((losses * examples.weights).sum() / total(examples)).backward()
    return losses.tolist(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def check_step(
    examples: Examples, loss: Chosen, policy: Policy, shape: PackingConfig, total: Callable[[Examples], float]
) -> StepLosses:
    losses, gradients = expected_step(examples, loss, policy, total)
    model = open_model(policy, torch.float32)
    batch = np.random.default_rng(0).permutation(len(examples.rows))
    outcome = add_gradients(network_of(model), examples, loss, batch, shape)
    found = dict(zip(outcome.rows.tolist(), outcome.losses.tolist(), strict=True))
    assert [found[i] for i in range(len(found))] == pytest.approx(losses, rel=1e-4, abs=1e-5)
    for name, parameter in model.named_parameters():
        scale = float(gradients[name].abs().max())
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale, msg=name)
    return outcome


@pytest.mark.parametrize("shape", EVERY_SHAPE)
@pytest.mark.parametrize("loss", [AOT, NASH, SLIC, XPO, KTO, APO_ZERO_UNPAIRED], ids=lambda loss: loss.name)
def test_a_step_is_that_of_the_whole_batch_however_it_is_cut(
    loss: Chosen, shape: PackingConfig, policy: Policy, inputs_of: Make
) -> None:
    examples = inputs_of(loss).examples(policy, loss)
    check_step(examples, loss, policy, shape, lambda _: 8.0)


@pytest.mark.parametrize("shape", EVERY_SHAPE)
def test_a_loss_of_ones_own_that_couples_rows_gets_the_whole_batch(
    shape: PackingConfig, policy: Policy, inputs_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rows alone each loss would be 0, because a batch of one margin has all the mass there is."""
    loss = loss_of(monkeypatch, "pairwise", "softmax", SOFTMAX)
    examples = inputs_of(loss).examples(policy, loss)
    outcome = check_step(examples, loss, policy, shape, lambda _: 8.0)
    assert torch.exp(-outcome.losses).sum() == pytest.approx(1)


@pytest.mark.parametrize("loss", [AOT, SLIC, KTO], ids=lambda loss: loss.name)
@pytest.mark.parametrize("shape", ["one pass", "row by row"])
def test_a_mean_over_weights_divides_by_the_weights_of_the_whole_batch(
    loss: Chosen, shape: str, policy: Policy, inputs_of: Make
) -> None:
    examples = inputs_of(loss).examples(policy, loss, average_over="weights")
    outcome = check_step(examples, loss, policy, SHAPES[shape], lambda e: float(e.weights.sum()))
    weighted = sum(w * x for w, x in zip(examples.weights[outcome.rows].tolist(), outcome.losses.tolist(), strict=True))
    assert step_metrics(examples, outcome)["train/loss"] == pytest.approx(weighted / 10.0)


def test_a_batch_of_small_weights_makes_a_small_step_over_rows_and_a_whole_one_over_weights(
    policy: Policy, tmp_path: Path
) -> None:
    """Weights of 0.1 in all 4 rows: gradients are a tenth, or the same as without weights."""
    table = preferences(4)
    place = table.table.column_names.index("weight")

    def norm(weight: float, average_over: str) -> float:
        column = pa.array([weight] * 4, pa.float64())
        data = tokenized(Preferences.of(table.table.set_column(place, "weight", column)), policy, tmp_path)
        work = Workspace(tmp_path / f"{weight}-{average_over}")
        ref = logps(policy, data, Workspace(tmp_path))
        fit(policy, data, work, ref, loss=DPO, lr=1e-9, batch=4, average_over=average_over)
        return dict(work.curves)[1]["grad_norm"]

    plain = norm(1.0, "rows")
    assert norm(0.1, "rows") == pytest.approx(plain / 10, rel=1e-5)
    assert norm(0.1, "weights") == pytest.approx(plain, rel=1e-5)


def test_weights_by_which_no_mean_can_be_taken_are_refused(policy: Policy, tmp_path: Path) -> None:
    table, place = preferences(3), preferences(3).table.column_names.index("weight")

    def examples(weights: list[float], average_over: str) -> Examples:
        data = Preferences.of(table.table.set_column(place, "weight", pa.array(weights, pa.float64())))
        data = tokenized(data, policy, tmp_path)
        ref = logps(policy, data, Workspace(tmp_path))
        options: Any = {"average_over": average_over}
        return examples_of(data, rows_of(data, policy), DPO, ref, **options)

    examples([1.0, -1.0, 1.0], "rows")
    with pytest.raises(DataError, match="1 of 3 rows have a weight below 0"):
        examples([1.0, -1.0, 1.0], "weights")
    with pytest.raises(DataError, match="1 of 3 rows have a weight that is not finite"):
        examples([1.0, 1.0, float("inf")], "rows")
    assert examples([0.0, 0.0, 1.0], "weights").total_weight(np.array([0, 1])) == 1.0, "nothing is divided by 0"


def test_a_batch_may_contain_a_row_twice(policy: Policy, inputs_of: Make) -> None:
    """The border of two epochs lies in it: a loss that couples rows counts the row twice."""
    examples = inputs_of(AOT).examples(policy, AOT)
    steps = []
    for shape in ("one pass", "row by row"):
        model = open_model(policy, torch.float32)
        add_gradients(network_of(model), examples, AOT, np.array([2, 5, 2, 1]), SHAPES[shape])
        steps.append([p.grad for p in model.parameters()])
    for one, other in zip(*steps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_one_micro_batch_on_one_rank_is_read_once_and_several_are_read_twice(policy: Policy, inputs_of: Make) -> None:
    examples = inputs_of(AOT).examples(policy, AOT)
    model = open_model(policy, torch.float32)
    network = network_of(model)
    computes_in_spans(model)
    reads = []
    model.model.register_forward_hook(lambda *_: reads.append(1))
    add_gradients(network, examples, AOT, np.arange(8), SHAPES["one pass"])
    assert len(reads) == 1
    add_gradients(network, examples, AOT, np.arange(8), SHAPES["row by row"])
    assert len(reads) == 1 + 2 * 8


def test_the_reference_point_of_kto_is_the_mean_over_the_batch_and_unclamped(
    policy: Policy, inputs_of: Make, tmp_path: Path
) -> None:
    inputs = inputs_of(KTO)
    examples = inputs.examples(policy, KTO)
    assert inputs.mismatched is not None
    own = logps(policy, inputs.mismatched, Workspace(tmp_path / "own")).table.column("logps").to_numpy()
    ref = inputs.mismatched_logps.table.column("logps").to_numpy() if inputs.mismatched_logps else own
    batch = np.array([6, 1, 3])
    for shape in ("one pass", "row by row"):
        model = open_model(policy, torch.float32)
        outcome = add_gradients(network_of(model), examples, KTO, batch, SHAPES[shape])
        assert outcome.kl_reference == pytest.approx(float((own - ref)[batch].mean()), abs=1e-4)
        assert step_metrics(examples, outcome)["train/kl_reference"] == outcome.kl_reference
    kl = [
        add_gradients(network_of(open_model(policy, torch.float32)), examples, KTO, np.array([i]), SHAPES["one pass"])
        for i in range(8)
    ]
    assert min(one.kl_reference or 0.0 for one in kl) < 0, "some answer is less likely than under the reference"


@pytest.mark.parametrize("loss", [
    AOT, *(pytest.param(loss, marks=pytest.mark.slow) for loss in (KTO, NASH, SLIC, XPO)),
], ids=lambda loss: loss.name)  # fmt: skip
def test_a_killed_training_ends_in_the_same_bytes(
    loss: Chosen, policy: Policy, inputs_of: Make, tmp_path: Path
) -> None:
    inputs = inputs_of(loss)
    options = {"lr": 1e-3, "batch": 4, "epochs": 2, "max_tokens_per_microbatch": 96, "checkpoint_every": 1}

    def train(folder: Path, stop: int = 0) -> bytes:
        work = Mortal(folder, stop) if stop else Workspace(folder)
        fit(policy, inputs.data, work, loss=loss, **inputs.ports, **options)
        return (work.output / "model.safetensors").read_bytes()

    straight = train(tmp_path / "straight")
    with pytest.raises(Killed):
        train(tmp_path / "killed", stop=2)
    assert train(tmp_path / "killed") == straight


def test_a_loss_that_couples_rows_is_tried_on_pieces_of_a_large_table(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may compare every two rows, which for 100,000 rows at once would need 80 GB."""
    text = SOFTMAX.replace("margins.logsumexp(0)", "SIZES.append(len(margins)) or margins.logsumexp(0)")
    loss = loss_of(monkeypatch, "pairwise", "softmax", "    SIZES = []\n" + text)
    monkeypatch.setattr(examples_module, "_PIECE", 3)
    data = tokenized(preferences(7), policy, tmp_path)
    examples_of(data, rows_of(data, policy), loss, None)
    assert loss.function.__globals__["SIZES"] == [3, 3, 1]


def test_a_loss_whose_targets_are_no_chosen_answers_is_refused_without_a_table_of_them(
    policy: Policy, inputs_of: Make
) -> None:
    inputs = inputs_of(XPO)._replace(targets=None)
    with pytest.raises(SpecError, match="'xpo' needs a table of target answers"):
        inputs.examples(policy, XPO)
