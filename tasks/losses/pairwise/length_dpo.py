"""DPO with a term for the lengths of the two answers (R-DPO)."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import pair_log_ratios


def length_dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    alpha: Annotated[float, Bounds(min=-100, max=100)],
    beta: Annotated[float, Bounds(above=0)] = 0.1,
) -> Tensor:
    """Requires a pair's margin to be larger by α/β nats for every token that the chosen answer has more.

        −log σ(β·d − α·(n_w − n_l))

    α = 0, and answers of one length, are DPO. Under Bradley-Terry labels the optimum is
    π* ∝ π_ref·exp((r + α·n)/β): a *negative* α charges |α| of reward for each token. That is R-DPO, whose α has the
    other sign: from E[r − α·n] − β·KL its derivation gets +α·(n_w − n_l) inside the sigmoid. A positive α as
    written here makes long answers likelier than their rewards do.

    Args:
        alpha: reward per token of length, to be given with its sign; R-DPO's α is −alpha.
        beta: temperature; large keeps the policy near the reference.

    Source: Park et al., arXiv 2403.19159 (R-DPO), with the sign turned as said.
    """
    ratios = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths,
    )  # fmt: skip
    return -logsigmoid(beta * ratios.delta - alpha * (chosen_lengths - rejected_lengths))


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref), the length's share included."""
    return beta
