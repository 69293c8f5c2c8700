"""SimPO: length-normalised log-probabilities as rewards, a margin, and no reference."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def simpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 2.0,
    gamma: Annotated[float, Bounds(min=0)] = 1.0,
) -> Tensor:
    """Raises the chosen answer's log-probability per token above the rejected one's by γ/β and more.

        −log σ(β·S_w/n_w − β·S_l/n_l − γ)

    The reward is what greedy decoding maximises, so that training and sampling agree; nothing holds the policy near
    where it started but the learning rate. Equal log-probabilities per token have loss log(1 + e^γ).

    Args:
        beta: scale of the log-probabilities per token; much larger than DPO's, because they are much smaller than sums.
        gamma: target margin, in units of the reward (TRL's `simpo_gamma` likewise); the paper tunes γ/β.

    Source: Meng et al., arXiv 2405.14734, eq. 6.
    Paper: beta 2.0 to 2.5, gamma 0.5 to 1.6, lr 1e-6, batch 128.
    """
    require_one_shape(
        policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps,
        chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths,
    )  # fmt: skip
    margin = policy_chosen_logps / chosen_lengths - policy_rejected_logps / rejected_lengths
    return -logsigmoid(beta * margin - gamma)
