"""Cross-entropy of a score that is the log-odds of an event, as a cross-encoder of two answers gives it."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.losses import require_one_shape


def cross_entropy(scores: Tensor, win_prob: Tensor) -> Tensor:
    """Makes the score the log-odds of the event that t is the probability of.

        −t·log σ(s) − (1 − t)·log σ(−s)

    A score of 0 has loss log 2. A t inside (0, 1) has the finite optimum s = log(t/(1 − t)); of sampled t of 0
    and 1 the optimum is the log-odds of their mean. A t outside [0, 1] gives a NaN loss.

    Source: binary cross-entropy, i.e. Bradley-Terry (arXiv 2203.02155, eq. 1) with the model's own log-odds in place
    of the difference of two scores, so that the preference need not be transitive; section 2 of arXiv 2405.07863.
    """
    require_one_shape(scores=scores, win_prob=win_prob)
    t = win_prob.where((win_prob >= 0) & (win_prob <= 1), win_prob.new_full((), float("nan")))
    return -t * logsigmoid(scores) - (1 - t) * logsigmoid(-scores)
