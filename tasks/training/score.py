"""Log-probabilities or scores of all answers of a table, by a frozen model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.training.batches import sorted_micro_batches
from tasks.training.body import inputs_of
from tasks.training.device import Device
from tasks.training.model import packing_for
from tasks.training.rows import Rows


def score_rows(
    scorer: Any,
    rows: Rows,
    device: Device,
    max_tokens_per_microbatch: int,
    progress: Callable[[float, float, str], None] | None = None,
) -> npt.NDArray[np.float64]:
    """The scorer's value of every answer, `(A,)`, in the order of the rows.

    `scorer` maps a micro-batch's inputs to a number per answer; its `model` lies on `device`.
    """
    out = np.full(len(rows.answer_ids), np.nan)
    done = 0
    for batch in sorted_micro_batches(rows, packing_for(scorer.model, device, max_tokens_per_microbatch)):
        answers = [a for row in batch.rows.tolist() for a in rows.answers_of(row)]
        with torch.inference_mode():
            out[answers] = scorer(inputs_of(batch, device.torch_device)).cpu().numpy()
        done += len(batch.rows)
        if progress:
            progress(done, len(rows), "rows")
    return out
