"""GRPO's and RLOO's credit and losses on rollouts made by hand: each option changes what it says, and nothing else."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.contract import Chosen, SpecError
from tasks.rollouts.answers import Answers, Feedback
from tasks.rollouts.method import Rollout, Targets
from tasks.rollouts.methods.grouped import GroupMethod, Grpo, Rloo
from tasks.rollouts.methods.shared import clip_of
from tasks.rollouts.redraw import draw_again
from tasks.rollouts.sampler import Sampler
from tasks.rollouts.settings import GroupConfig, GroupKlConfig, LoopConfig
from tasks.rollouts.update import _weights
from tasks.rollouts.wiring import check_group_settings
from tests.tasks.rollouts.made import made_answers, made_rollout
from tests.tasks.rollouts.small import CLIPPED

SCORES, GROUPS, LENGTHS, RATIOS = [3.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], [1, 2, 1, 3], [0.5, 0.25, -1.0, 0.0]
GRPO = Grpo(GroupConfig(), GroupKlConfig(), CLIPPED, None, scale="none")
RLOO = Rloo(GroupConfig(), GroupKlConfig(), CLIPPED, None)


def _rollout(cut: frozenset[int] = frozenset()) -> Rollout:
    return made_rollout(SCORES, GROUPS, LENGTHS, RATIOS, cut)


def _per_answer(targets: Targets) -> list[float]:
    """The advantage of each answer, which all of its tokens have."""
    parts = targets.tokens["advantages"].split(LENGTHS)
    assert all(part.eq(part[0]).all() for part in parts)
    return [float(part[0]) for part in parts]


def _losses(method: GroupMethod, targets: Targets, logps: Tensor) -> Tensor:
    tokens: Mapping[str, Tensor] = {**targets.tokens, "old_logps": _rollout().logps}
    return method.losses(logps, tokens, torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS)))


def test_the_price_of_an_answers_log_ratio_is_subtracted_from_its_score_before_the_baseline() -> None:
    """β 0.2; log-ratios of answers 0.5, 0.5, −1, 0: rewards 2.9, 0.9, 0.2, 0. Leave-one-out doubles the distance."""
    assert _per_answer(GRPO.targets(_rollout(), 0.2)) == pytest.approx([1.0, -1.0, 0.1, -0.1])
    assert _per_answer(RLOO.targets(_rollout(), 0.2)) == pytest.approx([2.0, -2.0, 0.2, -0.2])


def test_scaling_divides_by_the_spread_of_the_group() -> None:
    """Two rewards x apart have the standard deviation x/√2: ±1/√2 whatever x, but for 1e-4."""
    found = _per_answer(replace(GRPO, scale="group").targets(_rollout(), 0.2))
    assert found == pytest.approx([2**-0.5, -(2**-0.5), 2**-0.5, -(2**-0.5)], abs=1e-3)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("token_k2", [0.125, 0.03125, 0.03125, 0.5, 0, 0, 0]), ("sequence_k2", [0.125, 0.0625, 0.0625, 0.5, 0, 0, 0]),
        ("token_k3", [0.106531, 0.028801, 0.028801, 0.718282, 0, 0, 0]),
        ("sequence_k3", [0.106531, 0.053265, 0.053265, 0.718282, 0, 0, 0]),
    ],
)  # fmt: skip
def test_a_price_in_the_loss_leaves_the_advantages_those_of_the_scores(form: Any, expected: list[float]) -> None:
    """β 0.2 times the estimate of each token, or of the answer's sum, shared among its tokens."""
    method = replace(GRPO, kl=GroupKlConfig(kl_form=form))
    plain, priced = (m.targets(_rollout(), p) for m, p in ((GRPO, 0.0), (method, 0.2)))
    assert _per_answer(priced) == _per_answer(plain) == [1, -1, 0, 0]
    logps = _rollout().logps
    more = _losses(method, priced, logps) - _losses(GRPO, plain, logps)
    assert more.tolist() == pytest.approx([0.2 * x for x in expected], abs=1e-6)


def test_without_a_reference_the_scores_are_the_rewards() -> None:
    targets = GRPO.targets(made_rollout(SCORES, GROUPS, LENGTHS), 0.0)
    assert _per_answer(targets) == [1, -1, 0, 0]
    assert set(targets.tokens) == {"advantages"}


def test_groups_whose_scores_are_equal_are_counted_though_their_prices_differ() -> None:
    assert GRPO.targets(_rollout(), 0.2).metrics["objective/groups_without_variance"] == 1


def test_an_answer_that_was_cut_is_penalised_and_trains_nothing_only_on_request() -> None:
    """The penalty of 1 moves the baseline either way."""
    cut = frozenset([1])
    for mask_cut in (False, True):
        targets = replace(GRPO, scores=GroupConfig(mask_cut=mask_cut)).targets(_rollout(cut), 0.0)
        assert _per_answer(targets) == [1.5, -1.5, 0, 0]
        assert (None if targets.counted is None else targets.counted.tolist()) == (
            [True, False, True, True] if mask_cut else None
        )


def test_answers_that_do_not_count_have_no_weight_and_no_tokens_in_the_divisor() -> None:
    """The minibatch holds answers of 1, 2 and 1 tokens, of which the second is cut; 5 of 7 tokens count in all."""
    config = cast(LoopConfig, SimpleNamespace(passes=SimpleNamespace(minibatches=5)))
    counted, part = torch.tensor([True, False, True, True]), np.array([0, 1, 2])
    for name, expected in (("token", 1 / 2), ("sequence", 1 / 3), ("global", 2 / 5), ("sum", 1 / 3)):
        method = replace(GRPO, loss_over=name)
        found = _weights(method, _rollout(), counted, part, config)
        assert found.tolist() == pytest.approx([expected, 0, expected, 0]), name


def test_an_answer_near_the_longest_allowed_loses_part_of_its_score() -> None:
    """At most 3 tokens, of which the last 2 cost: 1, 2, 1 and 3 tokens lose 0, ½, 0 and 1."""
    method = replace(GRPO, scores=GroupConfig(overlong_cache=2), longest=3)
    assert _per_answer(method.targets(_rollout(), 0.0)) == pytest.approx([1.25, -1.25, 0.5, -0.5])


def test_importance_per_answer_clips_all_of_its_tokens_or_none() -> None:
    """The second answer's tokens moved by +0.4 and −0.2, in the mean by 0.1: with ε 0.2 its tokens would be clipped
    apart, its mean ratio e^0.1 is not. The first answer's only token moved by 0.3: clipped at 1.2.
    """
    moved = torch.tensor([0.3, 0.4, -0.2, 0, 0, 0, 0]).double()
    token, sequence = GRPO, replace(GRPO, importance="sequence")
    targets = GRPO.targets(_rollout(), 0.0)
    logps = (_rollout().logps + moved).requires_grad_()
    by_token, by_answer = (_losses(m, targets, logps) for m in (token, sequence))
    assert by_token[:3].tolist() == pytest.approx([-1.2, np.exp(0.4), 0.818731])
    assert by_answer[:3].tolist() == pytest.approx([-1.2, np.exp(0.1), np.exp(0.1)])
    (gradient,) = torch.autograd.grad(by_answer.sum(), logps)
    assert gradient[:3].tolist() == pytest.approx([0.0, np.exp(0.1), np.exp(0.1)])


def test_the_bounds_that_are_counted_are_those_of_the_objective() -> None:
    high = Chosen("losses/rl", "clipped", {"clip_eps": 0.1, "clip_high": 0.28})
    penalty, capped = (Chosen("losses/rl", n, {}) for n in ("kl_penalty", "cispo"))
    assert [clip_of(o) for o in (CLIPPED, high, penalty, capped)] == [(0.2, 0.2), (0.1, 0.28), (0.2, 0.2), (np.inf, 4)]


class _Prompts:
    """Draws groups 10·attempt, 10·attempt + 1, …; each of two answers."""

    order: Any
    plan: Any = None

    def __init__(self, available: int = 99) -> None:
        self.order, self.asked, self.available = self, [], available

    def others(self, iteration: int, attempt: int, count: int, taken: set[str]) -> tuple[list[int], list[Any]]:
        self.asked.append((iteration, attempt, count, sorted(taken)))
        rows = [10 * (attempt + 1) + i for i in range(min(count, self.available)) for _ in range(2)]
        return rows, []

    def sample_draws(self, rows: list[int], requests: list[Any]) -> Answers:
        answers = made_answers(rows, [2] * len(rows))
        return replace(answers, groups=np.arange(len(rows)) // 2)


def _drawn(sampler: _Prompts, times: int, new: dict[str, list[float]]) -> Feedback:
    """Of three groups the first and the last are level; new: scores of later prompts, level where there are none."""

    def ask(answers: Answers) -> Feedback:
        ids = answers.prompt_ids
        scores = [new.get(p, [0.0, 0.0])[ids[:i].count(p)] for i, p in enumerate(ids)]
        return Feedback(answers, torch.tensor(scores).double(), 0, len(ids))

    first = Feedback(made_answers([0, 0, 1, 1, 2, 2], [1] * 6), torch.tensor([1.0, 1, 2, 3, 0, 0]).double(), 1, 6)
    return draw_again(first, cast(Sampler, sampler), 7, times, ask)


def test_groups_without_variance_make_room_for_other_prompts() -> None:
    """Of the first attempt's two one varies, and of the second's one too: then nothing is level, and none follows."""
    sampler = _Prompts()
    found = _drawn(sampler, 5, {"p11": [0.0, 5.0], "p20": [6.0, 0.0]})
    assert found.answers.prompt_ids == ["p1", "p1", "p11", "p11", "p20", "p20"]
    assert found.answers.groups.tolist() == [1, 1, 0, 0, 2, 2]
    assert found.scores is not None
    assert found.scores.tolist() == [2, 3, 0, 5, 6, 0]
    assert (found.unanswered, found.queries, found.discarded) == (1, 6 + 4 + 2, 6)
    assert sampler.asked == [(7, 0, 2, ["p0", "p1", "p2"]), (7, 1, 1, ["p0", "p1", "p10", "p11", "p2"])]


def test_what_cannot_be_replaced_stays_as_it_was_drawn_first() -> None:
    found = _drawn(_Prompts(), 1, {"p10": [1.0, 2.0]})
    assert found.answers.prompt_ids == ["p1", "p1", "p2", "p2", "p10", "p10"]
    assert found.discarded == 4
    assert _drawn(_Prompts(available=0), 3, {}).answers.prompt_ids == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert _drawn(_Prompts(), 0, {"p10": [1.0, 2.0]}).discarded == 0


GOOD = {
    "k": 2, "max_tokens": None, "overlong_cache": None, "normalisation": "global", "kl_form": "reward", "kl_coef": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "has_ref", "text"),
    [
        ({"k": 1}, True, "k = 1 gives one answer per prompt.*set k to 2 or more"),
        ({"normalisation": "dr_grpo"}, True, "'dr_grpo' divides by the longest answer allowed: set max_tokens"),
        ({"normalisation": "constant"}, True, "set max_tokens, or choose another"),
        ({"overlong_cache": 4}, True, "overlong_cache = 4 .*max_tokens is None"),
        ({"overlong_cache": 4, "max_tokens": 3}, True, "max_tokens is 3: set max_tokens to at least 4"),
        ({"importance": "sequence", "stale": 1}, True, "older policy: set stale to 0, or importance to 'token'"),
        ({}, False, "kl_coef = 0.1 .*there is none: feed the port `ref`, or set kl_coef to 0"),
        ({"kl_coef": 0.0, "kl_form": "token_k3"}, False, "kl_form = 'token_k3' .*there is none"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_together_are_refused(changes: dict[str, Any], has_ref: bool, text: str) -> None:
    check_group_settings(GOOD, has_ref=True)
    check_group_settings({**GOOD, "kl_coef": 0.0}, has_ref=False)
    with pytest.raises(SpecError, match=text):
        check_group_settings({**GOOD, **changes}, has_ref=has_ref)
