"""Plackett-Luce: scores whose exponentials are the weights by which a ranking is drawn, best first."""

from torch import Tensor

from tasks.losses import ranking_cross_entropy


def plackett_luce(scores: Tensor, target_scores: Tensor, mask: Tensor) -> Tensor:
    """Makes the ranking of the answers to a prompt likely.

        −Σ_{k<K} [r_k − log Σ_{j≥k} exp(r_j)],   answers in the order of their target scores

    Equal scores have loss log K!. Two answers make it Bradley-Terry. Only the order of the targets counts, and ties are
    not compared (`ranking_cross_entropy`). It is the sum over K − 1 draws, so longer rankings weigh more; some code
    divides by K − 1.

    Source: Plackett (1975) and Luce (1959); as K-wise reward model in Zhu et al., arXiv 2301.11270.
    """
    return ranking_cross_entropy(scores, target_scores, mask)
