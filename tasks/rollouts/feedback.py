"""Questions to the oracle about an iteration's answers."""

import json
from pathlib import Path

import numpy as np
import torch

from tasks.contract import DataError, Workspace
from tasks.ids import digest
from tasks.judging.journal import Journal
from tasks.judging.pairing import Questions
from tasks.kinds import Scorer
from tasks.ranks import this_rank
from tasks.rollouts.method import Answers, Feedback


def scores_of(answers: Answers, oracle: Scorer, journals: Path, work: Workspace, least: int = 2) -> Feedback:
    """The answers that the oracle scores, with their scores. Raises DataError if it scores fewer than `least`.

    journals: folder in which scores are stored as they arrive, so that a kill loses one shard of questions at most.
    Several ranks query the oracle for a share of the questions each, and receive all scores.
    """
    with Journal(_file(answers, journals), work, oracle, shared=this_rank().world > 1) as journal:
        scores = Questions(answers.table).scores(oracle, journal)
    good = np.flatnonzero(~np.isnan(scores))
    if len(good) < least:
        raise DataError(f"the oracle scored {len(good)} of {len(answers)} answers: there is nothing to learn from")
    return Feedback(
        answers.take(good), torch.from_numpy(scores[good]), len(answers) - len(good), journal.queries
    )  # fmt: skip


def _file(answers: Answers, journals: Path) -> Path:
    """An engine need not sample the same again: then the questions are others, and so is the name of their journal."""
    journals.mkdir(parents=True, exist_ok=True)
    content = answers.table.select(["prompt_id", "completion"]).to_pydict()
    return journals / f"{digest(json.dumps(content))}.jsonl"
