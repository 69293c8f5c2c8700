"""SPPO on pairs: both log-ratios are regressed on the probability that chosen beats rejected."""

from typing import Annotated

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def sppo_single(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    p: Tensor,
    *,
    eta: Annotated[float, Bounds(above=0)] = 10.0,
) -> Tensor:
    """Gives the chosen answer the log-ratio η·(p − ½), and the rejected one its negative.

        ½·[(a − η·(p − ½))² + (b + η·(p − ½))²]

    The reference is π_t, the policy that drew both answers. Here one comparison stands for an answer's win rate, which
    `sppo` takes over all answers to the prompt. p = ½ asks for no change. TRL's `sppo_hard` is twice this loss at
    p = 1 with η = 1/β. Swapping the sides of a pair, and p with 1 − p, changes nothing.

    Args:
        eta: step size of the update in nats; the authors' code calls 1/eta beta.

    Source: Wu et al., arXiv 2405.00675; the loss `sppo_single` of its reference code.
    Paper: lr 5e-7, eta 1000, batch 64, RMSprop, linear, 10% warm-up.
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, p=p)
    target = eta * (p - 0.5)
    return 0.5 * ((ratios.chosen - target).square() + (ratios.rejected + target).square())


def reward_scale(*, eta: float) -> float:
    """The target of log(π/π_t) is η·(p − ½), so 1/η of it is on the scale of probabilities."""
    return 1 / eta
