"""Direct Preference Optimization, with sampled labels or with the oracle's probabilities."""

from typing import Annotated, Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.contract import Bounds


def dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    p: Tensor,
    *,
    beta: Annotated[float, Bounds(above=0)] = 0.1,
    labels: Literal["hard", "soft"] = "hard",
) -> Tensor:
    """Makes the policy an implicit reward model of the pairs: the higher the margin of chosen, the lower the loss.

    With `delta = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))`:

        hard:  −log σ(β·delta)
        soft:  −p·log σ(β·delta) − (1 − p)·log σ(−β·delta),   p = P(chosen beats rejected)

    A policy equal to its reference has loss log 2. Soft labels from a Bradley-Terry oracle have the finite optimum
    π* ∝ π_ref·exp(r/β); hard labels that never contradict each other have none (the margin grows for ever).
    A constant p = 1 − ε is the label smoothing of the reference code (cDPO).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen answers, `(B,)`, nats; likewise the other three.
        p: P(chosen beats rejected), `(B,)`, in [0, 1]; only soft labels read it. NaN there gives a NaN loss.
        beta: temperature; large keeps the policy near the reference.
        labels: hard takes the pair's order as the truth, soft the probability that the oracle gave.

    Returns: loss per pair, `(B,)`.

    Source: Rafailov et al., arXiv 2305.18290, eq. 7; soft labels: eq. 6 in expectation, its reference code's
    `preference_loss` with label smoothing 1 − p.
    Paper: lr 1e-6, beta 0.1, batch 64, RMSprop, 150 warm-up steps.
    """
    if policy_chosen_logps.shape != policy_rejected_logps.shape:
        raise ValueError(f"chosen {tuple(policy_chosen_logps.shape)} and rejected "
                         f"{tuple(policy_rejected_logps.shape)} log-probabilities must have one shape")  # fmt: skip
    chosen_logratios = policy_chosen_logps - ref_chosen_logps
    rejected_logratios = policy_rejected_logps - ref_rejected_logps
    delta = chosen_logratios - rejected_logratios
    if labels == "hard":
        return -logsigmoid(beta * delta)
    return -p * logsigmoid(beta * delta) - (1 - p) * logsigmoid(-beta * delta)


def reward_scale(*, beta: float) -> float:
    """The implicit reward β·log(π/π_ref), eq. 5 without its partition function."""
    return beta
