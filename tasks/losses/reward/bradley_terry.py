"""Bradley-Terry: a score per answer, so that its differences are the log-odds of who is preferred."""

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def bradley_terry(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    margin: Tensor,
    *,
    margin_scale: Annotated[float, Bounds(min=0)] = 0.0,
    centring: Annotated[float, Bounds(min=0)] = 0.0,
) -> Tensor:
    """Raises the chosen answer's score above the rejected one's; P(chosen beats rejected) = σ(r_w − r_l).

        loss = −log σ(r_w − r_l − m·margin) + c·(r_w + r_l)²

    Equal scores have loss log 2 (without margin and centring). Only differences are determined: any constant may be
    added to all scores, unless centring holds their sum at 0. The margin is inside the sigmoid: a clear
    preference requires a larger difference than a doubtful one. Write-ups that print `log σ(…)` lack the minus sign.

    Args:
        margin_scale: m, what turns the labeller's margin into a difference of scores; 0 leaves it out.
        centring: c, weight of the square of the pair's summed scores; 0.01 is customary.

    Source: Ouyang et al., arXiv 2203.02155, eq. 1 (one pair); margin: Touvron et al., arXiv 2307.09288, eq. 2;
    centring: Eisenstein et al., arXiv 2312.09244, as in TRL's `center_rewards_coefficient`.
    Paper: lr 3e-6 (summarize from feedback, details), one epoch, batch 64.
    """
    require_one_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores, margin=margin)
    delta = chosen_scores - rejected_scores - margin_scale * margin
    return -logsigmoid(delta) + centring * (chosen_scores + rejected_scores).square()
