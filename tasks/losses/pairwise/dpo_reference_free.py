"""DPO with a uniform reference."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def dpo_reference_free(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, *, beta: Annotated[float, Bounds(above=0)] = 0.1
) -> Tensor:
    """Raises the chosen answer's log-probability above the rejected one's, wherever the policy came from.

        −log σ(β·(S_w − S_l))

    This is DPO whose reference finds both answers equally likely. Sums favour short answers: of two that are equally
    likely per token the longer one counts as the worse. Answers of equal log-probability have loss log 2.

    Args:
        beta: scale of the log-probabilities.

    Source: Rafailov et al., arXiv 2305.18290; the flag `reference_free` of its reference code (`preference_loss`).
    """
    require_one_shape(policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps)
    return -logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps))
