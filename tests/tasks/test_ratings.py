"""Round robins: ratings and cycles by hand, agreement with scikit-learn, and a real one."""

import gzip
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from flows.reporting.results import Estimate, ResultRow, columns, with_metrics
from flows.wiring.graph import compile_pipeline
from tasks.annotators import majority
from tasks.arena import check_players, ratings, ratings_metrics
from tasks.contract import Chosen, DataError, SpecError
from tasks.judge import compare
from tasks.judging.ratings import POINTS_PER_NAT, anchored, bradley_terry_ratings, elo_ratings
from tasks.judging.tournament import cyclic_triples, exploitabilities, nash_mixture, tournament_of
from tasks.kinds import Completions, Report, WinProbs
from tasks.load import load_judgements
from tests.answers import Judge, completions, named, rows, win_probs
from tests.tasks.reading import write
from tests.workspace import Workspace

DATA = Path(__file__).parents[3] / "shared" / "data" / "preferences" / "pandalm_testset.jsonl.gz"
ROUND = {("warm", "playful"): 0.9, ("playful", "formal"): 0.9, ("formal", "warm"): 0.9}
TONES = ["warm", "playful", "formal"]


def matrix(wins: dict[tuple[int, int], float], size: int) -> np.ndarray:
    """`(N, N)` wins of the row over the column."""
    made = np.zeros((size, size))
    for (i, j), n in wins.items():
        made[i, j] = n
    return made


def test_ten_wins_to_one_are_four_hundred_points() -> None:
    found = bradley_terry_ratings(matrix({(0, 1): 10, (1, 0): 1}, 2), prior_sd=1e6)
    assert found == pytest.approx([200, -200], abs=1e-3)
    assert anchored(found, 1) == pytest.approx([1400, 1000], abs=1e-3)


def test_a_player_that_only_wins_stays_finite_where_the_prior_balances_its_wins() -> None:
    """Of two players at ±x nats, n wins pull with n·σ(−2x) and the prior with x/s², s = 1000 points."""
    for n in (1, 8, 10_000):
        x = bradley_terry_ratings(matrix({(0, 1): n}, 2), prior_sd=1000)[0] / POINTS_PER_NAT
        assert n * expit(-2 * x) == pytest.approx(x * (POINTS_PER_NAT / 1000) ** 2)
    assert bradley_terry_ratings(np.zeros((3, 3)), 1000) == pytest.approx([0, 0, 0])


def test_ratings_are_those_of_logistic_regression_with_a_ridge() -> None:
    """scikit-learn 1.9: one row for a win of each side, weighted by how often, +1 and −1 for the two players."""
    from sklearn.linear_model import LogisticRegression

    rng, prior_sd = np.random.default_rng(0), 300.0
    wins = rng.gamma(2.0, 3.0, (5, 5)) * (1 - np.eye(5))
    wins[3] = 0  # a player that never wins
    pairs = [(i, j) for i, j in combinations(range(5), 2)]
    features = np.zeros((len(pairs), 5))
    for row, (i, j) in enumerate(pairs):
        features[row, i], features[row, j] = 1, -1
    weights = [*(wins[i, j] for i, j in pairs), *(wins[j, i] for i, j in pairs)]
    model = LogisticRegression(C=(prior_sd / POINTS_PER_NAT) ** 2, fit_intercept=False, tol=1e-12, max_iter=10_000)
    model.fit(np.vstack([features, features]), [1] * len(pairs) + [0] * len(pairs), sample_weight=weights)
    assert bradley_terry_ratings(wins, prior_sd) == pytest.approx(POINTS_PER_NAT * model.coef_[0], abs=1e-3)


def test_without_a_prior_ratings_are_those_of_a_binomial_model() -> None:
    """statsmodels 0.15: logit of the win share of each pair, the first player's rating 0."""
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    wins = rng.integers(1, 20, (4, 4)) * (1 - np.eye(4))
    pairs = list(combinations(range(4), 2))
    features = np.array([[(p == i) - (p == j) for p in range(1, 4)] for i, j in pairs], float)
    outcomes = np.array([[wins[i, j], wins[j, i]] for i, j in pairs])
    fitted = sm.GLM(outcomes, features, family=sm.families.Binomial()).fit(tol=1e-12)
    found = anchored(bradley_terry_ratings(wins, 1e7), 0) - 1000
    assert found == pytest.approx([0, *(POINTS_PER_NAT * fitted.params)], abs=1e-2)


def test_elo_moves_both_players_and_depends_on_the_order() -> None:
    """Equal players: a win is worth k/2 = 2. Then E = 1/(1 + 10^(−4/400)) = .505756, and a loss costs 4·E."""
    p = np.full((2, 2, 2), 0.5)
    p[0, 0, 1], p[0, 1, 0], p[1, 0, 1], p[1, 1, 0] = 1, 0, 0, 1
    found = elo_ratings(p, np.array([[0], [1]]), 4)
    assert found == pytest.approx(np.array([[1002, 998], [998, 1002]]))
    expected = 1 / (1 + 10 ** (-4 / 400))
    win_then_loss, loss_then_win = elo_ratings(p, np.array([[0, 1], [1, 0]]), 4)
    assert win_then_loss[0] == pytest.approx(1002 - 4 * expected)
    assert loss_then_win[0] == pytest.approx(998 + 4 * expected)
    p[1] = np.nan
    assert elo_ratings(p, np.array([[1, 1]]), 4)[0] == pytest.approx([1000, 1000])


def test_cyclic_triples_are_what_wins_by_player_say() -> None:
    """In a tournament without ties C(n, 3) − Σ C(wins, 2) triples go round. Source: Kendall and Babington Smith (1940).
    Rock, paper, scissors: 1 − 3·0 = 1."""
    rng = np.random.default_rng(2)
    assert cyclic_triples(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], bool)) == 1
    for size in (4, 7):
        upper = np.triu(rng.integers(0, 2, (size, size)), 1)
        beats = (upper + np.tril(1 - upper.T, -1)).astype(bool)
        wins = beats.sum(axis=1)
        assert cyclic_triples(beats) == size * (size - 1) * (size - 2) / 6 - (wins * (wins - 1) / 2).sum()


def test_nobody_beats_a_nash_mixture() -> None:
    """By hand: rock, paper, scissors has thirds. With payoffs a, b, c around the cycle the weights are as the opposite
    pair's payoff: P .9, .7, .6 are payoffs .8, .4, .2, so of (rock, paper, scissors) (.4, .2, .8)/1.4."""
    thirds = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    assert nash_mixture(thirds) == pytest.approx([1 / 3] * 3)
    uneven = np.array([[0.5, 0.9, 0.4], [0.1, 0.5, 0.7], [0.6, 0.3, 0.5]])
    assert nash_mixture(uneven) == pytest.approx(np.array([0.4, 0.2, 0.8]) / 1.4)
    better = np.array([[0.5, 0.6, 0.7], [0.4, 0.5, 0.9], [0.3, 0.1, 0.5]])
    assert nash_mixture(better) == pytest.approx([1, 0, 0])
    rng = np.random.default_rng(3)
    upper = np.triu(rng.random((6, 6)), 1)
    p = upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(6)
    assert (p @ nash_mixture(p)).max() == pytest.approx(0.5, abs=1e-9)


def test_the_best_response_is_chosen_and_measured_on_different_prompts() -> None:
    """To the first player the second half chooses player 2, who wins .6 in the first: 2·.6 − 1 = .2. The first chooses
    player 2 as well, with .4 in the second: −.2. Together 0, where one half for both would say .2."""
    first = np.array([[0.5, 0.4], [0.6, 0.5]])
    second = np.array([[0.5, 0.6], [0.4, 0.5]])
    assert exploitabilities(first, first) == pytest.approx([0.2, 0.0])
    assert exploitabilities(first, second)[0] == pytest.approx((2 * 0.4 - 1 + 0) / 2)


def played(tables: list[Completions], judge: Judge, folder: Path) -> list[WinProbs]:
    """Each two players compared, as the composite does."""
    return [
        compare(a, judge, Workspace(folder / f"{i}{j}"), b) for (i, a), (j, b) in combinations(enumerate(tables), 2)
    ]


def rated(folder: Path, prompts: str = "uvwxyz", **options: object) -> Report:
    tables = [completions({p: [tone] * 2 for p in prompts}, stream=i) for i, tone in enumerate(TONES)]
    questions = played(tables, Judge(ROUND, antisymmetric=True), folder)
    return ratings(questions, Workspace(folder / "ratings"), tables, resamples=100, **options)  # type: ignore[arg-type]


def test_three_players_who_go_round_are_rated_alike_and_are_all_exploitable(tmp_path: Path) -> None:
    report = rated(tmp_path, names=TONES)
    found = {name.removeprefix("eval/"): row for name, row in named(report).items()}
    values = {name: row["value"] for name, row in found.items()}
    for tone in TONES:
        assert values[f"rating/{tone}"] == pytest.approx(1000)
        assert values[f"mean_win_rate/{tone}"] == pytest.approx(0.5)
        assert values[f"exploitability/{tone}"] == pytest.approx(0.8)
        assert values[f"nash/{tone}"] == pytest.approx(1 / 3)
    assert {n: values[n] for n in values if n.startswith("beats")} == pytest.approx(
        {"beats/warm/playful": 0.9, "beats/warm/formal": 0.1, "beats/playful/formal": 0.9}
    )
    assert (values["cyclic_triples"], values["cyclic_triples_significant"]) == (1, 1)
    assert {row["n"] for name, row in found.items() if "triples" not in name} == {6}
    assert {(row["n"], row["unit"]) for name, row in found.items() if "triples" in name} == {(1, "triples")}
    assert report.per_prompt is not None
    assert report.per_prompt.column("beats/warm/formal").to_pylist() == pytest.approx([0.1] * 6)


def test_the_anchor_is_at_a_thousand_in_both_ratings_and_the_table_has_a_column_for_each_player(tmp_path: Path) -> None:
    report = rated(tmp_path, names=TONES, anchor="formal")
    metrics = with_metrics(
        {r["name"]: Estimate(r["value"], r["ci_low"], r["ci_high"], r["n"], r["unit"]) for r in rows(report)},
        ratings_metrics,
    )
    for rating in ("eval/rating/formal", "eval/elo/formal"):
        assert (metrics[rating].value, metrics[rating].low, metrics[rating].high) == pytest.approx((1000,) * 3)
    heads = [m.column for m in columns([ResultRow("arena", None, metrics)]).values()]
    assert heads == ["cyclic\ntriples", *(f"rating:\n{tone}" for tone in TONES)]


def test_a_player_that_wins_every_match_has_an_interval_and_the_whole_mixture(tmp_path: Path) -> None:
    tables = [completions({p: [text] * 2 for p in "xyz"}, stream=i) for i, text in enumerate(("best", "poor"))]
    questions = played(tables, Judge({("best", "poor"): 1.0}, antisymmetric=True), tmp_path)
    found = named(ratings(questions, Workspace(tmp_path), tables, resamples=100))
    best = found["eval/rating/2"]
    assert best["value"] < 500
    assert np.isfinite([best["ci_low"], best["ci_high"]]).all()
    assert found["eval/nash/1"]["value"] == 1
    assert found["eval/exploitability/2"]["value"] == 1


def test_names_may_be_the_ids_themselves_and_open_questions_do_not_count() -> None:
    questions = win_probs([("x", "a", "b", 1.0), ("x", "b", "a", 0.5), ("y", "a", "b", None), ("y", "c", "a", 0.0)])
    frame = questions.frame.select("prompt_id", "a_id", "b_id", "p")
    made = tournament_of(frame, "abc", {"a": 0, "b": 1, "c": 2})
    assert made.prompts == ["x", "y"]
    assert made.p[0, 0, 1] == pytest.approx(0.75)
    assert np.isnan(made.p[1, 0, 1])
    wins, met = made.summed(np.array([[1.0, 2.0]]))
    assert wins[0] == pytest.approx(np.array([[0, 0.75, 2], [0.25, 0, 0], [0, 0, 0]]))
    assert met[0] == pytest.approx(np.array([[0, 1, 2], [1, 0, 0], [2, 0, 0]]))


def test_what_cannot_be_rated_is_refused(tmp_path: Path) -> None:
    questions = win_probs([("x", "a", "b", 0.6), ("x", "c", "d", 0.6)])
    work = Workspace(tmp_path)
    with pytest.raises(DataError, match="1 of 2 questions are about answers of none of the players"):
        ratings([questions], work, names=["a", "b", "c"])
    with pytest.raises(DataError, match="no chain of answered comparisons connects c, d with a"):
        ratings([questions], work, names=["a", "b", "c", "d"])
    with pytest.raises(DataError, match="none of 1 questions between two players was answered"):
        ratings([win_probs([("x", "a", "b", None)])], work, names=["a", "b"])
    for names, anchor, message in (
        (["a", "a"], None, "must differ"), (["a", "b/c"], None, "slash"), (["a"], None, "needs two players"),
        (["a", "b"], "c", "anchor = 'c' is not one of the players"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=message):
            check_players(names, anchor)


ROBIN = """
pipelines:
  mine:
    steps:
      base:    {task: load_policy, source: toy}
      heldout: {task: load_prompts, source: toy, split: heldout}
      gold:    {task: load_oracle, oracle: toy_gold}
      robin:   {task: arena, policies: [base, base, base, base], prompts: heldout, oracle: gold, names: NAMES}
"""


def test_each_policy_is_sampled_once_with_noise_of_its_own_and_each_pair_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text(ROBIN.replace("NAMES", "[a, b, c, d]"))
    nodes = compile_pipeline(file, "mine").nodes
    samples = [node for id, node in nodes.items() if id.startswith("robin/sample")]
    assert [node.params["stream"] for node in samples] == [3001, 3002, 3003, 3004]
    assert sum(id.startswith("robin/compare") for id in nodes) == 6
    file.write_text(ROBIN.replace("NAMES", "[a, b]"))
    with pytest.raises(SpecError, match=r"there must be one for each of the 4 tables"):
        compile_pipeline(file, "mine")


@pytest.mark.skipif(not DATA.exists(), reason="the real pairs are not on this machine")
def test_pandalms_five_models_are_rated_in_their_known_order(tmp_path: Path) -> None:
    """999 pairs, labelled by the majority of three people; pythia beats bloom with 54.5 of 107: .509."""
    with gzip.open(DATA, "rt") as lines:
        found = [json.loads(line) for line in lines]
    for row in found:
        row |= {name: str(row[name]) for name in ("response1", "response2")}
    source = Chosen("sources", "path", {"path": str(write(tmp_path / "pandalm.jsonl", found)), "doubtful": "keep"})
    people = load_judgements(Workspace(tmp_path / "people"), source=source, split="all", players=["cmp_key"])
    models = ["llama-7b", "pythia-6.9b", "bloom-7b", "opt-7b", "cerebras-gpt-6.7B"]
    labels = majority([people], Workspace(tmp_path / "labels"))
    values = {n: r["value"] for n, r in named(ratings([labels], Workspace(tmp_path), names=models)).items()}
    ordered = [values[f"eval/rating/{model}"] for model in models]
    assert ordered == sorted(ordered, reverse=True)
    assert values["eval/beats/pythia-6.9b/bloom-7b"] == pytest.approx(54.5 / 107)
    assert values["eval/cyclic_triples"] == 0
    assert values["eval/nash/llama-7b"] == 1
    with pytest.raises(SpecError, match=r"players: no row has the column 'cmp_keys' \(did you mean 'cmp_key'"):
        load_judgements(Workspace(tmp_path / "no"), source=source, split="all", players=["cmp_keys"])


def test_frames_of_matches_need_no_order(tmp_path: Path) -> None:
    """The same questions, sides exchanged: the same ratings."""
    there = [("x", "a", "b", 0.7), ("y", "a", "b", 0.2)]
    tables = [win_probs(there), win_probs([(i, b, a, 1 - p) for i, a, b, p in there])]
    found = [
        pl.DataFrame(rows(ratings([t], Workspace(tmp_path / str(n)), names=["a", "b"], resamples=100)))
        for n, t in enumerate(tables)
    ]
    assert found[0]["value"].to_list() == pytest.approx(found[1]["value"].to_list(), nan_ok=True)
