"""The group baseline of GRPO: an answer against the mean of the answers to the same prompt.

`rewards` are `(S,)`, one per answer, in units of the score; `groups` is `(S,)`, the number of each answer's prompt. The
answers of a group need not be neighbours, and groups may differ in size: an answer that has no score is in none.
"""

from typing import Literal

import torch
from torch import Tensor

from tasks.losses import require_one_shape

Scale = Literal["group", "batch", "none"]
SMALLEST = 1e-4
"""Added to the standard deviation that rewards are divided by."""


def group_advantages(rewards: Tensor, groups: Tensor, *, scale: Scale = "group") -> Tensor:
    """A_i = (r_i − mean of the group) / (standard deviation + 1e-4), `(S,)`; without unit where it is scaled.

    The mean includes the answer itself, so that advantages are (G − 1)/G of those of `leave_one_out` before they are
    scaled: a step is a little shorter, and the optimum is the same. A group whose rewards are equal, or that has one
    answer, gets advantages of exactly 0.

    scale: `group` divides by the unbiased standard deviation of the group, so that every prompt counts alike, those
    included on which answers hardly differ; `batch` by that of all rewards; `none` (Dr. GRPO) by nothing.

    Raises ValueError for other shapes and for an empty batch.

    Source: Shao et al., arXiv 2402.03300, §4.1.2; unbiased and with 1e-4 in TRL 1.16's `grpo_trainer.py`. `none`: Liu
    et al., arXiv 2503.20783, §3. `batch`: Liu et al., arXiv 2508.08221.
    """
    require_one_shape(rewards=rewards, groups=groups)
    centred = (rewards - group_means(rewards, groups)).masked_fill(without_variance(rewards, groups), 0.0)
    if scale == "none":
        return centred
    if scale == "batch":
        spread = rewards.std() if len(rewards) > 1 else torch.zeros_like(rewards[0])
    else:
        # The mean of the squares, n/(n − 1) times; a group of one answer has squares of 0.
        sizes = group_sizes(groups)
        spread = (group_means(centred**2, groups) * sizes / (sizes - 1).clamp(min=1)).sqrt()
    return centred / (spread + SMALLEST)


def without_variance(rewards: Tensor, groups: Tensor) -> Tensor:
    """Whether all rewards of an answer's group are equal, `(S,)` bool: such a group cannot show what is better."""
    which = _numbered(groups)
    empty = rewards.new_zeros(int(which.max()) + 1)
    low, high = (empty.scatter_reduce(0, which, rewards, how, include_self=False) for how in ("amin", "amax"))
    return (low == high)[which]


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """The mean over each answer's group, itself included, `(S,)`."""
    which = _numbered(groups)
    sums = values.new_zeros(int(which.max()) + 1).index_add(0, which, values)
    return sums[which] / group_sizes(groups)


def group_sizes(groups: Tensor) -> Tensor:
    """Answers of each answer's group, itself included, `(S,)`."""
    which = _numbered(groups)
    return torch.bincount(which)[which]


def _numbered(groups: Tensor) -> Tensor:
    """The groups numbered from 0 on."""
    if not len(groups):
        raise ValueError("there are no answers to compare")
    return groups.unique(return_inverse=True)[1]
