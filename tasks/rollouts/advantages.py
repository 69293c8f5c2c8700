"""The arithmetic of PPO: KL estimators, rewards per token, advantages, whitening, the value loss. Pure.

Tables are `(B, T)`, an answer's tokens from the left; `completion_mask` is True where a token counts, and what lies
elsewhere is 0 in every result. Rewards, values and advantages are in the units of the score.
"""

import torch
from torch import Tensor


def k1(log_ratio: Tensor) -> Tensor:
    """log π/π_ref of tokens of π: unbiased for KL(π ‖ π_ref), noisy, may be negative. The one for rewards.

    As a loss it teaches nothing: the mean of its gradient is 0.
    Source: J. Schulman, "Approximating KL divergence" (2020).
    """
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log π/π_ref)²/2: biased, little noise. Of an answer's sum, its gradient is that of KL(π ‖ π_ref)."""
    return log_ratio**2 / 2


def k3(log_ratio: Tensor) -> Tensor:
    """π_ref/π − 1 + log π/π_ref: unbiased, never negative. As a loss its gradient is that of KL(π_ref ‖ π)."""
    return torch.exp(-log_ratio) - 1 + log_ratio


def token_rewards(log_ratios: Tensor, scores: Tensor, completion_mask: Tensor, coefficient: float) -> Tensor:
    """−β·k1 at every token, and the score at the last one, `(B, T)`.

    log_ratios: log π_old/π_ref, `(B, T)`. scores: `(B,)`, of answers that are not empty.

    Source: Ziegler et al., arXiv 1909.08593, eq. 2, spread over tokens as in its code.
    """
    rewards = -coefficient * k1(log_ratios) * completion_mask
    last = completion_mask.sum(1) - 1
    if (last < 0).any():
        raise ValueError(f"{int((last < 0).sum())} of {len(last)} answers have no token")
    rewards[torch.arange(len(last)), last] += scores
    return rewards


def gae(rewards: Tensor, values: Tensor, completion_mask: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Advantages of every token, `(B, T)`: A_t = δ_t + γλ·A_{t+1}, δ_t = r_t + γ·V_{t+1} − V_t.

    V and A behind an answer's last token are 0: the answer is over, also where its length cut it. The returns are
    A + V, before any whitening. values: V_t, of what was read before token t.

    Source: Schulman et al., arXiv 1506.02438, eq. 16.
    """
    if not rewards.shape == values.shape == completion_mask.shape:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and completion_mask "
            f"{tuple(completion_mask.shape)} must have one shape"
        )
    values = values * completion_mask
    advantages = torch.zeros_like(rewards)
    later, value_after = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        here = completion_mask[:, t]
        later = torch.where(here, rewards[:, t] + gamma * value_after - values[:, t] + gamma * lam * later, 0.0)
        value_after = values[:, t]
        advantages[:, t] = later
    return advantages


def whitened(values: Tensor) -> Tensor:
    """(x − mean)/√(var + 1e-8) of `(M,)` values, with the unbiased variance. Raises ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError(f"{len(values)} values have no variance")
    return (values - values.mean()) / torch.sqrt(values.var(unbiased=True) + 1e-8)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> Tensor:
    """½·max((V − R)², (V_old + clip(V − V_old, ±clip) − R)²) of every token, `(M,)`.

    The larger error counts, so a value that has moved too far towards its return gets no more gradient.

    Source: Huang et al., arXiv 2403.17031 (`ppo.py`); lm-human-preferences' code.
    """
    if not values.shape == old_values.shape == returns.shape:
        raise ValueError(
            f"values {tuple(values.shape)}, old ones {tuple(old_values.shape)} and returns {tuple(returns.shape)} "
            "must have one shape"
        )
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − var(R − V)/var(R): 1 for a perfect value network, 0 for a constant one; NaN where returns do not vary."""
    spread = returns.var()
    return float(1 - (returns - values).var() / spread) if spread > 0 else float("nan")


def as_table(flat: Tensor, lengths: Tensor) -> Tensor:
    """Values of answers end to end, `(M,)`, as a table `(B, T)` with 0 behind each answer's end."""
    table = flat.new_zeros(len(lengths), int(lengths.max()))
    table[mask_of(lengths)] = flat
    return table


def mask_of(lengths: Tensor) -> Tensor:
    """`completion_mask` of answers of these lengths, `(B, T)` bool."""
    return torch.arange(int(lengths.max())) < lengths[:, None]
