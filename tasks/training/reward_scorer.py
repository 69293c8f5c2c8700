"""A reward model as a live scorer: texts in, through its own template, scores out. `RewardModel.opened` calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from tasks.kinds import RewardModel, Scorer
from tasks.message import Message
from tasks.rendering import AnswerText, Rendered, Template
from tasks.training.classifier import Classifier
from tasks.training.device import this_device
from tasks.training.heads import Attribute, attributes_of, is_trained_here
from tasks.training.model import keep_memory, positions_of
from tasks.training.padding import QUESTIONS_TO_SORT
from tasks.training.reward import open_reward_model
from tasks.training.rows import rows_of_ids
from tasks.training.score import score_rows
from tasks.training.scores import AnswerScores, with_end_token

Scoring = Callable[[Sequence[Sequence[Message]], Sequence[str]], list[list[float] | None]]
"""Prompts and answers → the outputs of each answer, None where it cannot be read."""


def reward_scorer(
    *, path: str, base: str | None = None, dtype: Literal["auto", "float32", "bfloat16"] = "auto"
) -> Scorer:
    """The scorer behind a reward model: P(a beats b) = σ(score(a) − score(b)).

    One with named outputs gives them in the units of the scores that it was trained on; its score is their weighted
    sum.
    A model that was trained here, as its config.json says, is read at the token that ends the answer's turn, where it
    was trained. Any other is asked as its card does: the whole conversation, its own `forward` (`Classifier`).
    Answers are texts, so each is read as one that ended by itself. An answer that is longer, with its prompt, than the
    model can read has no score (None), nor has one that the template refuses. Raises DataError if the checkpoint is no
    reward model.

    Args:
        path: a Hugging Face sequence-classification directory that scores, or an adapter of one.
        base: directory of the adapter's base.
        dtype: of the weights, and of what is computed with them; `auto`: float32 on a CPU, bfloat16 on a GPU.
    """
    source = RewardModel(Path(path), base=RewardModel(Path(base)) if base else None)
    attributes = attributes_of(source.path)
    keep_memory()
    open_scoring = _trained_here if is_trained_here(source.path) else _from_outside
    scoring = open_scoring(source, dtype)

    def measure(prompts: Sequence[Sequence[Message]], completions: Sequence[str], _: object) -> list[Any]:
        return [None if row is None else _in_units(row, attributes) for row in scoring(prompts, completions)]

    if attributes:
        scorer = Scorer.measuring(measure, [a.name for a in attributes])
    else:
        scorer = Scorer.scoring(lambda *rows: [None if row is None else row[0] for row in scoring(*rows[:2])])
    scorer.questions_per_call = QUESTIONS_TO_SORT
    return scorer


def _in_units(outputs: Sequence[float], attributes: Sequence[Attribute]) -> list[float]:
    return [a.mean + a.std * output for a, output in zip(attributes, outputs, strict=True)]


def _from_outside(source: RewardModel, dtype: str) -> Scoring:
    device = this_device()
    model = Classifier(source, device, device.dtype(dtype))

    def score(prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> list[list[float] | None]:
        made = model.layout.encoded(prompts, completions)
        fits = [(i, row) for i, row in enumerate(made) if row is not None and model.fits(row)]
        return _placed(len(made), [i for i, _ in fits], model.scores([row for _, row in fits]))

    return score


def _trained_here(source: RewardModel, dtype: str) -> Scoring:
    device = this_device()
    model = AnswerScores(open_reward_model(source, device.dtype(dtype)).to(device.torch_device))
    template, longest = Template(source), positions_of(source)

    def score(prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> list[list[float] | None]:
        made = template.answers([AnswerText(p, t) for p, t in zip(prompts, completions, strict=True)])
        read = [(i, m) for i, m in enumerate(made) if isinstance(m, Rendered)]
        fits = [(i, m) for i, m in read if longest is None or m.shared + len(m.answer) <= longest]
        if not fits:
            return [None] * len(made)
        rows = rows_of_ids([m.prompt[: m.shared] for _, m in fits], [m.answer for _, m in fits])
        count = model.model.config.num_labels
        outputs = score_rows(model, with_end_token(rows), device, 0, outputs=count).reshape(-1, count)
        return _placed(len(made), [i for i, _ in fits], outputs.tolist())

    return score


def _placed(size: int, places: Sequence[int], values: Sequence[list[float]]) -> list[list[float] | None]:
    found: list[list[float] | None] = [None] * size
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found
