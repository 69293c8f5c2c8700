"""The difference between the engine that samples and the network that trains: measured, and corrected. Pure.

Both have the same weights, but kernels and number types of their own, so the answers come from a policy μ near the
trainer's π. A gradient of answers of μ is that of π once every token is weighted by π/μ.

Names: `log_ratios` are log π − log μ of the sampled tokens, `(M,)`, answers end to end; `lengths` are the answers'
numbers of tokens, `(S,)`.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

LARGEST = 20.0
"""Log-ratios are clamped to ± this before `exp`, so that a weight is finite whatever the sampler did."""


class Correction(NamedTuple):
    """How the difference is corrected: `tasks.rollouts.settings.RolloutConfig` documents the parameters."""

    kind: Literal["none", "truncate", "mask"] = "none"
    level: Literal["token", "sequence"] = "token"
    smallest: float = 0.5
    """Ratio below which `mask` leaves a token or an answer out; `truncate` has no lower bound."""
    largest: float = 2.0
    """Ratio above which `mask` leaves it out, and to which `truncate` lowers it."""


def importance_weights(log_ratios: Tensor, lengths: Tensor, correction: Correction) -> Tensor | None:
    """Factors of the tokens' losses, `(M,)` in the type of `log_ratios`; None where nothing is corrected.

        truncate: min(ρ, largest)
        mask:     ρ where smallest ≤ ρ ≤ largest, else 0

    ρ is π/μ of the token, or, with level `sequence`, the product of an answer's ratios, for each of its tokens. Where
    sampler and trainer agree exactly, all factors are exactly 1. A factor of 0 leaves the denominators of means as they
    are. A token's own ratio has little variance, and leaves out how its context was sampled; the product is the exact
    weight until it is cut, and hardly any long answer's lies within the bounds.

    Source: truncation of token ratios, cap 2: Yao et al., "Your efficient RL framework secretly brings you off-policy
    RL training" (2025), after Ionides, "Truncated importance sampling" (2008); masks: IcePop in arXiv 2510.18855
    (tokens, .5 to 5), and TRL 1.16 (`vllm_importance_sampling_mode="sequence_mask"`, up to 3).
    """
    if correction.kind == "none":
        return None
    ratios = ratios_of(log_ratios, lengths, correction.level)
    if correction.kind == "truncate":
        return ratios.clamp(max=correction.largest)
    return torch.where((ratios >= correction.smallest) & (ratios <= correction.largest), ratios, 0.0)


def ratios_of(log_ratios: Tensor, lengths: Tensor, level: str = "token") -> Tensor:
    """ρ of every token, `(M,)`: its own, or with level `sequence` its answer's."""
    if level == "sequence":
        sums = torch.stack([part.sum() for part in log_ratios.split(lengths.tolist())])
        log_ratios = sums.repeat_interleave(lengths)
    return torch.exp(log_ratios.clamp(-LARGEST, LARGEST))


def mismatch_metrics(log_ratios: Tensor, lengths: Tensor, correction: Correction = Correction()) -> dict[str, float]:
    """What the curves show of an iteration, per token.

    logp_difference, logp_difference_max: mean and maximum of |log π − log μ|, nats.
    ratio_mean, ratio_min, ratio_max: of ρ = π/μ; the mean is 1 up to chance where μ reaches all that π does.
    effective_share: (Σρ)²/(M·Σρ²), as a share of the tokens how many equally weighted ones would be worth as much.
    kl, kl_k3: estimates of KL(μ ‖ π), nats: the mean of −log ρ, and of ρ − 1 − log ρ, which has less noise.
    corrected: where something is corrected, the share of the tokens whose factor is not their ratio.
    """
    log_ratios = log_ratios.double()
    ratios, differences = ratios_of(log_ratios, lengths), log_ratios.abs()
    metrics = {
        "sampler/logp_difference": float(differences.mean()),
        "sampler/logp_difference_max": float(differences.max()),
        "sampler/ratio_mean": float(ratios.mean()),
        "sampler/ratio_min": float(ratios.min()),
        "sampler/ratio_max": float(ratios.max()),
        "sampler/effective_share": float(ratios.sum() ** 2 / (len(ratios) * (ratios**2).sum())),
        "sampler/kl": -float(log_ratios.mean()),
        "sampler/kl_k3": float((ratios - 1 - log_ratios).mean()),
    }
    weights = importance_weights(log_ratios, lengths, correction)
    if weights is not None:
        changed = weights != ratios_of(log_ratios, lengths, correction.level)
        metrics["sampler/corrected"] = float(changed.double().mean())
    return metrics
