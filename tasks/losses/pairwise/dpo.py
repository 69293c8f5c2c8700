"""Direct Preference Optimization, with sampled labels or with the oracle's probabilities."""

from typing import Annotated, Literal

from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import label_cross_entropy, pair_log_ratios


def dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    p: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    labels: Literal["hard", "soft"] = "hard",
    label_smoothing: Annotated[float, Bounds(min=0, below=0.5)] = 0.0,
    norm: Literal["sum", "length"] = "sum",
) -> Tensor:
    """Makes the policy an implicit reward model of the pairs: the higher the margin of chosen, the lower the loss.

        −q·log σ(β·D) − (1 − q)·log σ(−β·D),      q = (1 − 2ε)·p + ε

        hard: p = 1                        soft:   p = P(chosen beats rejected)
        sum:  D = d                        length: D = a/n_w − b/n_l

    A policy equal to its reference has loss log 2. Soft labels from a Bradley-Terry oracle have the finite optimum
    π* ∝ π_ref·exp(r/β); hard labels that never contradict each other have none (the margin grows for ever), unless ε
    holds it at β·D = log((1 − ε)/ε). Only differences count: both answers may become less likely. Write-ups of loops
    that print `log σ(…)` as the loss lack its minus sign.

    Args:
        beta: temperature; large keeps the policy near the reference.
        labels: hard takes the pair's order as the truth, soft the oracle's probability; NaN there gives a NaN loss.
        label_smoothing: ε, the share of labels taken to be wrong (cDPO); it mixes soft ones with their opposite too.
        norm: log-ratios of whole answers, or per token.

    Source: Rafailov et al., arXiv 2305.18290, eq. 7; soft labels: eq. 6 in expectation. ε: its reference code's
    `preference_loss` (TRL 1.16's `sigmoid` ignores `label_smoothing`). length: Tülu 3, arXiv 2411.15124.
    Paper: lr 1e-6, beta 0.1, batch 64, RMSprop, 150 warm-up steps; Tülu 3: norm length, beta 5.
    """
    ratios = pair_log_ratios(
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps,
        p=p, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths,
    )  # fmt: skip
    logits = beta * ratios.normed(norm, chosen_lengths, rejected_lengths)
    if labels == "hard":
        return label_cross_entropy(logits, 1 - label_smoothing)
    return label_cross_entropy(logits, (1 - 2 * label_smoothing) * p + label_smoothing)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref), eq. 5 without its partition function."""
    return beta
