"""Games of preferences on the world of letters, and the fixed points that methods of self-play have there."""

import numpy as np
from scipy.special import expit

from tasks.kinds import Oracle
from tests.enumerable import Matrix, normalised
from tests.tasks.rollouts.letters import PROMPTS, TEXTS


def partly_cyclic_log_odds(shape: tuple[int, int], seed: int = 7) -> Matrix:
    """Antisymmetric log-odds, `(prompts, answers, answers)`: differences of scores from N(0, 1.5²), and a part of
    variance 1 that no scores explain."""
    noise = np.random.default_rng(seed)
    scores, drawn = noise.normal(size=shape) * 1.5, noise.normal(size=(shape[0], shape[1], shape[1]))
    return scores[:, :, None] - scores[:, None, :] + (drawn - drawn.transpose(0, 2, 1)) / np.sqrt(2)


def letters_game(log_odds: Matrix) -> Oracle:
    """P(a beats b) = σ(log-odds), looked up by the texts."""
    prompts, answers = ({text: i for i, text in enumerate(texts)} for texts in (PROMPTS, TEXTS))

    def compare(asked, first, second, truths):  # type: ignore[no-untyped-def]
        places = [(prompts[p[-1]["content"]], answers[a], answers[b])
                  for p, a, b in zip(asked, first, second, strict=True)]  # fmt: skip
        return [float(expit(log_odds[place])) for place in places]

    return Oracle.of(compare=compare, antisymmetric=True)


def best_response_point(log_ref: Matrix, payoff: Matrix, price: float, mixture: float = 0.0) -> Matrix:
    """π ∝ π_ref·exp(E payoff(y, y')/price), y' ~ π^(1−m)·π_ref^m normalised: log-probabilities, by damped iteration.

    payoff: `(prompts, answers, answers)`.
    """
    log_pi = log_ref
    for _ in range(20000):
        opponent = np.exp(normalised((1 - mixture) * log_pi + mixture * log_ref))
        answer = normalised(log_ref + np.einsum("xab,xb->xa", payoff, opponent) / price)
        if np.abs(answer - log_pi).max() < 1e-10:
            return log_pi
        log_pi = normalised(0.95 * log_pi + 0.05 * answer)
    raise AssertionError("the iteration does not converge")
