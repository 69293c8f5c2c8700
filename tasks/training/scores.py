"""Scores of answers by a reward model: its body over whole segments, its head at the last token of each answer.

Segments leave out an answer's last token, because nothing is predicted from it (`packing`). A reward model reads just
that one, so its rows are `with_end_token`: an extra token follows each answer and is left out in its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.training.batches import single_row
from tasks.training.body import Inputs, computed_dtype, hidden_states, inputs_of
from tasks.training.rows import Ragged, Rows


def with_end_token(rows: Rows) -> Rows:
    """`rows` with an extra token after each answer, so that the answer's own last one is read."""
    if rows.marked:
        return rows
    values = np.insert(rows.answers.values, rows.answers.offsets[1:], 0)
    answers = Ragged(values, rows.answers.offsets + np.arange(len(rows.answers.offsets)))
    return Rows(rows.prompts, answers, rows.starts, rows.prompt_ids, rows.answer_ids, marked=True)


class AnswerScores(nn.Module):
    """A sequence-classification model that returns the outputs of each answer of a micro-batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._check()

    def forward(self, inputs: Inputs) -> Tensor:
        """`(S,)` float64, or `(S, M)` of M > 1 outputs: rows of `with_end_token`, in the micro-batch's order.

        The head computes in float32.
        """
        last = inputs.sources[inputs.lengths.cumsum(0) - 1]
        # `embedding` and not an index: its backward sums repeated rows in a fixed order.
        picked = nn.functional.embedding(last, hidden_states(self.model, inputs).flatten(0, 1))
        head = self.model.score
        with torch.autocast(picked.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            found = nn.functional.linear(picked.float(), head.weight.float(), bias).double()
        return found if found.shape[1] > 1 else found[:, 0]

    def _check(self) -> None:
        """Compare with the model's own score once: it must be that of the last token, whatever comes after it."""
        config = self.model.config.get_text_config()
        ids = [i for i in range(1, 12) if i != config.pad_token_id][:9]
        read, at = np.array([ids]) % config.vocab_size, np.array([7])
        short, whole = (inputs_of(single_row(x, at, at), self.model.device) for x in (read[:, :8], read))
        with torch.no_grad():
            own = self.model(input_ids=short.ids).logits[0].double()
            ours, longer = self(short).reshape(-1), self(whole).reshape(-1)
        near = 1e-3 if computed_dtype(self.model) == torch.float32 else 5e-2
        for found in (ours, longer):
            if not torch.allclose(own, found, rtol=near, atol=near):
                raise SpecError(
                    f"{type(self.model).__name__} does not score by its last token alone ({float(own[0]):.6f} by its "
                    f"own forward, {float(found[0]):.6f} by the head at that token): to be trained on scores it needs "
                    "a causal body and a linear head"
                )
