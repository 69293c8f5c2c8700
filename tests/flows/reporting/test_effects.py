"""Figures of over-optimisation and of games: what is fitted, when they are drawn, and what they show."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from flows.reporting.figures.exploitability_figure import exploitability_figures, first_is_base
from flows.reporting.figures.overoptimisation import Law, law_of, overoptimised
from flows.reporting.figures.run_figures import draw_figures
from flows.reporting.figures.style import axis_in_nats, new_figure
from flows.reporting.figures.training import curves_of
from flows.reporting.results import Estimate, ResultRow, RunResults
from flows.reporting.sinks.publication import Publication
from flows.store.finished import FinishedStep, finished_steps
from flows.store.records import Record
from flows.store.runs import RunStep
from flows.store.store import Store
from tasks.kinds import Report
from tests.flows.evaluated import of_task
from tests.flows.fabricated import Fabricated, Maker, fabricate

KL = (0.2, 1.2, 2.9, 6.4, 17.0, 61.0)
LAW = Law(0.5, 0.7, 1.0)


def estimate(value: float, half: float | None = 0.1, unit: str = "score") -> Estimate:
    return Estimate(value, None if half is None else value - half, None if half is None else value + half, 128, unit)


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def along(kl: tuple[float, ...], gold: list[float], proxy: list[float]) -> RunResults:
    """Checkpoints of one training. The base has gold 0.6 and proxy −1."""
    rows = []
    for n, (k, g, p) in enumerate(zip(kl, gold, proxy, strict=True), 1):
        values = {"gold": 0.6 + g, "baseline_gold": 0.6, "proxy": p - 1, "baseline_proxy": -1}
        metrics = {"eval/kl": estimate(k, unit="nats")} | {f"eval/{m}": estimate(v) for m, v in values.items()}
        rows.append(ResultRow(f"round {n}", n, of_task("measure", metrics)))
    return RunResults(None, tuple(rows), ())


def trained() -> RunResults:
    d = np.sqrt(KL)
    return along(KL, LAW.at(d).tolist(), (0.5 * d).tolist())


def test_the_law_of_points_that_obey_it_is_found_and_its_peak_is_the_highest() -> None:
    d = np.sqrt(KL)
    found = law_of(d.tolist(), LAW.at(d).tolist())
    assert found == pytest.approx(LAW)
    near = np.linspace(0.01, 3, 3000)
    assert found.peak == pytest.approx(math.exp(0.5 / 0.7 - 1)) == pytest.approx(near[LAW.at(near).argmax()], abs=2e-3)
    assert law_of([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]).peak == math.inf


def test_the_best_of_n_has_a_law_of_its_own() -> None:
    d = np.sqrt(KL)
    law = Law(0.9, 0.2, 1.0, best_of_n=True)
    assert law_of(d.tolist(), law.at(d).tolist(), best_of_n=True) == pytest.approx(law)
    assert law.at(np.array([2.0])) == pytest.approx([2 * (0.9 - 0.2 * 2)])
    assert law.peak == pytest.approx(0.9 / 0.4)
    results = along(KL, law.at(d).tolist(), (0.5 * d).tolist())
    rows = tuple(
        replace(row, metrics=row.metrics | of_task("best_of", {"eval/kl": row.metrics["eval/kl"]}))
        for row in results.rows
    )
    figure = drawn(overoptimised(replace(results, rows=rows), "best-of-n"))
    assert "proxy, which chose" in [line.get_label() for line in figure.axes[0].get_lines()]
    assert figure.axes[0].get_xlabel() == "distance from the base, √KL(best of n ‖ base), KL in nats, at most"
    assert any("R = d(α − β d), α = 0.90, β = 0.20" in text.get_text() for text in figure.texts)


def test_gains_are_over_the_base_on_the_root_of_kl() -> None:
    figure = drawn(overoptimised(trained(), "rm-ppo"))
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    x, y = lines["gold"].get_data()
    np.testing.assert_allclose(x, [0, *np.sqrt(KL)])
    np.testing.assert_allclose(y, [0, *LAW.at(np.sqrt(KL))])
    np.testing.assert_allclose(lines["proxy, which trained"].get_ydata(), [0, *0.5 * np.sqrt(KL)])
    texts = [t.get_text() for t in (*figure.axes[0].texts, *figure.texts)]
    assert texts[0] == f"best at KL {LAW.peak**2:.1f}"
    assert "α = 0.50, β = 0.70, R² = 1.00" in texts[1]


@pytest.mark.parametrize("gold", [[0.0, 1, -1, 1, -1, 0], [0.3] * 6])
def test_a_law_that_does_not_hold_is_not_drawn(gold: list[float]) -> None:
    figure = drawn(overoptimised(along(KL, gold, gold), ""))
    assert "α" not in figure.texts[0].get_text()


def test_two_points_or_no_proxy_make_no_picture() -> None:
    found = trained()
    assert overoptimised(RunResults(None, found.rows[:2], ()), "") is None
    plain = [ResultRow(r.label, r.round, {m: e for m, e in r.metrics.items() if "proxy" not in m}) for r in found.rows]
    assert overoptimised(RunResults(None, tuple(plain), ()), "") is None
    assert "α" not in drawn(overoptimised(RunResults(None, found.rows[:3], ()), "")).texts[0].get_text()


def played() -> RunResults:
    """Three policies, each beats the one before, and the first beats the last."""
    metrics = {f"eval/exploitability/{t}": estimate(g, 0.05) for t, g in ((1, 0.8), (2, 0.5), (3, 0.7))}
    metrics |= {f"eval/exploitability_mixture/{t}": estimate(g, 0.04) for t, g in ((1, 0.8), (2, 0.4), (3, math.nan))}
    metrics |= {f"eval/beats/{n}": estimate(p) for n, p in (("2/1", 0.7), ("3/1", 0.4), ("3/2", 0.65))}
    metrics |= {"eval/exploitability_last": estimate(0.7), "eval/exploitability_mixture": estimate(math.nan, None)}
    return RunResults(None, (), (ResultRow("game", None, of_task("exploitability", metrics)),))


def test_a_game_has_its_curves_and_its_matrix() -> None:
    figure = drawn(exploitability_figures(played(), "sppo-cycle"))
    alone, mixture, *_ = figure.axes[0].get_lines()
    assert (list(alone.get_xdata()), list(alone.get_ydata())) == ([1, 2, 3], [0.8, 0.5, 0.7])
    assert (list(mixture.get_xdata()), list(mixture.get_ydata())) == ([1, 2], [0.8, 0.4])
    p = figure.axes[1].get_images()[0].get_array()
    np.testing.assert_allclose(p, [[0.5, 0.3, 0.6], [0.7, 0.5, 0.35], [0.4, 0.65, 0.5]])
    assert exploitability_figures(trained(), "") is None


def _game(folder: Path, made: Fabricated, *names: str, inputs: Mapping[str, str] | None = None) -> Record:
    """A report on a game with these metrics: 0.1, 0.2, …"""
    maker = Maker(folder)
    maker.nodes, maker.records = made.graph.nodes, made.records  # type: ignore[assignment]
    rows = [{"name": n, "value": 0.1 * i, "n": 2, "unit": "probability"} for i, n in enumerate(names, 1)]
    return maker.step("game", "exploitability", Report.of(pa.Table.from_pylist(rows)), inputs or {})


def _ticks(figure: Figure) -> list[list[str]]:
    """What stands at policies 1 to 3 on the x axes."""
    curves, matrix = figure.axes
    formatter = curves.xaxis.get_major_formatter()
    return [[formatter(at) for at in (1, 2, 3)], [t.get_text() for t in matrix.get_xticklabels()]]


@pytest.mark.parametrize(("first", "base"), [("report/baseline_sample@2", True), ("report/sample@2", False)])
def test_the_first_policy_is_called_the_base_where_the_records_say_so(tmp_path: Path, first: str, base: bool) -> None:
    made = fabricate(tmp_path)
    game = _game(tmp_path, made, "eval/exploitability_mixture", inputs={"completions": first})
    steps = finished_steps(made.store, made.run)
    assert not first_is_base(made.store, steps)
    assert first_is_base(made.store, [*steps, FinishedStep(("game",), None, game, False)]) is base
    assert (
        _ticks(drawn(exploitability_figures(played(), "", base_first=base)))
        == [["base" if base else "1", "2", "3"]] * 2
    )


def test_a_run_draws_what_it_has_and_a_figure_with_the_same_data_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.reporting.figures import saving as figures

    made: list[str] = []
    original = figures._draw
    monkeypatch.setattr(figures, "_draw", lambda what, files: (made.append(files[0].stem), original(what, files)))
    store = Store(tmp_path / "artifacts")
    first = draw_figures(store, trained(), [], tmp_path / "1", "a")
    assert {"gold_vs_proxy", "gold_vs_kl"} == {f.stem for f in first}
    tried = len(made)
    assert {"gold_vs_proxy", "gold_vs_kl", "exploitability", "reliability", "probe"} <= set(made)
    again = draw_figures(store, trained(), [], tmp_path / "2", "a")
    assert [f.read_bytes() for f in again] == [f.read_bytes() for f in first]
    assert len(made) == tried
    assert [f.stem for f in draw_figures(store, played(), [], tmp_path / "3", "a")] == ["exploitability"]
    assert len(made) == 2 * tried
    assert not (tmp_path / "3" / "gold_vs_kl.png").exists()
    draw_figures(store, trained(), [], tmp_path / "4", "another title")
    assert len(made) == 3 * tried


def test_curves_are_in_the_order_of_the_record_so_that_another_process_finds_the_same_figure() -> None:
    names = [f"train/{letter}" for letter in "hgfedcba"]
    record = SimpleNamespace(curves=[{"step": step, **dict.fromkeys(names, 0.5)} for step in (1, 2)])
    step = SimpleNamespace(name="policy", title="round 1 · policy", trained=True, record=record)
    [curves] = curves_of([step])["policy"].values()  # type: ignore[list-item]
    assert list(curves) == names
    assert curves["train/a"] == [(1, 0.5), (2, 0.5)]


def test_the_axis_of_kl_has_its_ticks_at_even_nats() -> None:
    _, axes = new_figure(4, 3)
    axis_in_nats(axes, 1.7)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.125", "0.5", "1", "1.5"]
    assert [float(at) ** 2 for at in axes.get_xticks()] == pytest.approx([0, 0.125, 0.5, 1, 1.5])


WRITES = ("model", "inputs", "tags", "text", "files", "end", "register")


def _nothing(*_: object, **__: object) -> None:
    """A write to a server that keeps nothing."""


def test_a_game_behind_the_rounds_is_among_the_metrics_of_the_run(tmp_path: Path) -> None:
    made = fabricate(tmp_path)
    names = ("eval/exploitability_last", "eval/exploitability_mixture", "eval/exploitability/1")
    game = _game(tmp_path, made, *names)
    made.run.steps["game"] = RunStep("game", ("game",), "exploitability", "game", state="made", key=game.key)
    rows: list[tuple[str, float, int]] = []
    server = SimpleNamespace(metrics=lambda run, of_run, *_: rows.extend(of_run), **dict.fromkeys(WRITES, _nothing))
    Publication(made.store, server, made.run).end(finished_steps(made.store, made.run))  # type: ignore[arg-type]
    games = [row for row in rows if "exploitability" in row[0]]
    assert games == [("eval/exploitability_last", 0.1, 2), ("eval/exploitability_mixture", 0.2, 2)]
