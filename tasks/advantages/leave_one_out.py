"""The leave-one-out baseline of RLOO."""

from torch import Tensor

from tasks.advantages.group import group_means, group_sizes, without_variance
from tasks.losses import require_one_shape


def leave_one_out(rewards: Tensor, groups: Tensor) -> Tensor:
    """A_i = r_i − mean of the rewards of the *other* answers to the prompt, `(S,)`, in units of the score.

    A baseline that does not depend on the answer leaves the gradient of the mean reward unbiased, whatever the size of
    the group: E Σ A_i·∇log π(y_i) = ∇E r per answer. It is G/(G − 1) times the distance from the group's mean. A group
    of one answer has no others: its advantage is 0. So is each where all rewards of a group are equal.

    rewards: `(S,)`, with the price of the distance from the reference already subtracted. groups: `(S,)`, the number of
    each answer's prompt. Raises ValueError for other shapes and for an empty batch.

    Source: Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!" (2019); Ahmadian et al., arXiv 2402.14740,
    §3.3.
    """
    require_one_shape(rewards=rewards, groups=groups)
    sizes = group_sizes(groups)
    others = sizes / (sizes - 1).clamp(min=1)
    return ((rewards - group_means(rewards, groups)) * others).masked_fill(without_variance(rewards, groups), 0.0)
