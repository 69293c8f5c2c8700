"""What losses read besides the table that they train on: reference, anchors, targets, answers to other prompts."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tasks.contract import Chosen
from tasks.kinds import Labels, Logps, Policy, Preferences, Table
from tasks.train import logps, mismatched_answers
from tasks.training.examples import Examples, examples_of
from tasks.training.rows import rows_of
from tasks.training.targets import with_targets
from tests.models import tiny_policy
from tests.tasks.training.tables import labels, preferences, targets, tokenized
from tests.workspace import Workspace

FLAGS = [True, False, True, True, False, True, True, True]


class Inputs(NamedTuple):
    """What `fit` gets for a loss, but its model."""

    data: Table
    ref: Logps
    anchors: list[Logps]
    targets: Table | None
    mismatched: Labels | None
    mismatched_logps: Logps | None

    @property
    def ports(self) -> dict[str, Any]:
        """Of `fit`."""
        return {
            "ref_logps": self.ref, "anchor_logps": self.anchors, "targets": self.targets,
            "mismatched": self.mismatched, "mismatched_logps": self.mismatched_logps,
        }  # fmt: skip

    def examples(self, policy: Policy, loss: Chosen, **options: Any) -> Examples:
        rows = rows_of(self.data, policy)
        return examples_of(
            self.data, rows if self.targets is None else with_targets(rows, self.targets, policy), loss, self.ref,
            anchor_logps=self.anchors, mismatched_logps=self.mismatched_logps,
            mismatched=None if self.mismatched is None else rows_of(self.mismatched, policy), **options,
        )  # fmt: skip


def inputs_for(loss: Chosen, policy: Policy, folder: Path) -> Inputs:
    """Tables of 8 rows with uneven weights; other policies are reference and anchors."""
    of_pairs = loss.folder.endswith("pairwise")
    table: Table = preferences(8) if of_pairs else labels(FLAGS)
    weights = pa.array(np.linspace(0.5, 2, len(table)), pa.float64())
    table = type(table).of(table.table.set_column(table.table.column_names.index("weight"), "weight", weights))
    data = tokenized(table, policy, folder)
    ref, *others = (tiny_policy(folder / f"model-{seed}", seed=seed) for seed in (1, 2, 3))
    scored = [logps(one, data, Workspace(folder / "logps")) for one in (ref, *others)]
    needs_targets = isinstance(table, Preferences) and loss.name in ("slic", "xpo")
    aim = tokenized(targets(table), policy, folder / "targets") if needs_targets else None
    mixed = None if of_pairs else mismatched_answers(policy, data, Workspace(folder / "mixed"))
    mixed_logps = None if mixed is None else logps(ref, mixed, Workspace(folder / "mixed"))
    return Inputs(data, scored[0], scored[1:], aim, mixed, mixed_logps)
