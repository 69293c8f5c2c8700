"""Log-probabilities or scores of all answers of a table, by a frozen model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.ranks import Ranks, gather_all
from tasks.training.batches import collate
from tasks.training.body import inputs_of
from tasks.training.device import Device
from tasks.training.model import packing_for
from tasks.training.packing import plan_table
from tasks.training.rows import Rows


def score_rows(
    scorer: Any,
    rows: Rows,
    device: Device,
    max_tokens_per_microbatch: int,
    progress: Callable[[float, float, str], None] | None = None,
    ranks: Ranks = Ranks(),
    outputs: int = 1,
) -> npt.NDArray[np.float64]:
    """The scorer's values of every answer, `(A,)` or `(A, outputs)`, in the order of the rows.

    `scorer` maps a micro-batch's inputs to `outputs` numbers per answer; its `model` lies on `device`. ranks: which of
    the processes that share the work this one is, all of which get all values; they take turns at the micro-batches of
    a process alone, whose bits the values have.
    """
    out = np.full((len(rows.answer_ids), outputs)[: 1 + (outputs > 1)], np.nan)
    done = 0
    for i, planned in enumerate(plan_table(rows, packing_for(scorer.model, device, max_tokens_per_microbatch))):
        if i % ranks.world == ranks.rank:
            batch = collate(rows, planned)
            answers = [a for row in batch.rows.tolist() for a in rows.answers_of(row)]
            with torch.inference_mode():
                out[answers] = scorer(inputs_of(batch, device.torch_device)).cpu().numpy()
        done += sum(len(group.rows) for group in planned.groups)
        if progress:
            progress(done, len(rows), "rows")
    parts = gather_all(out) if ranks.world > 1 else [out]
    for part in parts:
        out[~np.isnan(part)] = part[~np.isnan(part)]
    return out
