"""A round robin: who meets whom on which prompt, the matrix of win rates, its cycles and its equilibrium.

Axis letters: N players, P prompts, B resamples.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.contract import DataError
from tasks.judging.games import response_gaps

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Tournament(NamedTuple):
    """All matches of a round robin: one for each prompt and pair of players that met on it."""

    players: list[str]
    prompts: list[str]
    p: Floats
    """`(P, N, N)` P(row beats column), the mean over the questions of a prompt; NaN where two did not meet; diagonal
    ½."""

    def summed(self, counts: Floats) -> tuple[Floats, Floats]:
        """`(B, N, N)` wins of the row over the column, and their number of matches, diagonals 0.

        counts: `(B, P)` how often each prompt is in each resample.
        """
        met = ~np.isnan(self.p)
        met[:, np.arange(len(self.players)), np.arange(len(self.players))] = False
        size = len(self.players)
        wins, played = (
            (counts @ np.where(met, values, 0.0).reshape(len(counts.T), -1)).reshape(-1, size, size)
            for values in (self.p, 1.0)
        )
        return wins, played

    def matrices(self, counts: Floats) -> Floats:
        """`(B, N, N)` win rate of the row against the column, ½ on the diagonal, NaN for pairs that did not meet."""
        wins, played = self.summed(counts)
        with np.errstate(invalid="ignore"):
            rates = wins / played
        rates[:, np.arange(len(self.players)), np.arange(len(self.players))] = 0.5
        return np.asarray(rates, np.float64)


def tournament_of(questions: pl.DataFrame, players: Sequence[str], owner: Mapping[str, int]) -> Tournament:
    """The matches behind questions (prompt_id, a_id, b_id, p). owner: id → place of its player.

    Unanswered questions, and those between two answers of one player, do not count. Raises DataError for an id without
    a player, for players whom no chain of matches connects, and if nothing was answered.
    """
    numbered = questions.select(
        "prompt_id", "p",
        *(pl.col(f"{side}_id").replace_strict(owner, default=None, return_dtype=pl.Int64).alias(side) for side in "ab"),
    )  # fmt: skip
    unknown = numbered.filter(pl.col("a").is_null() | pl.col("b").is_null())
    if len(unknown):
        raise DataError(f"{len(unknown)} of {len(questions)} questions are about answers of none of the players")
    swap = pl.col("a") > pl.col("b")
    met = numbered.drop_nulls("p").filter(pl.col("a") != pl.col("b"))
    matches = (
        met.with_columns(
            i=pl.min_horizontal("a", "b"),
            j=pl.max_horizontal("a", "b"),
            p=pl.when(swap).then(1 - pl.col("p")).otherwise("p"),
        )
        .group_by("prompt_id", "i", "j", maintain_order=True)
        .agg(pl.col("p").mean())
    )
    if matches.is_empty():
        raise DataError(f"none of {len(questions)} questions between two players was answered")
    prompts = matches["prompt_id"].unique(maintain_order=True)
    at = matches["prompt_id"].replace_strict(prompts, pl.Series(range(len(prompts))), return_dtype=pl.Int64).to_numpy()
    i, j, p = (matches[name].to_numpy() for name in ("i", "j", "p"))
    made = np.full((len(prompts), len(players), len(players)), np.nan)
    made[:, np.arange(len(players)), np.arange(len(players))] = 0.5
    made[at, i, j], made[at, j, i] = p, 1 - p
    _check_connected(made, players)
    return Tournament(list(players), prompts.to_list(), made)


def _check_connected(p: Floats, players: Sequence[str]) -> None:
    met: npt.NDArray[np.bool_] = np.any(~np.isnan(p), axis=0)
    reached = np.zeros(len(players), np.bool_)
    reached[0] = True
    for _ in players:
        reached = reached | met[reached].any(axis=0)
    if apart := [name for name, near in zip(players, reached, strict=True) if not near]:
        raise DataError(f"no chain of answered comparisons connects {', '.join(apart)} with {players[0]}")


def cyclic_triples(beats: npt.NDArray[np.bool_]) -> int:
    """How many triples of players go round: each beats one of the other two. beats: `(N, N)`, row over column."""
    return sum(
        bool((beats[i, j] and beats[j, k] and beats[k, i]) or (beats[j, i] and beats[k, j] and beats[i, k]))
        for i, j, k in combinations(range(len(beats)), 3)
    )


def nash_mixture(p: Floats) -> Floats:
    """`(N,)` weights of a mixture of players that no player beats in the mean: a Nash equilibrium of 2P − 1.

    p: `(N, N)` win rates, p + pᵀ = 1; unknown ones count as ½. Where several mixtures are in equilibrium, it is one of
    them. A player that none beats has all the weight; else by linear programming: maximise v with
    Σ_i x_i·(2p_ij − 1) ≥ v for every j, x ≥ 0, Σ x = 1.

    Source: von Neumann, Math. Ann. 100 (1928).
    """
    from scipy.optimize import linprog

    size = len(p)
    payoff = 2 * np.where(np.isnan(p), 0.5, p) - 1
    unbeaten = (payoff >= 0).all(axis=1)
    if unbeaten.any():
        return np.eye(size)[unbeaten.argmax()]
    found = linprog(
        [*[0.0] * size, -1.0], A_ub=np.hstack([-payoff.T, np.ones((size, 1))]), b_ub=np.zeros(size),
        A_eq=[[*[1.0] * size, 0.0]], b_eq=[1.0], bounds=[*[(0, None)] * size, (None, None)],
    )  # fmt: skip
    weights = np.maximum(found.x[:size], 0.0)
    return np.asarray(weights / weights.sum(), np.float64)


def exploitabilities(first: Floats, second: Floats) -> Floats:
    """`(N,)` how far the best answering player beats each: 2·P − 1, 0 for a player that none beats in the mean.

    The best response is chosen by one half of the prompts and measured on the other, then the other way round, and both
    are averaged: choosing and measuring on the same prompts would bias the value upwards. NaN where a half lacks
    matches.

    first, second: `(N, N)` win rates of the two halves.
    """
    return (response_gaps(first, second) + response_gaps(second, first)) / 2
