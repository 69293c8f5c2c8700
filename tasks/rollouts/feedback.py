"""Questions to the oracle about an iteration's answers, and which of the answers are learnt from."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from tasks.contract import DataError, Workspace
from tasks.ids import digest
from tasks.judging.journal import Journal
from tasks.judging.pairing import Questions, answer_pairs, mean_p
from tasks.kinds import Oracle, Scorer
from tasks.ranks import this_rank
from tasks.rollouts.answers import Answers, ComparedPairs, Feedback
from tasks.rollouts.method import Method
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


def comparisons_of(method: Method, answers: Answers, oracle: Oracle, journals: Path, work: Workspace) -> Feedback:
    """The pairs that the method wants compared, with P(a beats b), and the answers that are in one of them.

    An oracle that depends on the order is queried as `method.orders` says, and p is the mean over both orders. Pairs
    without an answer are left out, and so are answers without a pair, and those of an opponent that is not learnt from.
    Raises DataError if no pair is left. journals: see `scores_of`.
    """
    a, b = method.pairs(answers)
    ids = pa.chunked_array([pa.array([str(request.seed) for request in answers.requests])])
    with Journal(_file(answers, journals), work, oracle, shared=this_rank().world > 1) as journal:
        answered = answer_pairs(Questions(answers.table), ids, a, b, oracle, method.orders, journal)
    p = mean_p(answered, len(a))
    good = ~np.isnan(p)
    if not good.any():
        raise DataError(f"the oracle compared none of {len(a)} pairs of answers: there is nothing to learn from")
    a, b = a[good], b[good]
    in_pair = np.isin(np.arange(len(answers)), np.concatenate([a, b]))
    learnt = ~answers.by_opponent if method.opponent and not method.opponent.is_learnt else np.ones(len(in_pair), bool)
    order = np.concatenate([np.flatnonzero(in_pair & learnt), np.flatnonzero(in_pair & ~learnt)])
    number = np.full(len(answers), -1)
    number[order] = np.arange(len(order))
    unanswered = int((~in_pair & ~answers.by_opponent).sum())
    pairs = ComparedPairs(number[a], number[b], torch.from_numpy(p[good]))
    kept = answers.take(order[: int((in_pair & learnt).sum())])
    tokens = sum(len(one.tokens) for one in answers.sampled)
    return Feedback(
        kept, None, unanswered, journal.queries, tokens=tokens, pairs=pairs, by_opponent=int(answers.by_opponent.sum())
    )


def _file(answers: Answers, journals: Path) -> Path:
    """An engine need not sample the same again: then the questions are others, and so is the name of their journal."""
    journals.mkdir(parents=True, exist_ok=True)
    content = answers.table.select(["prompt_id", "completion"]).to_pydict()
    return journals / f"{digest(json.dumps(content))}.jsonl"
