"""Dynamic sampling: prompts whose answers all have one score make room for other prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tasks.advantages.group import without_variance
from tasks.rollouts.answers import Answers, Feedback
from tasks.rollouts.sampler import Sampler


def draw_again(
    feedback: Feedback, sampler: Sampler, iteration: int, times: int, ask: Callable[[Answers], Feedback]
) -> Feedback:
    """The feedback on an iteration, its groups without variance replaced by groups of other prompts that have some.

    Up to `times` times, as many prompts are drawn as there are groups without variance; those of the new groups that
    vary take their places. What cannot be replaced stays as it was drawn first. Which prompts come, and their draws,
    follow from the seed, the iteration and the number of the attempt alone, so that a resumed training repeats them; no
    prompt comes twice in an iteration. The order of prompts of later iterations is the same with and without.

    ask: scores answers. Source: Yu et al. (DAPO), arXiv 2503.14476, §3.2.
    """
    if not times or feedback.scores is None:
        return feedback
    seen = set(feedback.answers.prompt_ids)
    for attempt in range(times):
        level = _level(feedback)
        if not level:
            break
        draws = sampler.order.others(iteration, attempt, len(level), seen)
        if not draws[0]:
            break
        answers = sampler.sample_draws(*draws)
        seen |= set(answers.prompt_ids)
        feedback = _replaced(feedback, level, ask(answers))
    return feedback


def _level(feedback: Feedback) -> list[int]:
    """Groups whose scores are all equal, in their order."""
    assert feedback.scores is not None
    groups = torch.from_numpy(feedback.answers.groups)
    return list(dict.fromkeys(groups[without_variance(feedback.scores, groups)].tolist()))


def _replaced(feedback: Feedback, level: list[int], drawn: Feedback) -> Feedback:
    """As many of the groups `level` replaced as there are drawn ones that vary; all others drawn are thrown away."""
    assert feedback.scores is not None
    assert drawn.scores is not None
    groups, level_again = drawn.answers.groups, set(_level(drawn)) if len(drawn.answers) else set()
    fresh = [g for g in dict.fromkeys(groups.tolist()) if g not in level_again]
    dropped = np.isin(feedback.answers.groups, level[: len(fresh)])
    kept, new = np.flatnonzero(~dropped), np.flatnonzero(np.isin(groups, fresh))
    numbers = dict(zip(fresh, level, strict=False))
    answers = feedback.answers.take(kept).followed_by(
        replace(drawn.answers.take(new), groups=np.array([numbers[g] for g in groups[new].tolist()], np.int64))
    )

    def joined(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a[kept], b[new]])

    return Feedback(
        answers, joined(feedback.scores, drawn.scores), feedback.unanswered + drawn.unanswered,
        feedback.queries + drawn.queries,
        feedback.discarded + drawn.discarded + int(dropped.sum()) + len(drawn.answers) - len(new),
        feedback.tokens + drawn.tokens,
        {name: joined(scores, drawn.members[name]) for name, scores in feedback.members.items()},
    )  # fmt: skip
