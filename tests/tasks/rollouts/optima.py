"""What each way to price nats converges to, on the enumerable world of letters: by bisection, and from the last token
back.

π_ref is the reference, r an answer's score, β the price of a nat. In the reward and as k2 of a whole answer the optimum
is π_ref·exp(r/β), as k3 of a whole answer β·π_ref/(λ − r). Of each token they hold per context with Q, the mean score
of what follows under the optimum itself, in place of r: such a loss does not see the later tokens' KL.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tests.enumerable import Answers, Matrix, normalised

Vector = np.ndarray
Solve = Callable[[Vector, Vector], Vector]
"""Probabilities under the reference, and scores → probabilities under the optimum."""
FORMS = ("reward", "sequence_k2", "sequence_k3", "token_k2", "token_k3")


def optimum(form: str, log_ref: Matrix, rewards: Matrix, beta: float, answers: Answers) -> Matrix:
    """Log-probabilities `(prompts, answers)` that a price of `form` leads to, a `kl_form` of the tasks."""
    if form in ("reward", "sequence_k2"):
        return normalised(log_ref + rewards / beta)
    if form == "token_k2":
        return by_contexts(log_ref, rewards, answers, lambda ref, q: tilted(ref, q, beta))
    solve: Solve = lambda ref, q: hyperbolic(ref, q, beta)  # noqa: E731 - a name for two uses
    if form == "token_k3":
        return by_contexts(log_ref, rewards, answers, solve)
    return np.log([solve(np.exp(ref), r) for ref, r in zip(log_ref, rewards, strict=True)])


def tilted(ref: Vector, scores: Vector, beta: float) -> Vector:
    """π_ref·exp(r/β), normalised."""
    weights = ref * np.exp((scores - scores.max()) / beta)
    return weights / weights.sum()


def hyperbolic(ref: Vector, scores: Vector, beta: float) -> Vector:
    """β·π_ref/(λ − r), with the λ above all scores at which the probabilities sum to 1, found by bisection."""
    low, high = scores.max(), scores.max() + beta
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (beta * ref / (middle - scores)).sum() > 1 else (low, middle)
    found = beta * ref / (high - scores)
    return found / found.sum()


def by_contexts(log_ref: Matrix, rewards: Matrix, answers: Answers, solve: Solve) -> Matrix:
    """The policy that `solve` gives at every context from the mean scores of what follows each token under it."""
    return np.array([_of_prompt(np.exp(ref), r, answers, solve) for ref, r in zip(log_ref, rewards, strict=True)])


def _of_prompt(ref: Vector, scores: Vector, answers: Sequence[tuple[int, ...]], solve: Solve) -> Vector:
    log_policy = np.zeros(len(answers))

    def value(context: tuple[int, ...], below: list[int]) -> float:
        """The mean score under the policy of the answers `below`, which begin with the context; fills in the policy."""
        if answers[below[0]] == context:
            return float(scores[below[0]])
        parts: dict[int, list[int]] = {}
        for i in below:
            parts.setdefault(answers[i][len(context)], []).append(i)
        q = np.array([value((*context, token), part) for token, part in parts.items()])
        mass = np.array([ref[part].sum() for part in parts.values()])
        probabilities = solve(mass / mass.sum(), q)
        for part, p in zip(parts.values(), probabilities, strict=True):
            log_policy[part] += np.log(p)
        return float(probabilities @ q)

    value((), list(range(len(answers))))
    return log_policy
