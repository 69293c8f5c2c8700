"""Log-probabilities of a whole table under a frozen model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.contract import Workspace
from tasks.training.batches import sorted_micro_batches
from tasks.training.logps import AnswerLogps, inputs_of
from tasks.training.model import shape_for
from tasks.training.rows import Rows


def score_rows(model: Any, rows: Rows, micro_tokens: int, work: Workspace) -> npt.NDArray[np.float64]:
    """Summed log-probability of every answer, `(A,)` nats, in the order of the rows whatever order they ran in."""
    scorer = AnswerLogps(model)
    out = np.full(len(rows.answer_ids), np.nan)
    done = 0
    for batch in sorted_micro_batches(rows, shape_for(model, micro_tokens)):
        answers = [a for row in batch.rows.tolist() for a in rows.answers_of(row)]
        with torch.inference_mode():
            out[answers] = scorer(inputs_of(batch, model.device)).cpu().numpy()
        done += len(batch.rows)
        work.progress(done, len(rows), "rows")
    return out
