"""Generalised advantage estimation."""

import torch
from torch import Tensor


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
