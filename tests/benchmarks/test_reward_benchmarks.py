"""What the benchmarks of reward models compute from tables: agreement with gold, curves over seeds, the pooled law."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.overoptimisation import curves_of, law_by_pairs
from benchmarks.record import Row
from benchmarks.reward_models import FILE, Cell, agreement, best_of_gains, parameters_of, words
from flows.wiring.graph import compile_pipeline


def test_agreement_counts_pairs_of_one_prompt_whose_gold_differs() -> None:
    gold = np.array([[1.0, 2.0, 2.0], [0.0, 5.0, 9.0]])
    scores = np.array([[7.0, 8.0, 6.0], [1.0, 1.0, 3.0]])
    found = agreement(scores, gold)
    # First prompt: of its two pairs that differ one is right. Second: one tie, which counts one half, and two right.
    assert found["gold_accuracy"] == pytest.approx((1 + 0 + 0.5 + 1 + 1) / 5)
    own, other = np.array([0, 1, -1, -2 / 3, -2 / 3, 4 / 3]), np.array([-2 / 3, 1 / 3, 1 / 3, -14 / 3, 1 / 3, 13 / 3])
    assert found["correlation"] == pytest.approx(own @ other / math.sqrt((own @ own) * (other @ other)))


def test_a_constant_per_prompt_and_the_scale_change_no_agreement() -> None:
    noise = np.random.default_rng(0)
    gold, scores = noise.normal(size=(4, 8)), noise.normal(size=(4, 8))
    moved = 3 * scores + np.arange(4)[:, None]
    assert agreement(moved, gold) == pytest.approx(agreement(scores, gold))


def test_the_best_of_all_answers_is_the_one_with_the_highest_score() -> None:
    scores = np.tile(np.arange(32.0), (3, 1))
    gold = np.where(scores == 31, 7.0, 0.0)
    gains = best_of_gains(scores, gold)
    assert (gains["best_of_32_gold"], gains["best_of_32_proxy"]) == pytest.approx((7 - 7 / 32, 31 - 15.5))
    assert gains["best_of_4_gold"] == pytest.approx(7 * 4 / 32 - 7 / 32)


def test_a_setting_is_called_by_what_differs_from_the_standard_one() -> None:
    assert words(Cell(epochs=3, lr=1e-4)) == "3 epochs, lr 0.0001"
    assert words(Cell(disjoint=False)) == "all pairs"
    assert words(Cell()) == "1 epoch"


def test_the_wiring_has_a_round_for_each_cell_and_a_parameter_for_each_of_its_fields(tmp_path: Path) -> None:
    rounds = [(cell, seed) for cell in (Cell(), Cell(300, disjoint=False, epochs=2)) for seed in (0, 7)]
    graph = compile_pipeline(FILE, "reward-curves", parameters_of(rounds), cache=tmp_path / "python.json")
    tables, models = ([graph.nodes[f"{name}@{n}"].params for n in (1, 2, 3, 4)] for name in ("pairs", "reward"))
    assert [(p["size"], m["epochs"], m["seed"]) for p, m in zip(tables, models, strict=True)] == [
        (3000, 1, 0), (3000, 1, 7), (300, 2, 0), (300, 2, 7),
    ]  # fmt: skip
    assert len({graph.nodes[f"report@{n}"].inputs["pairs"] for n in (1, 2, 3, 4)}) == 1


def rows_of(seed: int, *points: tuple[float, float], size: int = 300) -> list[Row]:
    return [
        {"seed": seed, "num_pairs": size, "distance": d, "gold_gain": g, "case": {"checkpoint": n}}
        for n, (d, g) in enumerate(points)
    ]


def test_curves_begin_at_the_base_and_end_where_the_first_seed_ends() -> None:
    rows = [*rows_of(0, (1, 2.0), (2, 0.0)), *rows_of(1, (4, 4.0))]
    d, gains = curves_of(rows, "gold_gain", points=5)
    np.testing.assert_allclose(d, [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(gains, [[0, 1, 2, 1, 0], [0, 0.5, 1, 1.5, 2]])


def test_the_law_of_a_size_is_that_of_the_means_over_its_seeds() -> None:
    def around(alpha: float, beta: float, size: int, off: float = 0.3) -> list[Row]:
        points = [(d, d * (alpha - beta * math.log(d))) for d in (0.5, 1.5, 3.0)]
        return [
            row for seed, sign in ((0, 1), (1, -1))
            for row in rows_of(seed, (0.0, 0.0), *((d, g + sign * off) for d, g in points), size=size)
        ]  # fmt: skip

    laws = law_by_pairs([*around(2, 0.25, 3000), *around(1, 0.5, 300)])
    assert {size: (law.alpha, law.beta, law.explained) for size, law in laws.items()} == {
        300: pytest.approx((1, 0.5, 1)), 3000: pytest.approx((2, 0.25, 1)),
    }  # fmt: skip
    assert list(laws) == [300, 3000]
    assert laws[300].peak == pytest.approx(math.e)
