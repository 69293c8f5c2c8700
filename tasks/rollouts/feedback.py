"""Questions to the oracle about an iteration's answers, and which of the answers are learnt from."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tasks.contract import DataError, Workspace
from tasks.ids import digest
from tasks.judging.journal import Journal
from tasks.judging.pairing import Questions
from tasks.kinds import Scorer
from tasks.ranks import this_rank
from tasks.rollouts.method import Answers, Feedback
from tasks.training.rows import Ints

Floats = npt.NDArray[np.float64]


def scores_of(
    answers: Answers, oracle: Scorer, journals: Path, work: Workspace, *, best_of: int = 1, least: int = 2
) -> Feedback:
    """The answers that the oracle scores, with their scores; of each `best_of` in their order the best one alone.
    Raises DataError if fewer than `least` answers are left.

    journals: folder in which scores are stored as they arrive, so that a kill loses one shard of questions at most.
    Several ranks query the oracle for a share of the questions each, and receive all scores.
    """
    questions, blend = Questions(answers.table), oracle.blend
    with Journal(_file(answers, journals), work, oracle, shared=this_rank().world > 1) as journal:
        if blend is None:
            scores, members = questions.scores(oracle, journal), np.empty((len(answers), 0))
        else:
            scores, members = questions.blended(blend, journal)
    learnt, scored = best_of_each(scores, best_of), int((~np.isnan(scores)).sum())
    if len(learnt) < least:
        raise DataError(f"the oracle scored {scored} of {len(answers)} answers: there is nothing to learn from")
    columns = zip(blend.names if blend else (), members[learnt].T, strict=True)
    return Feedback(
        answers.take(learnt), torch.from_numpy(scores[learnt]), len(answers) - scored, journal.queries,
        scored - len(learnt), sum(len(a.tokens) for a in answers.sampled),
        {name: torch.from_numpy(column) for name, column in columns},
    )  # fmt: skip


def best_of_each(scores: Floats, n: int) -> Ints:
    """Number of the highest score of each n in their order, the first of equal ones; none where all are NaN."""
    table = scores.reshape(-1, n)
    answered = np.flatnonzero(~np.isnan(table).all(axis=1))
    return answered * n + np.nanargmax(table[answered], axis=1) if len(answered) else answered


def _file(answers: Answers, journals: Path) -> Path:
    """An engine need not sample the same again: then the questions are others, and so is the name of their journal."""
    journals.mkdir(parents=True, exist_ok=True)
    content = answers.table.select(["prompt_id", "completion"]).to_pydict()
    return journals / f"{digest(json.dumps(content))}.jsonl"
