"""Ratings of players by their matches: Bradley-Terry with a prior, and online Elo, both in points of the 400-scale.

A difference of 400 points means odds of 10 to 1. Axis letters: N players, P prompts; `…` resamples.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

POINTS_PER_NAT = 400 / np.log(10)
"""P(i beats j) = 1/(1 + 10^((R_j − R_i)/400)) = σ((R_i − R_j)/POINTS_PER_NAT)."""
START = 1000.0
"""Rating with which Elo begins, and that of the anchor."""
ITERATIONS, LARGEST_STEP, TOLERANCE = 200, 1.0, 1e-10
"""Of Newton's method, in nats."""


def bradley_terry_ratings(wins: Floats, prior_sd: float) -> Floats:
    """`(…, N)` ratings in points with mean 0: the mode of Σ_ij W_ij·log σ(θ_i − θ_j) − Σ_i θ_i²/(2s²).

    wins: `(…, N, N)` how often the row's player beat the column's; a match may count for both sides, as its P does.
    prior_sd: standard deviation s of the normal prior of a rating around the mean of all, in points. The prior makes
    the mode finite also for a player that only wins; with many matches it does not matter.

    Source: Bradley and Terry, Biometrika 39 (1952); a ridge as in `LogisticRegression` of scikit-learn, with
    C = s² in nats, no intercept, and features +1 and −1 for the two players of a match.
    """
    precision = (POINTS_PER_NAT / prior_sd) ** 2
    played, players = wins + np.swapaxes(wins, -1, -2), wins.shape[-1]
    theta = np.zeros(wins.shape[:-1])
    ridge = precision * np.eye(players)
    for _ in range(ITERATIONS):
        p = expit(theta[..., :, None] - theta[..., None, :])
        slope = (wins - played * p).sum(axis=-1) - precision * theta
        curvature = played * p * (1 - p)
        hessian = ridge - curvature + curvature.sum(axis=-1)[..., None] * np.eye(players)
        step = np.linalg.solve(hessian, slope[..., None])[..., 0]
        largest = np.abs(step).max(axis=-1, keepdims=True)
        theta = theta + step * np.minimum(1, LARGEST_STEP / np.maximum(largest, TOLERANCE))
        if largest.max() < TOLERANCE:
            break
    return np.asarray(theta * POINTS_PER_NAT, np.float64)


def elo_ratings(p: Floats, orders: Ints, k: float) -> Floats:
    """`(B, N)` online Elo ratings after all matches, one row for each order of the prompts.

        R_i ← R_i + k·(p_ij − 1/(1 + 10^((R_j − R_i)/400))),   and R_j the opposite

    All begin at 1000. Within a prompt, pairs come in the order of the players. Late matches weigh more than early ones,
    so the result depends on the order, unlike Bradley-Terry's; with a small k and few matches it is still close to
    1000.

    p: `(P, N, N)` P(row beats column) of each prompt, NaN where two did not meet; orders: `(B, P)` places of prompts.

    Source: Elo, The Rating of Chessplayers (1978), as FastChat's `compute_elo` with k = 4.
    """
    ratings = np.full((len(orders), p.shape[1]), START)
    pairs = [(i, j) for i in range(p.shape[1]) for j in range(i + 1, p.shape[1])]
    for prompt in orders.T:
        for i, j in pairs:
            outcome = p[prompt, i, j]
            expected = expit((ratings[:, i] - ratings[:, j]) / POINTS_PER_NAT)
            change = np.where(np.isnan(outcome), 0.0, k * (outcome - expected))
            ratings[:, i] += change
            ratings[:, j] -= change
    return ratings


def anchored(ratings: Floats, anchor: int) -> Floats:
    """The same ratings, `(…, N)`, moved so that the anchor's is 1000."""
    return ratings - ratings[..., anchor, None] + START
