"""A round robin of policies: who beats whom, ratings, cycles, and the mixture that nobody beats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from tasks.contract import Bounds, Choice, ChoiceSpec, Seed, SpecError, Workspace
from tasks.declarations import Evaluation, Metric, StepView
from tasks.kinds import Completions, Oracle, Policy, Prompts, Report, WinProbs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tasks.contract import Add
    from tasks.judging.tournament import Floats, Ints, Tournament

ratings_metrics = {
    "eval/rating": Metric("rating:\n{}", ".0f", of_run=True),
    "eval/cyclic_triples": Metric("cyclic\ntriples", ".0f", higher_is_better=False, of_run=True),
    "eval/elo": Metric(),
    "eval/mean_win_rate": Metric(),
    "eval/nash": Metric(),
    "eval/exploitability": Metric(higher_is_better=False),
    "eval/beats": Metric(role="beats"),
}
_ARENAS_STREAM = 3000
"""The first policy of a round robin has the stream after it, so that it shares no draws with other steps."""


def arena(
    add: Add,
    policies: list[Policy],
    prompts: Prompts,
    oracle: Oracle,
    *,
    names: list[str] | None = None,
    anchor: str | None = None,
    k: Annotated[int, Bounds(min=1)] = 4,
    temperature: Annotated[float, Bounds(min=0)] = 1.0,
    max_tokens: Annotated[int, Bounds(min=1)] | None = None,
    orders: Literal["both", "random"] = "both",
    prior_sd: Annotated[float, Bounds(above=0)] = 1000.0,
    seed: Seed = 0,
    engine: Annotated[ChoiceSpec, Choice("engines")] = "auto",  # type: ignore[assignment]
    allow_seen: bool = False,
) -> Report:
    """A round robin: each policy answers the prompts once, an oracle compares every two, and `ratings` rates them all.

    Each pair of policies is a step of its own: one policy more costs its own comparisons alone. Every policy has a
    stream of noise of its own, so a policy that is listed twice is a real test of the ratings.

    Args:
        names: of the policies; default: 1, 2, …
        anchor: the policy whose ratings are 1000; default: the first.
        k: answers to each prompt; every pair of two policies' is compared.
        temperature: of the answers.
        max_tokens: longest answer; default: that of the policy's generation_config.json.
        orders: for an oracle that is not antisymmetric: query in both orders, or in a random one for each pair.
        prior_sd: standard deviation of the ratings' prior, in points.
        seed: the answers, and the resamples behind the intervals.
        engine: what samples them; see `sample`.
        allow_seen: the prompts may have trained the policies; shown beside the numbers.
    """
    answers = [
        add(
            "sample", f"sample_{i}", policy=policy, prompts=prompts, k=k, temperature=temperature,
            max_tokens=max_tokens, seed=seed, stream=_ARENAS_STREAM + i, engine=engine,
        )
        for i, policy in enumerate(policies, 1)
    ]  # fmt: skip
    duels = [
        add("compare", f"compare_{i}_{j}", completions=mine, others=theirs, oracle=oracle, orders=orders)
        for j, theirs in enumerate(answers, 1) for i, mine in enumerate(answers[: j - 1], 1)
    ]  # fmt: skip
    return add(
        "ratings", win_probs=duels, completions=answers, names=names, anchor=anchor, prior_sd=prior_sd, seed=seed,
        allow_seen=allow_seen,
    )  # fmt: skip


def ratings_wiring(step: StepView) -> None:
    answers, names = len(step.inputs.get("completions", ())), step.params["names"]
    if not answers and not names:
        raise SpecError("`ratings` without `completions` needs `names`: the players, as a_id and b_id have them")
    if answers and names and len(names) != answers:
        raise SpecError(f"names = {names}; there must be one for each of the {answers} tables of `completions`")
    check_players(names or [str(n) for n in range(1, answers + 1)], step.params["anchor"])


def check_players(names: Sequence[str], anchor: str | None) -> None:
    """Raise SpecError for names that are empty, equal or hold a slash, for too few of them, and an unknown anchor."""
    wrong = [name for name in names if not name.strip() or "/" in name]
    if wrong or len({*names}) < len(names):
        raise SpecError(f"names = {[*names]}; they must differ, and must not be empty or contain a slash")
    if len(names) < 2:
        raise SpecError(f"a round robin needs two players or more, and has {len(names)}")
    if anchor is not None and anchor not in names:
        raise SpecError(f"anchor = '{anchor}' is not one of the players {[*names]}")


def ratings_evaluation(step: StepView) -> Evaluation:
    from tasks.judging.evaluated import behind, measured_tables, settings_of

    return Evaluation(
        "ratings in a round robin", measured_tables(step.inputs.get("completions", ())),
        data=behind(step, "completions", "prompts") or step.first("win_probs"),
        oracle=behind(step, "win_probs", "oracle"),
        settings={**settings_of(step.first("win_probs")), **settings_of(step.first("completions")),
                  "players": step.params["names"], "prior": step.params["prior_sd"]},
        allow_seen=step.params.get("allow_seen", False),
    )  # fmt: skip


def ratings(
    win_probs: list[WinProbs],
    work: Workspace,
    completions: list[Completions] | None = None,
    *,
    names: list[str] | None = None,
    anchor: str | None = None,
    prior_sd: Annotated[float, Bounds(above=0)] = 1000.0,
    elo_k: Annotated[float, Bounds(above=0)] = 4.0,
    resamples: Annotated[int, Bounds(min=100)] = 1000,
    seed: Seed = 0,
    allow_seen: bool = False,
) -> Report:
    """Rate the players of a round robin: policies by their answers, or whatever names stand in a table of judgements.

    A match is what two players' answers to one prompt came to: the mean P over all their questions, so ties count
    half and each prompt counts once for each pair. `completions` says whose answers are compared, one table for each
    player; without it, a_id and b_id are themselves names of players (`load_judgements` with `players`).

    eval/beats/A/B, for A before B in the list: P(A beats B), the mean over prompts, with Wilson's interval ·
    eval/mean_win_rate/A: mean over A's opponents · eval/rating/A: Bradley-Terry rating in points, the anchor's is 1000;
    400 points more are odds of 10 to 1. Ratings have a normal prior around their mean, so that a player who wins every
    match stays finite · eval/elo/A: online Elo with the same scale and anchor, in the order of the prompts, on which it
    depends; its interval is over random orders as well · eval/exploitability/A: 2·P − 1 of the player who beats A most,
    chosen and measured on different halves of the prompts; about 0 for one that none beats (for responses that are
    single answers see `exploitability`) · eval/nash/A: A's share in a mixture that no player beats ·
    eval/cyclic_triples: how many triples of players go round · eval/cyclic_triples_significant: those of them whose
    three win rates have intervals without ½.

    Intervals are 95%; but for eval/beats they are quantiles of `resamples` resamples of the prompts. `per_prompt`
    contains every eval/beats by prompt. Raises DataError for answers of other players, and for players whom no chain of
    matches connects.

    Source: Bradley and Terry (1952); Elo (1978); the bootstrap and scale as in FastChat's rating system; Balduzzi et
    al., arXiv 1806.02643, for the mixture.

    Args:
        names: of the players, in the order of `completions`; default: 1, 2, …
        anchor: the player whose ratings are 1000; default: the first.
        prior_sd: standard deviation of the prior, in points.
        elo_k: points that a match can move an online rating.
        resamples: of the prompts.
        seed: the resamples, and the orders of their prompts.
        allow_seen: permit prompts that may have trained the policies; a notice says so.
    """
    import polars as pl

    from tasks.judging.tournament import tournament_of

    if allow_seen:
        work.notice("allow_seen: prompts of this round robin may have trained the policies")
    players = names or [str(n) for n in range(1, len(completions or ()) + 1)]
    check_players(players, anchor)
    owner = {name: at for at, name in enumerate(players)}
    if completions:
        owner = {i: at for at, table in enumerate(completions) for i in table.frame["completion_id"]}
    questions = pl.concat(table.frame.select("prompt_id", "a_id", "b_id", "p") for table in win_probs)
    made = tournament_of(questions, players, owner)
    beats = dict(_beats(made))
    orders = _resampled(len(made.prompts), resamples, seed)
    estimates = _estimates(made, orders, players.index(anchor) if anchor else 0, prior_sd, elo_k)
    rows = [*_of_players(made, estimates), *_of_triples(made, beats), *beats.values()]
    report = Report.of(pl.DataFrame(rows, schema_overrides=dict.fromkeys(("value", "ci_low", "ci_high"), pl.Float64)))
    by_prompt = {f"beats/{a}/{b}": pl.Series(made.p[:, i, j]).fill_nan(None) for a, b, i, j in _pairs(made)}
    return report.with_per_prompt(pl.DataFrame({"prompt_id": made.prompts, **by_prompt}))


def _pairs(made: Tournament) -> Iterator[tuple[str, str, int, int]]:
    """Both players of each pair, and their places."""
    for j, b in enumerate(made.players):
        yield from ((a, b, i, j) for i, a in enumerate(made.players[:j]))


def _beats(made: Tournament) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the matrix of win rates, by the pair."""
    import numpy as np

    from tasks.judging.intervals import interval

    for a, b, i, j in _pairs(made):
        p = made.p[:, i, j]
        yield f"{a}/{b}", interval(p[~np.isnan(p)], share=True).report_row(f"beats/{a}/{b}", "probability")


def _resampled(prompts: int, resamples: int, seed: int) -> Ints:
    """`(1 + resamples, P)` places of prompts: all in their order, then as many drawn with replacement."""
    import numpy as np

    drawn = np.random.default_rng(seed).integers(0, prompts, (resamples, prompts))
    return np.vstack([np.arange(prompts), drawn])


def _estimates(
    made: Tournament, orders: Ints, anchor: int, prior_sd: float, elo_k: float
) -> dict[str, tuple[Floats, str]]:
    """Metric → `(1 + resamples, N)` values, the first row from the prompts as they are; and its unit."""
    import numpy as np

    from tasks.judging.ratings import anchored, bradley_terry_ratings, elo_ratings
    from tasks.judging.tournament import exploitabilities, nash_mixture

    size, prompts = len(made.players), len(made.prompts)
    counts = np.stack([np.bincount(order, minlength=prompts) for order in orders]).astype(np.float64)
    matrices, odd = made.matrices(counts), np.arange(prompts) % 2
    halves = zip(*(made.matrices(counts * (odd == half)) for half in (0, 1)), strict=True)
    others = np.where(np.eye(size, dtype=bool), np.nan, matrices)
    return {
        "rating": (anchored(bradley_terry_ratings(made.summed(counts)[0], prior_sd), anchor), "points"),
        "mean_win_rate": (np.nanmean(others, axis=2), "probability"),
        "elo": (anchored(elo_ratings(made.p, orders, elo_k), anchor), "points"),
        "exploitability": (np.stack([exploitabilities(*both) for both in halves]), "probability"),
        "nash": (np.stack([nash_mixture(matrix) for matrix in matrices]), "share"),
    }  # fmt: skip


def _of_players(made: Tournament, estimates: dict[str, tuple[Floats, str]]) -> Iterator[dict[str, Any]]:
    """The rows of each estimate: one for each player, with the quantiles of the resamples as its interval."""
    import numpy as np

    met = (np.isfinite(made.p).sum(axis=2) > 1).sum(axis=0)  # prompts on which a player met another
    for name, (values, unit) in estimates.items():
        for at, player in enumerate(made.players):
            low, high = np.nanquantile(values[1:, at], (0.025, 0.975))
            yield _row(f"{name}/{player}", values[0, at], int(met[at]), unit, low, high)


def _of_triples(made: Tournament, beats: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    import numpy as np

    from tasks.judging.tournament import cyclic_triples

    size = len(made.players)
    better, sure = np.zeros((2, size, size), np.bool_)
    for a, b, i, j in _pairs(made):
        value, low, high = (beats[f"{a}/{b}"][end] for end in ("value", "ci_low", "ci_high"))
        if value is not None:
            better[i, j], better[j, i] = value > 0.5, value < 0.5
        if low is not None:
            sure[i, j], sure[j, i] = low > 0.5, high < 0.5
    triples = size * (size - 1) * (size - 2) // 6
    for name, graph in (("cyclic_triples", better), ("cyclic_triples_significant", sure)):
        yield _row(name, cyclic_triples(graph), triples, "triples")


def _row(name: str, value: float, n: int, unit: str, *ends: float) -> dict[str, Any]:
    """A row of the Report; a number that is NaN becomes null."""
    known = [None if x != x else float(x) for x in (value, *(ends or (float("nan"),) * 2))]
    return {
        "name": f"eval/{name}",
        **dict(zip(("value", "ci_low", "ci_high"), known, strict=True)),
        "n": n,
        "unit": unit,
    }
