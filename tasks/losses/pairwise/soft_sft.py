"""Supervised fine-tuning on both answers of a pair, each with the probability that it is the right one."""

from torch import Tensor

from tasks.losses import require_one_shape


def soft_sft(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, p: Tensor) -> Tensor:
    """Makes each answer as likely as it was judged to be: the cross-entropy of the policy with the judge's P.

        −p·S_w − (1 − p)·S_l

    p = 1 is SFT on the chosen answer. The minimum over distributions of two answers is π(y_w) = p. What it is for: a
    causal language model that answers a comparison with a letter, where y_w and y_l are the letters.

    Source: RLHFlow's pair-preference model, which is plain SFT on the letter (p = 1): Dong et al., arXiv 2405.07863,
    section 2. Its constants: lr 5e-6, batch 128, one epoch, 40 warm-up steps, cosine.
    """
    require_one_shape(policy_chosen_logps=policy_chosen_logps, policy_rejected_logps=policy_rejected_logps, p=p)
    return -p * policy_chosen_logps - (1 - p) * policy_rejected_logps
