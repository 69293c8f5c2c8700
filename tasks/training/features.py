"""Features of answers: what a reward model's head reads, its last hidden state at the end of the answer's turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.contract import SpecError
from tasks.kinds import RewardModel
from tasks.message import Message
from tasks.rendering import Template
from tasks.training.batches import collate
from tasks.training.body import Inputs, hidden_states, inputs_of
from tasks.training.device import this_device
from tasks.training.heads import is_trained_here
from tasks.training.model import keep_memory, packing_for, positions_of
from tasks.training.packing import plan_table
from tasks.training.reward import open_reward_model
from tasks.training.scores import AnswerScores, with_end_token
from tasks.training.texts import placed, readable

Floats = npt.NDArray[np.float64]


class FeatureReader(NamedTuple):
    """Reads the features of answers."""

    width: int
    """d: how many an answer has."""
    read: Callable[[Sequence[Sequence[Message]], Sequence[str]], list[Floats | None]]
    """From prompts and answers, `(d,)` each; None for an answer that the model cannot read."""


def feature_reader(source: RewardModel, dtype: str) -> FeatureReader:
    """What reads the features by which a reward model scores.

    Raises SpecError for a reward model from outside, which may read its score elsewhere.
    """
    if not is_trained_here(source.path):
        raise SpecError(
            f"{source.path} was not trained by `train_reward`, so which hidden state its score is read from is not "
            "known: use `uncertainty: ensemble`, or train a reward model from it"
        )
    keep_memory()
    device = this_device()
    model = open_reward_model(source, device.dtype(dtype)).to(device.torch_device)
    AnswerScores(model)  # refuses a head that is not linear
    reader, template, longest = _EndStates(model), Template(source), positions_of(source)

    def read(prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> list[Floats | None]:
        found = readable(template, longest, prompts, completions)
        if found is None:
            return [None] * len(completions)
        rows = with_end_token(found.rows)
        states: dict[int, Floats] = {}
        for planned in plan_table(rows, packing_for(model, device, 0)):
            batch = collate(rows, planned)
            answers = [a for row in batch.rows.tolist() for a in rows.answers_of(row)]
            with torch.inference_mode():
                values = reader(inputs_of(batch, device.torch_device)).double().cpu().numpy()
            states |= dict(zip(answers, values, strict=True))
        return placed(len(completions), found.places, [states[a] for a in range(len(found.places))])

    return FeatureReader(model.score.in_features, read)


class _EndStates(nn.Module):
    """Hidden states at the end of each answer of a micro-batch, `(S, d)`: rows of `with_end_token`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        last = inputs.sources[inputs.lengths.cumsum(0) - 1]
        return hidden_states(self.model, inputs).flatten(0, 1)[last]
