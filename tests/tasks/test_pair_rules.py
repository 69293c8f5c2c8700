from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.judging.noise import uniform
from tasks.pair_rules.all_pairs import all_pairs
from tasks.pair_rules.as_sampled import as_sampled
from tasks.pair_rules.best_and_worst import best_and_worst
from tasks.pair_rules.disjoint import disjoint
from tasks.pair_rules.sampled import sampled

# Three answers with p(0,1) = 0.9, p(0,2) = 0.6, p(1,2) = 0.3: win rates 0.75, 0.2, 0.55, so places 0, 2, 1.
WIN_RATE, PLACE = (0.75, 0.2, 0.55), (0, 2, 1)
P = {(0, 1): 0.9, (0, 2): 0.6, (1, 2): 0.3}


def frame(p: dict[tuple[int, int], float] = P, prompt: int = 0) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "prompt": prompt, "answers": 3, "a": a, "b": b, "p": value, "a_id": f"id{a}", "b_id": f"id{b}",
            "a_win_rate": WIN_RATE[a], "b_win_rate": WIN_RATE[b], "a_place": PLACE[a], "b_place": PLACE[b],
        }
        for (a, b), value in p.items()
    ])  # fmt: skip


def kept(found: pl.DataFrame) -> list[tuple[Any, ...]]:
    return found.select("a", "b", pl.col("p").round(9)).rows()


@pytest.mark.parametrize(
    ("rule", "p", "pairs"),
    [
        (best_and_worst, P, [(0, 1, 0.9)]), (best_and_worst, {(1, 0): 0.1}, [(0, 1, 0.9)]),
        (best_and_worst, {(0, 2): 0.6, (1, 2): 0.3}, []), (all_pairs, P, [(0, 1, 0.9), (0, 2, 0.6), (2, 1, 0.7)]),
        (all_pairs, {(0, 1): 0.5, (1, 2): 0.3}, [(2, 1, 0.7)]),
    ],
    ids=["extreme win rates", "turned", "their question has no answer", "all", "ties are left out"],
)  # fmt: skip
def test_pairs_are_those_of_extreme_win_rates_or_all_with_the_more_probable_winner_first(
    rule: Any, p: dict[tuple[int, int], float], pairs: list[tuple[int, int, float]]
) -> None:
    assert kept(rule(frame(p))) == pairs


def test_best_and_worst_keeps_nothing_of_a_tie() -> None:
    tied = frame().with_columns(a_win_rate=pl.lit(0.5), b_win_rate=pl.lit(0.5 + 1e-12))
    assert kept(best_and_worst(tied)) == []


def many(n: int, p: float) -> pl.DataFrame:
    one = frame({(0, 1): p})
    return pl.concat([one.with_columns(a_id=pl.lit(f"a{i}"), b_id=pl.lit(f"b{i}")) for i in range(n)])


def test_drawn_labels_follow_p() -> None:
    found = sampled(many(4000, 0.8))
    share = found["a"].eq(0).mean()
    assert share == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / 4000))
    assert found["p"].round(9).unique().sort().to_list() == [0.2, 0.8]
    assert (found["p"] > 0.5).mean() == share


def test_drawn_labels_stay_when_rows_or_sides_change_places() -> None:
    pairs = many(300, 0.6)
    first = dict(zip(pairs["a_id"], sampled(pairs)["a"], strict=True))
    backwards = pairs.reverse()
    assert dict(zip(backwards["a_id"], sampled(backwards)["a"], strict=True)) == first
    exchanged = pairs.with_columns(a="b", b="a", a_id="b_id", b_id="a_id", p=1 - pl.col("p"))
    assert dict(zip(exchanged["b_id"], sampled(exchanged)["a"], strict=True)) == first


def test_certain_answers_are_never_drawn_otherwise() -> None:
    assert sampled(many(300, 1.0))["a"].unique().to_list() == [0]
    assert sampled(many(300, 0.0))["a"].unique().to_list() == [1]


@pytest.mark.parametrize(
    ("seed", "a", "b"), [(0, "a", "b"), (7, "0123456789abcdef0123456789abcdef", "short"), (2**63, "", "zwölf")]
)
def test_noise_is_splitmix64_over_the_bytes_of_seed_and_ids(seed: int, a: str, b: str) -> None:
    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    state = seed
    for text in (a, b):
        data = text.encode()
        for i in range(0, max(8, len(data)), 8):
            state = mixed(state ^ int.from_bytes(data[i : i + 8].ljust(8, b"\0"), "little"))
        state = mixed((state + 0x9E3779B97F4A7C15) % 2**64)
    assert uniform(seed, pl.Series([a]), pl.Series([b]))[0] == (state >> 11) / 2**53


def test_pairs_as_sampled_keep_ties_and_the_order_of_the_table() -> None:
    assert kept(as_sampled(frame({(0, 1): 0.5, (1, 2): 0.3}))) == [(0, 1, 0.5), (1, 2, 0.3)]


def every_two(answers: int, prompt: int = 0) -> pl.DataFrame:
    two = [(a, b) for a in range(answers) for b in range(a + 1, answers)]
    ids = {f"{side}_id": [f"{prompt}/{pair[i]}" for pair in two] for i, side in enumerate("ab")}
    return pl.DataFrame({"prompt": prompt, "a": [a for a, _ in two], "b": [b for _, b in two], "p": 0.4, **ids})


@pytest.mark.parametrize(("answers", "pairs"), [(8, 4), (5, 2), (2, 1)])
def test_disjoint_pairs_have_no_answer_in_common_and_the_winner_first(answers: int, pairs: int) -> None:
    found = disjoint(pl.concat([every_two(answers, prompt) for prompt in (0, 1)]))
    assert len(found) == 2 * pairs
    assert found["p"].round(9).unique().to_list() == [0.6]
    both = found.select("a", "b")
    assert all(a > b for a, b in both.rows())
    for prompt in (both[:pairs], both[pairs:]):
        assert len({*prompt["a"], *prompt["b"]}) == 2 * pairs


def test_drawn_labels_of_disjoint_pairs_keep_ties_and_are_those_of_all_pairs() -> None:
    pairs = pl.concat([every_two(9, prompt).with_columns(p=pl.lit(p)) for prompt, p in ((0, 0.5), (1, 0.7))])
    found = sampled(pairs, disjoint=True, seed=4)
    assert len(found) == 8
    for prompt in (found[:4], found[4:]):
        assert len({*prompt["a"], *prompt["b"]}) == 8
    labels = {*sampled(pairs[36:], seed=4).select("a", "b").rows()}
    assert {*found[4:].select("a", "b").rows()} < labels
    assert sampled(pairs, disjoint=True, seed=5).rows() != found.rows()


def test_the_matching_belongs_to_the_seed_and_the_draws() -> None:
    def matched(frame: pl.DataFrame, seed: int = 0) -> set[tuple[int, int]]:
        return set(disjoint(frame, seed=seed).select("a", "b").rows())

    pairs = every_two(8)
    assert matched(pairs.reverse()) == matched(pairs)
    assert len({frozenset(matched(pairs, seed)) for seed in range(20)}) > 10
    assert kept(disjoint(frame({(0, 1): 0.5}))) == []  # a tie
