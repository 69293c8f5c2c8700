"""Scores of answers by a reward model: its body over whole lanes, its head at the last token of each answer.

Lanes leave out an answer's last token, because nothing is predicted from it (`batches`). A reward model reads just
that one, so its rows are `with_end_token`: one more token stands behind each answer and takes that place, never read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.training.logps import Inputs, hidden_states
from tasks.training.rows import Ragged, Rows


def with_end_token(rows: Rows) -> Rows:
    """`rows` with one more token behind each answer, so that the answer's own last one is read."""
    if rows.marked:
        return rows
    values = np.insert(rows.answers.values, rows.answers.offsets[1:], 0)
    answers = Ragged(values, rows.answers.offsets + np.arange(len(rows.answers.offsets)))
    return Rows(rows.prompts, answers, rows.starts, rows.prompt_ids, rows.answer_ids, marked=True)


class AnswerScores(nn.Module):
    """A sequence-classification model with one output that answers with the score of each answer of a micro-batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._check()

    def forward(self, inputs: Inputs) -> Tensor:
        """`(S,)` float64: rows of `with_end_token`, in the micro-batch's order. The head computes in float32."""
        last = inputs.sources[inputs.lengths.cumsum(0) - 1]
        # `embedding` and not an index: its backward sums repeated rows in a fixed order.
        picked = nn.functional.embedding(last, hidden_states(self.model, inputs).flatten(0, 1))
        head = self.model.score
        with torch.autocast(picked.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            return nn.functional.linear(picked.float(), head.weight.float(), bias)[:, 0].double()

    def _check(self) -> None:
        """Compare with the model's own score once: it must be that of the last token, blind to what comes after."""
        config = self.model.config.get_text_config()
        ids = [i for i in range(1, 12) if i != config.pad_token_id][:9]
        read = torch.tensor([ids], device=self.model.device) % config.vocab_size
        at, length = torch.tensor([7], device=read.device), torch.tensor([1], device=read.device)
        with torch.no_grad():
            own = self.model(input_ids=read[:, :8]).logits[0, 0].double()
            ours, longer = (self(Inputs(x, None, None, None, at, at, length))[0] for x in (read[:, :8], read))
        near = 1e-3 if self.model.dtype == torch.float32 else 5e-2
        for found in (ours, longer):
            if not torch.isclose(own, found, rtol=near, atol=near):
                raise SpecError(
                    f"{type(self.model).__name__} does not score by its last token alone ({float(own):.6f} by its "
                    f"own forward, {float(found):.6f} by the head at that token): to be trained on scores it needs a "
                    "causal body and a linear head"
                )
