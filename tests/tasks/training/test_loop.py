"""One optimizer step, cut in every way: batch 8 × 1 = 1 × 8, packed = padded, whatever the lengths and weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.contract import Chosen
from tasks.kinds import Policy, Table
from tasks.ranks import Ranks
from tasks.train import logps
from tasks.training.body import computes_in_spans
from tasks.training.device import this_device
from tasks.training.examples import Examples, examples_of, loss_on_batch
from tasks.training.logps import AnswerLogps
from tasks.training.metrics import StepLosses
from tasks.training.model import open_model
from tasks.training.packing import PackingConfig, plan_batch
from tasks.training.parallel import Replica
from tasks.training.rows import rows_of
from tasks.training.step import add_gradients, on_host
from tests.models import tiny_policy
from tests.tasks.training.tables import (
    DPO,
    RRHF,
    SFT,
    SPPO,
    demonstrations,
    preferences,
    rankings,
    tokenized,
    win_rates,
)
from tests.tasks.training.test_logps import plain_logps
from tests.workspace import Workspace

CASES = {"sft": (demonstrations(8), SFT), "dpo": (preferences(8), DPO), "sppo": (win_rates(10), SPPO),
         "rrhf": (rankings(), RRHF)}  # fmt: skip
SHAPES = {
    "one pass": PackingConfig(4096, 32, True), "row by row": PackingConfig(1, 32, True),
    "padded": PackingConfig(200, 32, False), "in spans": PackingConfig(100, 32, True, span_cost=0.0),
}  # fmt: skip


def _examples(table: Table, loss: Chosen, policy: Policy, folder: Path) -> Examples:
    data = table.table
    weights = pa.array(np.linspace(0.5, 2, len(data)), pa.float64())
    weighted = type(table).of(data.set_column(data.column_names.index("weight"), "weight", weights))
    ready = tokenized(weighted, policy, folder)
    # Another policy is the reference, so that no log-ratio is 0.
    ref = tiny_policy(folder / "ref", seed=1)
    ref_logps = None if loss in (SFT, RRHF) else logps(ref, ready, Workspace(folder))
    return examples_of(ready, rows_of(ready, policy), loss, ref_logps)


def _network(scorer: AnswerLogps) -> Replica:
    return Replica(scorer, this_device(), Ranks(), half=False)


def _step(
    examples: Examples, loss: Chosen, policy: Policy, shape: PackingConfig
) -> tuple[StepLosses, dict[str, torch.Tensor]]:
    model = open_model(policy, torch.float32)
    batch = np.random.default_rng(0).permutation(len(examples.rows))
    outcome = add_gradients(_network(AnswerLogps(model)), examples, loss, batch, shape)
    return outcome, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("table", "loss"), CASES.values(), ids=CASES.keys())
def test_the_gradient_is_that_of_the_weighted_mean_over_all_rows(
    table: Table, loss: Chosen, shape: PackingConfig, policy: Policy, tmp_path: Path
) -> None:
    examples = _examples(table, loss, policy, tmp_path)
    model = open_model(policy, torch.float32)
    every = torch.arange(len(examples.rows))
    losses = loss_on_batch(examples, loss, every, plain_logps(model, examples.rows))
    (losses * examples.weights).mean().backward()
    outcome, gradients = _step(examples, loss, policy, shape)
    found = dict(zip(outcome.rows.tolist(), outcome.losses.tolist(), strict=True))
    assert [found[i] for i in range(len(found))] == pytest.approx(losses.tolist(), rel=1e-4)
    for name, parameter in model.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize(("table", "loss"), CASES.values(), ids=CASES.keys())
def test_a_step_waits_for_no_number_of_a_micro_batch(
    table: Table, loss: Chosen, policy: Policy, tmp_path: Path
) -> None:
    """On a GPU each would be a synchronisation; one transfer at the end brings all."""
    examples = _examples(table, loss, policy, tmp_path)
    in_spans = PackingConfig(100, 32, share=True, span_cost=0.0)

    class Reads(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Reads.number += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return func(*args, **(kwargs or {}))

    network = _network(AnswerLogps(open_model(policy, torch.float32)))
    computes_in_spans(network.scorer.model)  # the comparison of attention on first use waits
    with Reads():
        added = add_gradients(network, examples, loss, np.arange(len(examples.rows)), in_spans)
    assert Reads.number == 0
    step, norm = on_host(added, torch.tensor(2.5))
    assert norm == 2.5
    assert torch.equal(step.losses, added.losses)
    assert torch.equal(step.logps, added.logps)


@pytest.mark.parametrize(("table", "loss"), CASES.values(), ids=CASES.keys())
def test_losses_are_computed_where_the_model_is(table: Table, loss: Chosen, policy: Policy, tmp_path: Path) -> None:
    """The device `meta` stands for any other than the CPU: tensors of both do not mix."""
    examples = _examples(table, loss, policy, tmp_path)
    outputs = torch.empty(len(examples.rows.answer_ids), dtype=torch.float64, device="meta")
    assert loss_on_batch(examples, loss, torch.arange(len(examples.rows)), outputs).device.type == "meta"


def test_row_by_row_really_takes_a_pass_for_each_row(policy: Policy, tmp_path: Path) -> None:
    rows = _examples(*CASES["dpo"], policy, tmp_path).rows
    assert [len(plan_batch(rows, np.arange(8), s)) for s in SHAPES.values()] == [
        1,
        8,
        pytest.approx(4, abs=2),
        pytest.approx(4, abs=2),
    ]
