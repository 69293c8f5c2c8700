"""Self-Play Preference Optimization: each answer's log-ratio is regressed on how often the answer wins."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from tasks.contract import Bounds
from tasks.losses import require_one_shape


def sppo(
    policy_logps: Tensor,
    ref_logps: Tensor,
    win_rate: Tensor,
    prompt_win_rates: Tensor,
    *,
    eta: Annotated[float, Bounds(above=0)] = 10.0,
    log_z: Literal["half", "estimated"] = "half",
) -> Tensor:
    """Moves the policy to the multiplicative-weights update π ∝ π_t·exp(η·P(y ≻ π_t)), by regression.

        half:      [log π(y)/π_t(y) − η·(P − ½)]²
        estimated: [log π(y)/π_t(y) − (η·P − log Ẑ)]²,   log Ẑ = logsumexp_k(η·P_k) − log K

    P is the answer's win rate, and the reference is π_t, the policy that drew the answers. An answer that wins half its
    comparisons asks `half` for a log-ratio of 0. The constant η/2 is log Z where all preferences are ½; else the
    regression has an optimum of its own (Lambert W). Kept best and worst answers only, the mean over both equals the
    authors' `0.5·[(…)² + (…)²]`. If the self-comparison counts in P, the effective eta is η·(1 − 1/K). `estimated` at a
    large eta gives most answers hugely negative targets: at η = 1000 its log Ẑ is the best answer's η·P less log K.

    Args:
        eta: step size of the update in nats; the code of the paper calls 1/eta beta.
        log_z: how log Z is taken; estimated: from all answers to the prompt, or from extra samples (`win_rates` with
            `extra`).

    Source: Wu et al., arXiv 2405.00675: half is eq. 4.7, estimated eq. 4.5; the reference code's loss `sppo`.
    Paper: lr 5e-7, eta 1000, batch 64, RMSprop, linear, 10% warm-up.
    """
    require_one_shape(
        policy_logps=policy_logps, ref_logps=ref_logps, win_rate=win_rate, prompt_win_rates=prompt_win_rates[:, 0]
    )
    log_ratio = policy_logps - ref_logps
    if log_z == "half":
        return (log_ratio - eta * (win_rate - 0.5)) ** 2
    counted = ~prompt_win_rates.isnan()
    exponents = (eta * prompt_win_rates).masked_fill(~counted, -torch.inf)
    log_z_estimate = torch.logsumexp(exponents, dim=1) - counted.sum(dim=1).to(exponents.dtype).log()
    return (log_ratio - (eta * win_rate - log_z_estimate)) ** 2


def reward_scale(*, eta: float) -> float:
    """The target of log(π/π_t) is η·(P − ½), so 1/η of it is on the scale of win rates."""
    return 1 / eta
