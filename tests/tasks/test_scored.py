"""Statistical rejection of scored answers against its algorithm and its target, and comparisons by scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest
from scipy.special import expit, logsumexp

from tasks.contract import DataError
from tasks.judge import compare, score
from tasks.judging.noise import uniform
from tasks.judging.rejection import acceptance_turns
from tasks.kinds import Scores
from tasks.scored import compare_scores, statistical_rejection
from tests.answers import completions, rows, scorer
from tests.workspace import Workspace

Floats = npt.NDArray[np.float64]
SCORES = {"a": 1.0, "b": 0.4, "c": -0.2, "d": 0.9, "none": None}


def scored(texts: Mapping[str, Sequence[str]], folder: Path, scores: Mapping[str, float | None] = SCORES) -> Scores:
    return score(completions(texts, metadata={"template": "abc"}), scorer(scores, scale=0.8), Workspace(folder / "s"))


def by_the_papers_loop(candidates: Mapping[str, float], n: int, beta: float, seed: int) -> list[str]:
    """Algorithm 1 as printed, over candidates in order of their ids."""
    remaining, found, number = dict(sorted(candidates.items())), list[str](), 0
    while len(found) < n and remaining:
        highest, taken = max(remaining.values()), []
        for name, reward in remaining.items():
            u = uniform(seed, pl.Series([name]), pl.Series([str(number)]))[0]
            if u >= np.exp((reward - highest) / beta):
                continue
            found.append(name)
            taken.append(name)
            if len(found) >= n:
                break
        for name in taken:
            remaining.pop(name)
        number += 1
    return found


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("seed", [0, 7])
def test_answers_are_accepted_as_the_papers_loop_accepts_them(tmp_path: Path, beta: float, seed: int) -> None:
    texts = {p: ["a", "b", "c", "d", "b", "c", "a", "c"] for p in ("x", "y", "z")}
    found = rows(statistical_rejection(scored(texts, tmp_path), Workspace(tmp_path / "r"), n=4, beta=beta, seed=seed))
    for p, answers in texts.items():
        candidates = {f"{p}/0/{k}": SCORES[text] or 0.0 for k, text in enumerate(answers)}
        ids = [r["completion_id"] for r in found if r["prompt_id"] == p]
        assert ids == by_the_papers_loop(candidates, 4, beta, seed)
    assert all(r["score"] == SCORES[r["completion"]] for r in found)


def test_neither_order_nor_the_other_prompts_change_what_is_accepted(tmp_path: Path) -> None:
    table = scored({p: ["a", "b", "c", "d", "b"] for p in "xyz"}, tmp_path)
    shuffled = Scores.of(table.table.take(pa.array(np.random.default_rng(0).permutation(15))), table.metadata)
    alone = Scores.of(table.table.slice(5, 5), table.metadata)
    kept = [
        {r["completion_id"] for r in rows(statistical_rejection(t, Workspace(tmp_path / name), n=2))}
        for name, t in (("1", table), ("2", shuffled), ("3", alone))
    ]
    assert kept[0] == kept[1]
    assert {i for i in kept[0] if i.startswith("y")} == kept[2]


def test_a_small_beta_takes_the_best_and_multiplicity_is_kept_unless_texts_are_merged(tmp_path: Path) -> None:
    table = scored({"x": ["c", "a", "a", "d", "b"]}, tmp_path)
    kept = rows(statistical_rejection(table, Workspace(tmp_path / "1"), n=3, beta=1e-6))
    assert [r["completion"] for r in kept] == ["a", "a", "d"]
    merged = rows(statistical_rejection(table, Workspace(tmp_path / "2"), n=3, beta=1e-6, dedupe=True))
    assert [r["completion"] for r in merged] == ["a", "d", "b"]
    assert [r["completion_id"] for r in merged] == ["x/0/1", "x/0/3", "x/0/4"]


def test_a_prompt_with_too_few_candidates_gives_all_and_is_counted(tmp_path: Path) -> None:
    table = scored({"x": ["a", "a", "b", "none"], "y": ["a", "b", "c", "d"], "z": ["none"]}, tmp_path)
    work = Workspace(tmp_path / "1")
    found = statistical_rejection(table, work, n=3)
    assert Counter(r["prompt_id"] for r in rows(found)) == {"x": 3, "y": 3}
    assert work.totals == {"prompts": 3, "prompts_unscored": 1, "candidates": 7, "answers": 6, "exhausted": 1}
    assert work.notices[-1] == "1 prompts have at most n = 3 candidates, which were all accepted: none was rejected"
    # The published loop would take the maximum of nothing here: two texts cannot give three answers.
    merged = rows(statistical_rejection(table, Workspace(tmp_path / "2"), n=3, dedupe=True))
    assert sorted(r["completion"] for r in merged if r["prompt_id"] == "x") == ["a", "b"]


def test_scores_that_are_missing_or_infinite_are_an_error(tmp_path: Path) -> None:
    nothing = scored({"x": ["none", "none"]}, tmp_path / "1")
    with pytest.raises(DataError, match="none of 1 prompts is left: 1 without a scored answer"):
        statistical_rejection(nothing, Workspace(tmp_path / "2"), n=1)
    finite = scored({"x": ["a", "b"]}, tmp_path / "3").table
    place = finite.column_names.index("score")
    endless = Scores.of(finite.set_column(place, finite.schema.field(place), pa.array([np.inf, 0.0])))
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        statistical_rejection(endless, Workspace(tmp_path / "4"), n=1)


class Distances(NamedTuple):
    """KL to π_ref·exp(r/β)/Z in nats."""

    of_ref: float
    of_accepted: float


def distances(log_ref: Floats, reward: Floats, beta: float, k: int = 64, *, merged: bool = False) -> Distances:
    """Of π_ref, and of 8 answers accepted of k, pooled over many prompts. The estimate is about 0.001 too high."""
    trials, n = 160_000 // k, 8
    target = log_ref + reward / beta
    target -= logsumexp(target)
    draws = np.random.default_rng(5).choice(len(reward), (trials, k), p=np.exp(log_ref - logsumexp(log_ref)))
    prompt, answer = np.repeat(np.arange(trials), k), draws.ravel()
    if merged:  # the published code's dict by text
        prompt, answer = np.unique(np.stack([prompt, answer]), axis=1)
    turn = acceptance_turns(reward[answer], prompt, pl.Series(np.arange(len(prompt))).cast(pl.String), n, beta, seed=0)
    assert (np.bincount(prompt, turn >= 0) == n).all()
    share = np.bincount(answer[turn >= 0], minlength=len(reward)) / (turn >= 0).sum()
    seen = share > 0
    off = (share[seen] * (np.log(share[seen]) - target[seen])).sum()
    return Distances(float((np.exp(target) * (target - log_ref)).sum()), float(off))


def test_accepted_answers_have_the_tilted_distribution_if_multiplicity_is_kept() -> None:
    rng = np.random.default_rng(8)
    log_ref, reward = rng.normal(size=40), rng.normal(size=40)
    log_ref -= logsumexp(log_ref)
    near = distances(log_ref, reward, beta=1.0)
    assert near.of_ref > 0.5  # a start that is nearer would prove nothing
    assert near.of_accepted < 0.01
    assert distances(log_ref, reward, beta=1.0, merged=True).of_accepted > 0.1
    # A target far away needs more candidates: with few, the passes after the first take what is worse.
    few, many = (distances(log_ref, reward, beta=0.5, k=k) for k in (64, 256))
    assert few.of_ref > 1.4
    assert few.of_accepted > 0.01 > many.of_accepted


@pytest.mark.slow
def test_samples_of_a_real_policy_are_accepted_with_the_tilted_distribution(tmp_path: Path) -> None:
    from tests.enumerable import world_in

    world = world_in(tmp_path)
    for log_ref, reward in zip(world.log_ref, world.rewards, strict=True):
        kept, merged = (distances(log_ref, reward, 1.0, merged=m) for m in (False, True))
        print(f"target {kept.of_ref:.2f} nats away: accepted {kept.of_accepted:.4f}, merged {merged.of_accepted:.3f}")
        assert kept.of_accepted < 0.01 < merged.of_accepted


def test_scores_compare_as_the_oracle_would_without_a_query(tmp_path: Path) -> None:
    texts = {"x": ["a", "b", "none"], "y": ["c", "a"]}
    table = scored(texts, tmp_path)
    found = compare_scores(table, Workspace(tmp_path / "c"))
    asked = compare(completions(texts), scorer(SCORES, scale=0.8), Workspace(tmp_path / "o"))
    assert found.table.equals(asked.table)
    assert rows(found)[0]["p"] == pytest.approx(expit(0.8 * 0.6))


def test_scores_without_a_scale_are_refused(tmp_path: Path) -> None:
    table = scored({"x": ["a", "b"]}, tmp_path)
    with pytest.raises(DataError, match="the scores have no scale"):
        compare_scores(Scores.of(table.table, {"template": "abc"}), Workspace(tmp_path / "c"))
