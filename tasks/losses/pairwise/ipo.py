"""Identity Preference Optimization: the margin of each pair is regressed on a constant."""

from typing import Annotated, Literal

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def ipo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    norm: Literal["sum", "length"],
    tau: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Moves every pair to the margin 1/(2τ), from below and from above, so that certain labels cannot drive it on.

        (D − 1/(2τ))²        sum: D = d        length: D = a/n_w − b/n_l

    A policy equal to its reference has loss 1/(4τ²). With `sum`, pairs of answers that μ drew and labels drawn by P
    have the optimum π* ∝ π_ref·exp(P(y ≻ μ)/τ), which pairs of the best and the worst answer have not. With `length`
    a margin of 1/(2τ) *per token* is asked for: a much larger one, and another optimum.

    Args:
        norm: log-ratios of whole answers, as eq. 17, the code of the DPO authors and SPPO's have it, or per token, as
            TRL and HALOs have it (IPO's authors confirm that they average). The two are different methods,
            so there is no default.
        tau: temperature; large keeps the policy near the reference.

    Source: Azar et al., arXiv 2310.12036, eq. 17.
    Paper: lr 1e-2, batch 90, on bandits (as TRL's index of papers has it).
    """
    ratios = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths,
    )  # fmt: skip
    return (ratios.normed(norm, chosen_lengths, rejected_lengths) - 1 / (2 * tau)).square()


def reward_scale(*, tau: float) -> float:
    """τ·log(π/π_ref) is P(y ≻ μ) at the optimum, up to a constant."""
    return tau
