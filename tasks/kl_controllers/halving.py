"""The PPO paper's rule: half or twice."""

from typing import Annotated

from tasks.contract import Bounds


def halving(coefficient: float, kl: float, _samples: int, *, target: Annotated[float, Bounds(above=0)] = 6.0) -> float:
    """The coefficient for the next iteration: β/2 where KL < target/1.5, 2β where KL > 1.5·target, else β.

    Both bounds are needed: with one alone, or with half and twice exchanged, the policy runs away.

    Args:
        coefficient: β of the iteration that ended.
        kl: KL that it measured, nats per answer.
        target: nats per answer.

    Source: Schulman et al., arXiv 1707.06347, section 4 (there for the KL from the policy before the update).
    """
    if kl < target / 1.5:
        return coefficient / 2
    return coefficient * 2 if kl > target * 1.5 else coefficient
