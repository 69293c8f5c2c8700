"""Runs beside each other: only what was measured alike is ranked, and only what the prompts can tell is claimed."""

import json
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from scipy import stats

from flows.commands.compare import compare_json, compare_text, mlflow_pages
from flows.reporting.comparison import (
    ComparedMethod,
    ComparedRun,
    Comparison,
    chosen_runs,
    comparison,
    run_labels,
)
from flows.reporting.differences import MetricDifference, paired_mean
from flows.reporting.figures.lines import gold_against_kl, metric_by_round
from flows.reporting.results import RunResults
from flows.reporting.seeds import SeededRun, by_method
from flows.store.finished import finished_steps
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import SpecError
from tasks.judging.crossed import CrossedMean
from tests.flows.commands.processes import alignflow, printed
from tests.flows.evaluated import IDS, evaluated

GOOD = [0.9, 0.8, 0.85, 0.8, 0.9, 0.85]
FAIR = [0.6, 0.52, 0.54, 0.51, 0.62, 0.55]
NEAR = [0.62, 0.5, 0.55, 0.5, 0.62, 0.54]


def _text(store: Store, *refs: str, rounds: bool = False, ranked: bool = True) -> str:
    out = store.root / "drawn"
    return printed(lambda console: compare_text(store, refs, console, rounds=rounds, ranked=ranked, out=out))


def _json(store: Store, *refs: str, ranked: bool = True) -> Any:
    return json.loads(json.dumps(compare_json(store, refs, ranked=ranked, out=None)))


def _refusal(store: Store, *refs: str) -> str:
    with pytest.raises(SpecError) as caught:
        _json(store, *refs)
    return str(caught.value)


def _table(values: list[float | None], pairs: list[int] | None = None) -> pl.DataFrame:
    table = pl.DataFrame({"prompt_id": IDS[: len(values)], "win_rate": values})
    return table if pairs is None else table.with_columns(pairs=pl.Series(pairs))


def _paired(a: pl.DataFrame, b: pl.DataFrame) -> CrossedMean:
    return cast("CrossedMean", paired_mean([a], [b], "win_rate"))


def test_a_paired_difference_is_that_of_the_paired_t_interval() -> None:
    """By hand: differences 0.1 and 0.3 have the mean 0.2 and the standard error 0.1; t(0.975, 1) = 12.7062."""
    found = _paired(_table([0.6, 0.9]), _table([0.5, 0.6]))
    assert found[:4] == (pytest.approx(0.2), pytest.approx(0.1), 2, pytest.approx(1))
    assert found.ends() == (pytest.approx(0.2 - 1.27062, abs=1e-5), pytest.approx(0.2 + 1.27062, abs=1e-5))
    for several in (1, 3):
        interval = stats.ttest_rel(GOOD, FAIR).confidence_interval(1 - 0.05 / several)
        ends = _paired(_table([*GOOD]), _table([*FAIR])).ends(several)
        assert ends == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_a_paired_difference_knows_prompts_by_id_and_leaves_out_those_without_an_answer() -> None:
    ours, theirs = _table([0.6, None, 0.9]), _table([0.5, 0.4, 0.6])
    assert _paired(ours, theirs[::-1]) == pytest.approx(_paired(ours, theirs))
    assert _paired(ours, theirs).n == 2
    assert paired_mean([ours[:1]], [theirs[:1]], "win_rate") is None


def test_prompts_with_more_pairs_weigh_more() -> None:
    """(3 · 0.1 + 1 · 0.3) / 4 = 0.15; a prompt weighs what it does where it has fewer pairs."""
    assert _paired(_table([0.6, 0.9], [3, 1]), _table([0.5, 0.6], [3, 1])).value == pytest.approx(0.15)
    fewer, more = _table([0.6, 0.9], [3, 2]), _table([0.5, 0.6], [4, 1])
    assert _paired(fewer, more).value == pytest.approx(0.15)
    there, back = _paired(fewer, more), _paired(more, fewer)
    assert back == pytest.approx(there._replace(value=-there.value))


def test_prompts_without_pairs_on_a_side_do_not_count() -> None:
    ours, theirs = _table([0.6, 0.9, 0.7], [3, 1, 0]), _table([0.5, 0.6, 0.1], [3, 1, 2])
    assert _paired(ours, theirs).n == 2
    assert paired_mean([ours], [_table([0.5, 0.6, 0.1], [0, 0, 2])], "win_rate") is None


def test_intervals_of_several_pairs_are_wider_so_that_all_of_them_hold(store: Store) -> None:
    for name, rates in (("near", NEAR), ("good", GOOD), ("fair", FAIR)):
        evaluated(store, name, [rates])
    interval = stats.ttest_rel(GOOD, FAIR).confidence_interval
    for refs, level in ((("good", "fair"), 0.95), (("good", "fair", "near"), 1 - 0.05 / 3)):
        first = _json(store, *refs)["differences"][0]
        assert (first["a"], first["b"]) == ("good", "fair")
        assert (first["low"], first["high"]) == (
            pytest.approx(interval(level).low),
            pytest.approx(interval(level).high),
        )
    assert "95% CI, all 3 together (Bonferroni)" in _text(store, "good", "fair", "near")
    assert "prompt by prompt (95% CI):" in _text(store, "good", "fair")


def _methods(*values: float) -> tuple[ComparedMethod, ...]:
    """Methods A, B, …, of one run each, with these values."""
    runs = (ComparedRun(cast("Run", None), name, (), RunResults(None, (), ()), ()) for name in "ABCD")
    return tuple(_Valued(run.label, (run,), value) for run, value in zip(runs, values, strict=False))


@dataclass(frozen=True)
class _Valued(ComparedMethod):
    given: float = 0.0

    @property
    def value(self) -> float:
        return self.given


def test_a_rank_counts_the_methods_that_beat_it() -> None:
    """Only A > C is significant."""
    methods = _methods(3, 2, 1)
    differences = (
        MetricDifference("A", "B", 0.1, -0.1, 0.3, 6), MetricDifference("A", "C", 0.3, 0.1, 0.5, 6),
        MetricDifference("B", "C", 0.2, -0.1, 0.5, 6),
    )  # fmt: skip
    found = Comparison(methods, differences, {})
    assert [found.rank(m) for m in methods] == [1, 1, 2]


def test_the_rows_are_in_the_order_of_their_ranks() -> None:
    """By value A, B, C, D. A beats all others, B beats C alone: ranks 1, 2, 3, 2, so D stands before C."""
    beaten = {("A", "B"), ("A", "C"), ("A", "D"), ("B", "C")}
    differences = tuple(
        MetricDifference(a, b, 0.1, 0.05 if (a, b) in beaten else -0.1, 0.3, 6) for a, b in combinations("ABCD", 2)
    )
    found = Comparison(_methods(4, 3, 2, 1), differences, {}).ranked()
    assert [(m.label, found.rank(m)) for m in found.methods] == [("A", 1), ("B", 2), ("D", 2), ("C", 3)]


def test_a_pipelines_name_means_its_last_finished_run_and_a_run_named_twice_counts_once(store: Store) -> None:
    first = evaluated(store, "sppo", [FAIR])
    evaluated(store, "sppo", [FAIR], status="failed")
    other = evaluated(store, "xpo", [GOOD])
    runs = Runs(store)
    assert [r.id for r in chosen_runs(runs, ["sppo", "last", first.id, other.id[:-2]])] == [first.id, other.id]
    evaluated(store, "apo", [FAIR], status="stopped")
    with pytest.raises(SpecError, match="no run of 'apo' has finished"):
        chosen_runs(runs, ["apo"])
    with pytest.raises(SpecError, match="no run of 'spo'; pipelines and deployments that have run: apo, sppo, xpo"):
        chosen_runs(runs, ["spo"])


def _tick(store: Store, rates: list[float], number: int, *, carried: bool = False) -> Run:
    """A finished run of `sppo/nightly`, later by its number; `carried`: all its steps are values that ticks left."""
    tick = evaluated(store, "sppo", [rates])
    store.inside("runs", f"{tick.id}.json").unlink()
    tick.id, tick.deployment = f"20990101-00000{number}-sppo-aaaa", "nightly"
    if carried:
        tick.steps = {id: replace(step, task="carried") for id, step in tick.steps.items()}
    Runs(store).save(tick)
    return tick


def test_a_pipelines_name_is_no_tick_and_a_deployments_is_its_newest_tick(store: Store) -> None:
    plain = evaluated(store, "sppo", [FAIR])
    _tick(store, FAIR, 1)
    tick, behind = _tick(store, GOOD, 2), _tick(store, GOOD, 3, carried=True)
    runs = Runs(store)
    assert runs.ids()[-1] == behind.id
    for refs, chosen in ((["sppo"], plain), (["sppo/nightly"], tick), (["last"], tick)):
        assert [r.id for r in chosen_runs(runs, refs)] == [chosen.id]
    with pytest.raises(SpecError, match=r"no run of 'sppo/weekly'; .* that have run: sppo, sppo/nightly"):
        chosen_runs(runs, ["sppo/weekly"])
    assert [r["label"] for r in _json(store, "sppo", "sppo/nightly")["runs"]] == ["sppo/nightly", "sppo"]


def test_what_an_earlier_tick_left_costs_a_tick_nothing(store: Store) -> None:
    tick = _tick(store, FAIR, 1)
    step = tick.steps["report/sample@1"]
    tick.steps["old"] = replace(step, id="old", addresses=("old",), task="carried", key=tick.steps["base"].key)
    tick.steps["report/sample@1"] = replace(step, task="carried")
    Runs(store).save(tick)
    [found] = _json(store, tick.id)["runs"]
    assert found["rounds"][0]["costs"] == {"cost/oracle_queries": 7.0, "cost/seconds": 3.0}
    assert found["steps"] == 4
    assert "each tick's are its own" in _text(store, tick.id)


def test_the_best_run_comes_first_and_ranks_count_those_that_are_better(store: Store) -> None:
    for name, rates in (("near", NEAR), ("good", GOOD), ("fair", FAIR)):
        evaluated(store, name, [rates])
    found = _json(store, "near", "good", "fair")
    assert [(r["label"], r["rank"]) for r in found["runs"]] == [("good", 1), ("fair", 2), ("near", 2)]
    assert {(d["a"], d["b"]): d["winner"] for d in found["differences"]} == {
        ("good", "fair"): "good", ("good", "near"): "good", ("fair", "near"): None
    }  # fmt: skip
    text = _text(store, "near", "good", "fair")
    assert "fair − near  +0.002 (" in text
    assert "no significant difference" in text
    assert "good is better" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": IDS[:4]}, "prompts: 6 prompts"), ({"oracle": "toy_judge"}, "oracle: toy_gold"),
        ({"k": 8}, "answers per prompt: 4 (a round 1); 8 (b round 1)"), ({"base": "another"}, "baseline: Policy"),
    ],
)  # fmt: skip
def test_runs_that_were_measured_differently_are_not_ranked(
    store: Store, changed: dict[str, Any], message: str
) -> None:
    evaluated(store, "a", [FAIR])
    evaluated(store, "b", [GOOD[: len(changed.get("ids", IDS))]], **changed)
    refusal = _refusal(store, "a", "b")
    assert message in refusal
    assert "--unranked" in refusal
    found = _json(store, "a", "b", ranked=False)
    assert [(r["label"], r["rank"]) for r in found["runs"]] == [("a", None), ("b", None)]
    assert found["differences"] == []
    assert f"measured with different {message.split(' (')[0]}" in _text(store, "a", "b", ranked=False)
    assert not (store.root / "drawn").exists()


def test_the_evaluations_of_all_rounds_must_be_alike_not_only_the_last(store: Store) -> None:
    run = evaluated(store, "a", [FAIR, FAIR])
    other = evaluated(store, "b", [GOOD], oracle="toy_judge")
    run.steps["report@1"] = other.steps["report@1"]
    Runs(store).save(run)
    assert "oracle: toy_judge" in _refusal(store, "a")


def test_a_run_without_a_report_is_named(store: Store) -> None:
    run = evaluated(store, "a", [])
    assert run.id in _refusal(store, "a")


def test_runs_of_one_pipeline_are_called_by_the_parameters_that_differ(store: Store) -> None:
    loss = {"choice": "losses/pairwise/dpo", "params": {"beta": 0.1}}
    several = [
        evaluated(store, "sppo", [FAIR], parameters={"eta": 10.0, "k": 5}),
        evaluated(store, "sppo", [FAIR], parameters={"eta": 5.0, "k": 5}),
        evaluated(store, "dpo", [FAIR], parameters={"loss": loss}),  # type: ignore[dict-item]
        evaluated(store, "dpo", [FAIR], parameters={"loss": "ipo"}),
    ]
    assert run_labels(several) == ["sppo eta=10.0", "sppo eta=5.0", "dpo loss=dpo(beta=0.1)", "dpo loss=ipo"]
    again = evaluated(store, "sppo", [FAIR], parameters={"eta": 5.0, "k": 5})
    first, second = run_labels([several[1], again])
    assert first != second
    assert all(run.id[-4:] in name for run, name in ((several[1], first), (again, second)))


def _seeds(store: Store, name: str, *rates: list[float], **parameters: Any) -> list[Run]:
    """A run for each list of win rates, with seeds 0, 1, …; the first run has no parameter `seed`."""
    own = [{**parameters, **({"seed": seed} if seed else {})} for seed in range(len(rates))]
    return [evaluated(store, name, [r], parameters=p) for r, p in zip(rates, own, strict=True)]


def test_runs_that_differ_in_their_seed_alone_are_one_method_with_one_rank(store: Store) -> None:
    several = [r.id for r in (*_seeds(store, "sppo", GOOD, FAIR, eta=10.0), *_seeds(store, "sppo", NEAR, eta=5.0))]
    found = _json(store, *several)
    assert [(m["label"], m["seeds"], len(m["runs"])) for m in found["methods"]] == [
        ("sppo eta=10.0", [0, 1], 2), ("sppo eta=5.0 seed=0", [0], 1)
    ]  # fmt: skip
    assert [(r["label"], r["method"]) for r in found["runs"]] == [
        ("sppo eta=10.0 seed=0", "sppo eta=10.0"), ("sppo eta=10.0 seed=1", "sppo eta=10.0"),
        ("sppo eta=5.0 seed=0", "sppo eta=5.0 seed=0"),
    ]  # fmt: skip
    [difference] = found["differences"]
    assert difference["seeds"] == [2, 1]
    text = _text(store, *several)
    assert (
        "contain the variation between the seeds of sppo eta=10.0 (2 seeds), but not of sppo eta=5.0 seed=0: "
        "that is one training." in " ".join(text.split())
    )


def test_equal_seeds_other_parameters_and_other_code_are_no_further_seeds_of_a_method(store: Store) -> None:
    first, second = _seeds(store, "sppo", GOOD, FAIR)
    twice = evaluated(store, "sppo", [FAIR], parameters={"seed": 1})
    assert len(_json(store, first.id, second.id, twice.id)["methods"]) == 2
    other = evaluated(store, "sppo", [FAIR], parameters={"seed": 2}, k=4)
    step = other.steps["report@1"]
    record = store.record(step.key)
    assert record is not None
    edited = replace(record, parts={**record.parts, "code": [["fit", "ffff"]]})
    recipes = [SeededRun(run, finished_steps(store, run)) for run in (first, other)]
    assert by_method(recipes) == [[0, 1]]
    steps = [replace(s, record=edited) if s.record.key == step.key else s for s in recipes[1].steps]
    assert by_method([recipes[0], recipes[1]._replace(steps=steps)]) == [[0], [1]]


def test_seeds_are_summed_up_as_mean_range_and_standard_error_beside_the_intervals(store: Store) -> None:
    """Two seeds of means m and m′: standard error |m − m′|/√2/√2. By prompt (.9 + .6)/2 = .75, (.8 + .52)/2 = .66, …"""
    runs = _seeds(store, "sppo", GOOD, FAIR)
    [method] = _json(store, *(r.id for r in runs))["methods"]
    over = method["over_seeds"]["eval/win_rate"]
    means = (sum(GOOD) / 6, sum(FAIR) / 6)
    assert over["range"] == pytest.approx([means[1], means[0]])
    assert over["mean"] == pytest.approx(sum(means) / 2)
    assert over["seed_error"] == pytest.approx((means[0] - means[1]) / 2)
    by_prompt = [(a + b) / 2 for a, b in zip(GOOD, FAIR, strict=True)]
    interval = stats.ttest_1samp(by_prompt, 0).confidence_interval()
    assert over["over_prompts"] == pytest.approx([interval.low, interval.high])
    low, high = over["over_prompts_and_seeds"]
    assert low < interval.low < interval.high < high
    text = _text(store, *(r.id for r in runs))
    assert "over seeds" in text
    assert "0.557–0.850" in text
    assert method["over_seeds"]["eval/gold"]["over_prompts"] is None


def test_a_difference_of_methods_with_seeds_is_wider_than_over_their_prompts_alone(store: Store) -> None:
    runs = [*_seeds(store, "good", GOOD, FAIR), *_seeds(store, "near", NEAR, FAIR)]
    [seeds] = _json(store, *(r.id for r in runs))["differences"]
    assert (seeds["a"], seeds["b"], seeds["seeds"]) == ("good", "near", [2, 2])
    mean = [(a + b - c - d) / 2 for a, b, c, d in zip(GOOD, FAIR, NEAR, FAIR, strict=True)]
    assert seeds["value"] == pytest.approx(sum(mean) / 6)
    interval = stats.ttest_1samp(mean, 0).confidence_interval()
    assert seeds["low"] < interval.low
    assert seeds["winner"] is None
    assert "The intervals contain the variation between the seeds of good (2 seeds), near (2 seeds)." in " ".join(
        _text(store, *(r.id for r in runs)).split()
    )


def test_costs_add_up_over_the_rounds_and_each_round_has_its_row(store: Store) -> None:
    evaluated(store, "a", [FAIR, GOOD])
    spent = [r["costs"] for r in _json(store, "a")["runs"][0]["rounds"]]
    assert spent == [
        {"cost/samples": 10.0, "cost/oracle_queries": 7.0, "cost/seconds": 4.0},
        {"cost/samples": 20.0, "cost/oracle_queries": 14.0, "cost/seconds": 8.0},
    ]
    every, last = _text(store, "a", rounds=True).splitlines(), _text(store, "a").splitlines()
    assert [line.split()[:2] for line in every[4:6]] == [["a", "1"], ["a", "2"]]
    assert [line.split()[:2] for line in last[4:5]] == [["a", "2"]]


def test_what_several_runs_share_counts_once_in_the_costs_of_all(store: Store) -> None:
    run, other = (evaluated(store, name, [FAIR]) for name in ("a", "b"))
    apart = _json(store, "a", "b")
    assert apart["together"] == {"cost/samples": 20.0, "cost/oracle_queries": 14.0, "cost/seconds": 8.0}
    other.steps["report/sample@1"] = run.steps["report/sample@1"]
    Runs(store).save(other)
    assert _json(store, "a", "b")["together"] == {
        "cost/samples": 10.0, "cost/oracle_queries": 14.0, "cost/seconds": 7.0,
    }  # fmt: skip
    lines = _text(store, "a", "b").splitlines()
    assert next(line.split() for line in lines if " together " in line) == ["together", "10", "14", "7"]
    assert not any(" together " in line for line in _text(store, "a").splitlines())


def test_the_figures_hold_a_line_for_each_run_with_its_intervals(store: Store) -> None:
    evaluated(store, "a", [FAIR, GOOD])
    evaluated(store, "b", [NEAR])
    found = comparison(store, chosen_runs(Runs(store), ["a", "b"]))
    runs = {e.label: e.results for e in found.entries}
    rates = metric_by_round(runs, "eval/win_rate")
    assert rates is not None
    drawn = [[round(float(y), 4) for y in line.get_ydata()] for line in rates.axes[0].lines]  # type: ignore[union-attr]
    assert [0.5567, 0.85] in drawn
    assert [0.82, 0.88] in drawn
    assert [0.555] in drawn
    gold = gold_against_kl(runs)
    assert gold is not None
    roots = [[round(float(x), 4) for x in line.get_xdata()] for line in gold.axes[0].lines]  # type: ignore[union-attr]
    assert [0.7071, 1.0] in roots
    files = compare_json(store, ["a", "b"], ranked=True, out=store.root / "f")["figures"]  # type: ignore[call-overload,index]
    assert [Path(f).name for f in files] == ["win_rate_per_round.png", "gold_vs_kl.png"]  # type: ignore[arg-type,union-attr]
    assert all(Path(f).stat().st_size > 10_000 for f in files)  # type: ignore[arg-type,union-attr]


def test_the_page_of_mlflow_that_compares_is_named_where_it_knows_the_runs(store: Store) -> None:
    several = [evaluated(store, name, [FAIR]) for name in ("a", "b")]
    assert mlflow_pages(several, "http://here") == {}
    for run, id in zip(several, ("x1", "x2"), strict=True):
        run.links["mlflow"] = f"7/{id}"
    assert mlflow_pages(several, "http://here") == {
        "in MLflow": "http://here/#/compare-runs?runs=[%22x1%22,%22x2%22]&experiments=[%227%22]&workflowType=machine_learning",
        "charts": "http://here/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=alignflow&compareRunsMode=CHART",
    }


def test_the_command_refuses_runs_that_are_not_comparable_with_exit_code_2(store: Store) -> None:
    evaluated(store, "a", [FAIR])
    evaluated(store, "b", [GOOD], oracle="toy_judge")
    where = ("--artifacts", str(store.root))
    assert "oracle: toy_gold" in alignflow("compare", "a", "b", *where, code=2).stderr
    assert "win_rate_per_round.png" in alignflow("compare", "a", *where).stdout
