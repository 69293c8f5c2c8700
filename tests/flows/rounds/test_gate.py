"""The gate's test: numbers by hand, its error over whole loops by simulation, and which gains it sees."""

from collections.abc import Callable
from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from flows.rounds.gate import detectable, evidence_of, level_of, p_values, win_rates_by_prompt
from tasks.contract import DataError

Draw = Callable[[np.random.Generator, float, tuple[int, ...]], npt.NDArray[np.float64]]


def _beta(variance: float) -> Draw:
    def draw(rng: np.random.Generator, mean: float, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        precision = 0.25 / variance - 1
        return rng.beta(mean * precision, (1 - mean) * precision, size)

    return draw


PROMPTS: dict[str, Draw] = {
    "won or lost": lambda rng, mean, size: (rng.random(size) < mean).astype(float),
    "four answers": lambda rng, mean, size: rng.binomial(4, mean, size) / 4,
    "wide": _beta(0.09),
    "narrow": _beta(0.01),
    "mostly a little better, rarely lost": lambda rng, mean, size: (
        np.where(rng.random(size) < 0.1, 0.0, 10 / 18) + mean - 0.5
    ),
}
"""Win rates by prompt: draws of that mean."""


def _false_acceptances(draw: Draw, loops: int, ticks: int, n: int, alpha: float, seed: int = 0) -> float:
    """Share of loops over equal policies in which any tick accepts."""
    rng = np.random.default_rng(seed)
    ever = np.zeros(loops, dtype=bool)
    for tick in range(1, ticks + 1):
        level = level_of(alpha, tick)
        ever |= p_values(draw(rng, 0.5, (loops, n)), level) <= level
    return float(ever.mean())


def test_the_levels_of_all_ticks_add_up_to_alpha() -> None:
    assert [level_of(0.06, t) for t in (1, 2, 3)] == pytest.approx([0.03, 0.01, 0.005])
    assert sum(level_of(0.05, t) for t in range(1, 10_001)) == pytest.approx(0.05 * 10_000 / 10_001)


def test_p_is_one_over_the_mean_capital_of_the_stakes_by_hand() -> None:
    """Two prompts at level e⁻¹: stakes √(2/(2·v)) = 2, 2.83, … for v = ¼, ⅛, …, all cut at 1.9."""
    assert p_values(np.array([1.0, 0.75]), exp(-1)) == pytest.approx(1 / (1.95 * 1.475))
    stakes = [min(1.9, sqrt(2 / (8 * v))) for v in (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)]
    assert stakes[:2] == [1.0, sqrt(2)]
    by_hand = 5 / sum((1 + 0.5 * s) ** 6 * (1 - 0.5 * s) ** 2 for s in stakes)
    assert p_values(np.array([1.0] * 6 + [0.0] * 2), exp(-1)) == pytest.approx(by_hand)
    assert p_values(np.full(64, 0.5), 0.01) == 1
    assert p_values(np.full(64, 0.4), 0.01) == 1, "never above 1"


def test_order_and_company_of_the_prompts_do_not_matter() -> None:
    rates = np.random.default_rng(0).random((3, 40)) * 0.5 + 0.4
    assert p_values(rates, 0.01) == pytest.approx([float(p_values(row[::-1], 0.01)) for row in rates])


@pytest.mark.parametrize("name", PROMPTS)
def test_the_e_value_expects_one_at_most_for_equal_policies(name: str) -> None:
    """Its tail decides at the levels of late ticks: P(p ≤ level) ≤ level at levels that 10⁵ draws can see."""
    rng = np.random.default_rng(1)
    for level in (0.025, 0.004, 0.0005):
        p = p_values(PROMPTS[name](rng, 0.5, (40_000, 64)), level)
        assert (p <= level).mean() <= level + 3 * sqrt(level / 40_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMPTS)
def test_10_000_loops_of_100_ticks_over_equal_policies_accept_any_in_at_most_alpha_of_them(name: str) -> None:
    share = _false_acceptances(PROMPTS[name], loops=10_000, ticks=100, n=64, alpha=0.05)
    print(f"{name}: {share:.4f}")
    assert share <= 0.05 + 3 * sqrt(0.05 * 0.95 / 10_000)


@pytest.mark.parametrize("name", ["won or lost", "four answers", "narrow"])
@pytest.mark.parametrize(("n", "tick"), [(64, 1), (64, 10), (128, 3)])
def test_the_detectable_gain_is_seen_in_four_of_five_loops(name: str, n: int, tick: int) -> None:
    rng, level = np.random.default_rng(2), level_of(0.05, tick)
    found = [detectable(PROMPTS[name](rng, 0.5, (n,)), level) for _ in range(10)]
    mean = float(np.mean([f for f in found if f]))
    seen = (p_values(PROMPTS[name](rng, mean, (4000, n)), level) <= level).mean()
    assert 0.7 < seen < 0.88, f"{mean:.3f}"


def test_few_prompts_can_show_no_gain_and_the_message_contains_that() -> None:
    """Three won prompts make 1.95³ = 7.4 of the capital at most, and 1/0.025 = 40 is needed."""
    few = evidence_of(np.array([1.0, 1.0, 1.0]), 0.05, 1)
    assert (few.p, few.accepts, few.detectable) == (pytest.approx(1.95**-3), False, None)
    assert "could see no gain at all: 3 prompts of standard deviation 0.00 at level 0.025 are too few" in few.reach
    assert log(0.025) / log(1 / 1.95) > 5
    six = evidence_of(np.full(6, 1.0), 0.05, 1)
    assert six.accepts
    assert six.decision == "p = 0.018 ≤ 0.025"


def test_a_gates_report_has_win_rates_by_prompt() -> None:
    table = pa.table({"prompt_id": ["a", "b", "c"], "win_rate": [0.5, None, 1.0]})
    assert win_rates_by_prompt(table, "eval/win_rate").tolist() == [0.5, 1.0]
    for wrong in (None, table.drop_columns("win_rate"), pa.table({"win_rate": [1.5]})):
        with pytest.raises(DataError, match=r"by prompt"):
            win_rates_by_prompt(wrong, "eval/win_rate")
