"""InstructGPT's K-wise loss: Bradley-Terry over all pairs of a prompt's answers."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.losses import compared, require_one_shape


def all_pairs(scores: Tensor, target_scores: Tensor, mask: Tensor) -> Tensor:
    """Raises each answer's score above the scores of the worse ones.

        mean of −log σ(r_i − r_j) over the pairs with target_i > target_j

    Equal scores have loss log 2. Two answers make it Bradley-Terry. The mean is over a prompt's own pairs, C(K, 2)
    without ties, and every prompt counts alike; a prompt whose answers all tie has loss and gradient 0. All pairs of a
    prompt are in one row, so each answer is read once.

    Source: Ouyang et al., arXiv 2203.02155, eq. 1.
    Paper: K from 4 to 9, lr 9e-6, one epoch, 64 prompts a batch.
    """
    require_one_shape(scores=scores, target_scores=target_scores, mask=mask)
    better = compared(target_scores, mask)
    losses = -logsigmoid(scores[:, :, None] - scores[:, None, :])
    return torch.where(better, losses, 0).sum(dim=(1, 2)) / better.sum(dim=(1, 2)).clamp(min=1)
