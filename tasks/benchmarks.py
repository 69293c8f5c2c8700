"""Measurements made of steps. Composites, as in `tasks/composites.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from tasks.contract import Add, Bounds, Seed
    from tasks.kinds import Oracle, Policy, Prompts, Report


def accuracy_on_samples(
    add: Add,
    policy: Policy,
    prompts: Prompts,
    oracle: Oracle,
    gold: Oracle,
    *,
    k: Annotated[int, Bounds(min=2)] = 4,
    seed: Seed = 0,
    allow_seen: bool = False,
) -> Report:
    """Accuracy of an oracle on a policy's own answers: every two of k answers to a prompt, labelled by a better oracle.

    The label is the answer that `gold` finds likelier to win; pairs that it finds equal are left out. Next to the KL of
    several policies it gives the farthest accurate KL (`accuracy_at_kl`).

    Args:
        k: answers to each prompt.
        seed: the answers.
        allow_seen: the prompts may have trained the oracle; shown beside the numbers.
    """
    answers = add("sample", policy=policy, prompts=prompts, k=k, seed=seed, stream=_LABELLED_STREAM)
    labelled = add(
        "pairs", completions=answers, win_probs=add("compare", completions=answers, oracle=gold), rule="all_pairs"
    )
    return add("reward_accuracy", pairs=labelled, oracle=oracle, allow_seen=allow_seen)


_LABELLED_STREAM = 7200
"""A stream of its own, so that these answers are draws of no other step."""
