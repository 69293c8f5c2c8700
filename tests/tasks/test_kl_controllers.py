"""KL controllers: lm-human-preferences' number, both bounds of the PPO paper's rule, and a coefficient that stays."""

import pytest

from tasks.kl_controllers.adaptive import adaptive
from tasks.kl_controllers.fixed import fixed
from tasks.kl_controllers.halving import halving


def test_the_proportional_controller_moves_by_the_clipped_error_per_horizon() -> None:
    """β 0.2, KL 9 at target 6: the error 0.5 is clipped to 0.2, ·64/10,000: 0.2·1.00128 = 0.200256."""
    assert adaptive(0.2, 9.0, 64, target=6.0, horizon=10000.0) == pytest.approx(0.200256)
    assert adaptive(0.2, 0.0, 64, target=6.0, horizon=10000.0) == pytest.approx(0.199744)
    assert adaptive(0.2, 6.3, 64, target=6.0, horizon=10000.0) == pytest.approx(0.2 * (1 + 0.05 * 0.0064))
    assert adaptive(0.2, 6.0, 64) == 0.2


def test_a_short_horizon_never_turns_the_price_into_a_reward() -> None:
    assert adaptive(0.2, 0.0, 1000, horizon=10.0) == 0


@pytest.mark.parametrize(("kl", "expected"), [(3.9, 0.1), (4.1, 0.2), (6.0, 0.2), (8.9, 0.2), (9.1, 0.4)])
def test_below_two_thirds_of_the_target_the_price_halves_and_above_one_and_a_half_it_doubles(
    kl: float, expected: float
) -> None:
    assert halving(0.2, kl, 64, target=6.0) == pytest.approx(expected)


def test_a_fixed_price_stays() -> None:
    assert fixed(0.05, 100.0, 64) == 0.05
