"""The difference between the engine that samples and the network that trains: measured, refused, corrected.

Both have the same weights, but kernels and number types of their own, so the answers come from a policy μ near the
trainer's π. A gradient of answers of μ is that of π once every token is weighted by π/μ.

Names: `log_ratios` are log π − log μ of the sampled tokens, `(M,)`, answers end to end; `lengths` are the answers'
numbers of tokens, `(S,)`.
"""

import math

import torch
from torch import Tensor

from tasks.contract import DataError
from tasks.rollouts.settings import Correction

LARGEST = 20.0
"""Log-ratios are clamped to ± this before `exp`, so that a weight is finite whatever the sampler did."""
ALIKE = 0.05
"""Nats per token by which sampler and trainer may differ in the mean where both have the weights that training began
with. Measured: 1e-6 where both compute in float32, up to 0.016 for a trainer in bfloat16 and an engine in float32."""
NOISE, GROWTH = 1e-3, 3.0
"""Later they may differ by this, or by so many times the difference at the beginning, which is the number types'."""


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


def check_sampler(difference: float, first: float | None, allowed: float | None = None) -> None:
    """Refuse answers of another policy than the one that trains. Raises DataError.

    In the first iteration (`first` None) both have the same weights from one checkpoint; what they differ by then is
    the number types' and the kernels' doing, and is what later iterations are held against.

    difference: mean of |log π − log μ|, nats per token. allowed: bound that the user chose, for all iterations.
    """
    if not math.isfinite(difference):
        raise DataError(
            f"sampler and trainer differ by {difference} nats per token: log-probabilities are not finite. "
            "Likely causes: weights of the policy that are NaN or infinite, from its files or from an lr too high"
        )
    bound = allowed or (ALIKE if first is None else max(NOISE, GROWTH * first))
    if difference <= bound:
        return
    what = f"sampler and trainer differ by {difference:.3g} nats per token in the mean (allowed: {bound:.3g})"
    cause = (
        "a temperature or stop token that one of them leaves out, another number type, a model that one of them "
        "loads wrongly"
        if first is None
        else "the engine still has old weights after an update, or only some of the new ones"
    )
    raise DataError(
        f"{what}, so the answers are not the policy's own. Likely causes: {cause}. Where the difference is known, "
        "`max_mismatch` allows more, and `correction` weights the tokens"
    )
