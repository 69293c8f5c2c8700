"""The proportional controller of lm-human-preferences."""

from typing import Annotated

from tasks.contract import Bounds


def adaptive(
    coefficient: float,
    kl: float,
    samples: int,
    *,
    target: Annotated[float, Bounds(above=0)] = 6.0,
    horizon: Annotated[float, Bounds(above=0)] = 10000.0,
) -> float:
    """The coefficient for the next iteration: higher while the policy is further from the reference than wanted.

        β·(1 + clip(KL/target − 1, −0.2, 0.2)·samples/horizon)

    Args:
        coefficient: β of the iteration that ended.
        kl: KL(policy ‖ reference) that it measured, nats per answer.
        samples: answers that it drew.
        target: nats per answer.
        horizon: answers over which an error of 20% or more moves β by 20%; not below a fifth of `samples`.

    Source: Ziegler et al., arXiv 1909.08593, section 2.2, with the constants of its code (`train_policy.py`).
    """
    error = min(0.2, max(-0.2, kl / target - 1))
    return coefficient * max(0.0, 1 + error * samples / horizon)
