"""Generalized Preference Optimization: one margin, and the curve that judges it as a choice."""

from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios

_STEEPEST = 40.0


def gpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    curve: Literal["logistic", "hinge", "squared", "exponential", "truncated_squared", "savage"],
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Moves a pair apart by the slope of a curve f at its margin.

        f(β·d)      logistic: log(1 + e^−z)      hinge:             max(0, 1 − z)       squared: (z − 1)²
                    exponential: e^−z            truncated_squared: max(0, 1 − z)²      savage:  1/(1 + e^z)²

    The slopes at the reference, d = 0, are −½, −1, −2, −1, −2, −¼ times β in this order. `logistic` is `dpo`, `hinge`
    is `hinge`, and `squared` is 4τ² times `ipo` at β = 2τ. Under Bradley-Terry, with full support, logistic and savage
    have the optimum π* ∝ π_ref·exp(r/β), exponential π_ref·exp(r/(2β)); squared that of IPO; the others have none in
    closed form. So one β means different distances from the reference. Savage alone is not convex: far in the wrong
    order a pair has next to no gradient. The exponential goes on along its tangent below z = −40: float32 ends at 88.

    Args:
        curve: f.
        beta: temperature; large keeps the policy near the reference.

    Source: Tang et al., arXiv 2402.05749, whose table of convex functions has the first five; savage: Masnadi-Shirazi
    and Vasconcelos (2008).
    """
    ratios = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    margin = beta * ratios.delta
    if curve == "logistic":
        return -logsigmoid(margin)
    if curve == "savage":
        return torch.sigmoid(-margin).square()
    if curve == "exponential":
        bounded = margin.clamp(min=-_STEEPEST)
        return torch.exp(-bounded) * (1 + bounded - margin)
    lacking = 1 - margin if curve == "squared" else torch.relu(1 - margin)
    return lacking if curve == "hinge" else lacking.square()


def reward_scale(*, beta: float, curve: str) -> float:
    """What log(π/π_ref) is multiplied by to give the reward at the curve's optimum (hinges: the margin's scale)."""
    return {"exponential": 2 * beta, "squared": beta / 2}.get(curve, beta)
