"""The arithmetic of PPO beside `tasks/advantages/`: whitening, the value loss, tables of tokens. Pure.

Tables are `(B, T)`, an answer's tokens from the left; `completion_mask` is True where a token counts, and what lies
elsewhere is 0 in every result. Rewards, values and advantages are in the units of the score.
"""

import torch
from torch import Tensor


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
