"""INPO and MNPO: a step towards the Nash policy of a game that is regularised by an anchor."""

from typing import Annotated

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def nash(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    anchor_chosen_logps: Tensor,
    anchor_rejected_logps: Tensor,
    *,
    eta: Annotated[float, Bounds(above=0)] = 0.1,
    r: Annotated[float, Bounds(min=0, max=1)] = 0.3333333333333333,
) -> Tensor:
    """Moves the policy to π_anchor^r · π_ref^(1−r) · exp(P(y ≻ μ)/η), where the pairs are draws of μ.

        (h − 1/(2η))²,   h = r·d_anchor + (1 − r)·d

    d_anchor is d with the anchor in the reference's place. INPO has the base as anchor, and the policy of the round
    before as reference and as μ: its last iterate converges to the Nash policy of the game that a KL of weight η·r to
    the base regularises. COMAL moves that anchor up every few rounds. MNPO has the base as reference and the last
    policies as anchors, with their weight as r. IPO is the case r = 1, with the anchor as its reference and η as τ.

    The optimum needs pairs that μ drew, with labels drawn by P: of the best and the worst answer it is another one. A
    large η is a small step here: 1/η is the `eta` of `sppo`.

    Args:
        eta: temperature; the margin of every pair is moved to 1/(2η).
        r: weight of the anchor in the mixed reference, the paper's τ/η.

    Source: Zhang et al., arXiv 2407.00617 (INPO); the form is `nash_loss` of COMAL's code, arXiv 2410.23223.
    MNPO: arXiv 2509.23102.
    Paper: eta 0.002, r 1/3, 3 epochs (COMAL's `comal.sh`); MNPO: eta 0.0075, lr 5e-7.
    """
    to_ref = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    to_anchor = pair_log_ratios(policy_chosen_logps, policy_rejected_logps, anchor_chosen_logps, anchor_rejected_logps)
    return (r * to_anchor.delta + (1 - r) * to_ref.delta - 1 / (2 * eta)).square()


def reward_scale(*, eta: float) -> float:
    """η·log(π/π_ref) is P(y ≻ μ) at the optimum, up to a constant, as far as the anchor is the reference."""
    return eta
