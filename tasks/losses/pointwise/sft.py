"""Supervised fine-tuning: the likelihood of the demonstrations."""

from typing import Literal

from torch import Tensor

from tasks.losses import require_one_shape


def sft(policy_logps: Tensor, lengths: Tensor, *, average: Literal["token", "answer"] = "token") -> Tensor:
    """Makes the demonstrations likely: the higher an answer's log-probability, the lower its loss.

        token:  −log π(y) / n      every answer counts alike, whatever its length
        answer: −log π(y)          maximum likelihood of whole answers, so every token counts alike

    Prompt tokens contribute nothing. Neither form is the token mean over a batch of the usual trainers, which
    weighs a row by the lengths of its neighbours.

    Args:
        average: what the log-probability is divided by.

    Source: the maximum-likelihood step of Ouyang et al., arXiv 2203.02155, section 3.5.
    Paper: lr 9.65e-6, batch 32, 16 epochs, cosine (appendix C.1, 1.3B and 6B).
    """
    require_one_shape(policy_logps=policy_logps, lengths=lengths)
    return -policy_logps / lengths if average == "token" else -policy_logps
