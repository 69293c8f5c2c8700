"""A reward model as a live scorer: texts in, through its own template, scores out. `RewardModel.opened` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.contract import DataError
from tasks.kinds import RewardModel, Scorer
from tasks.rendering import Answer, Rendered, Template
from tasks.training.model import keep_memory, pick_device, positions_of
from tasks.training.reward import is_classifier, open_reward_model
from tasks.training.rows import rows_of_ids
from tasks.training.score import score_rows
from tasks.training.scores import AnswerScores, marked


def reward_scorer(*, path: str) -> Scorer:
    """The scorer behind a reward model: the score at the EOS of prompt and answer; P(a beats b) = σ(difference).

    Answers are texts, so each is read as one that ended by itself. Rows that go through the model together are of
    similar length. It computes in float32 everywhere, so that no number type need be in a key. An answer that is
    longer, with its prompt, than the model can read has no score (None). Raises DataError if the checkpoint is no
    reward model.

    Args:
        path: a Hugging Face sequence-classification directory with one output.
    """
    source = RewardModel(Path(path))
    if not is_classifier(source):
        raise DataError(f"{path} has no classification head, so it is no reward model: `train_reward` makes one")
    keep_memory()
    device = pick_device()
    model = AnswerScores(open_reward_model(source, torch.float32).to(device))
    template, longest = Template(source), positions_of(source)

    def score(prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]) -> list[float | None]:
        made = template.answers([Answer(p, t) for p, t in zip(prompts, completions, strict=True)])
        read = [(i, m) for i, m in enumerate(made) if isinstance(m, Rendered)]
        fits = [(i, m) for i, m in read if longest is None or m.shared + len(m.answer) <= longest]
        scores: list[float | None] = [None] * len(made)
        if fits:
            rows = rows_of_ids([m.prompt[: m.shared] for _, m in fits], [m.answer for _, m in fits])
            for (i, _), value in zip(fits, score_rows(model, marked(rows), 0).tolist(), strict=True):
                scores[i] = value
        return scores

    return Scorer.scoring(score)
