"""Regression: outputs that estimate what answers were scored, one or several attributes."""

import torch
from torch import Tensor

from tasks.losses import require_one_shape


def regression(scores: Tensor, target_scores: Tensor) -> Tensor:
    """Brings the model's outputs to the scores that each answer was given.

        loss = mean over an answer's known attributes of (output − target)²

    Targets are in standard deviations from the mean of the rows trained on, so that attributes of other units count
    alike; an output of 0 for every answer has a mean loss of 1. An attribute that is missing (NaN) is left out of the
    row's mean and has no gradient; a row without any has a loss of NaN, which the trainer refuses.

    Source: ArmoRM's first stage, Wang et al., arXiv 2406.12845; HelpSteer2, Wang et al., arXiv 2406.08673.
    Paper: HelpSteer2 trains on ratings from 0 to 4 as they are, without standard deviations.
    """
    require_one_shape(scores=scores, target_scores=target_scores)
    known = ~target_scores.isnan()
    squares = torch.where(known, scores - target_scores.nan_to_num(), 0.0).square()
    if scores.dim() == 1:
        return torch.where(known, squares, torch.nan)
    return squares.sum(dim=1) / known.sum(dim=1)
