"""Contrastive Preference Optimization: DPO without a reference, and the likelihood of the chosen answers."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def cpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    alpha: Annotated[float, Bounds(min=0)] = 1.0,
) -> Tensor:
    """Raises the chosen answer above the rejected one, and keeps it likely where a reference would hold it.

        −log σ(β·(S_w − S_l)) − α·S_w/n_w

    α = 0 is `dpo_reference_free`. The likelihood is a mean per answer; TRL's is over the tokens of a micro-batch,
    and the same where there is one pair.

    Args:
        beta: scale of the difference of the log-probabilities.
        alpha: weight of the chosen answer's negative log-probability per token (TRL's `cpo_alpha`).

    Source: Xu et al., arXiv 2401.08417, eq. 3 and its L_NLL.
    Paper: beta 0.1.
    """
    require_one_shape(
        policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps,
        chosen_lengths=chosen_lengths,
    )  # fmt: skip
    preference = -logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps))
    return preference - alpha * policy_chosen_logps / chosen_lengths
