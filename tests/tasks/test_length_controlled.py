"""Length-controlled win rates: AlpacaEval's numbers, identities, intervals, and files of annotations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contract import Chosen, DataError
from tasks.judging.length_control import LengthRows, control_length, in_deviations, mean_over_prompts
from tasks.kinds import Report
from tasks.length_controlled import alpaca_eval, length_controlled
from tests.answers import completions, named, win_probs
from tests.workspace import Workspace

N = 60
PINNED = (0.5682573810654887, -0.8326596838870963, 166.810053720, 0.567979635413496, -0.8931065270748599, 166.810053720)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _rows(n: int = N) -> LengthRows:
    """A judge with a taste for length, on prompts of different difficulty; no random numbers."""
    i = np.arange(n)
    lengths, difficulty = in_deviations(np.round(300 * np.sin(7.0 * i) - 40)), np.cos(3.0 * i)
    p = _sigmoid(0.3 - 0.9 * np.tanh(lengths) + 0.5 * difficulty + 0.8 * np.sin(11.0 * i))
    return LengthRows([f"p{j}" for j in i], p, lengths, difficulty)


def _gamed(n: int = N) -> list[LengthRows]:
    i = np.arange(n)
    return [
        LengthRows([f"p{j}" for j in i], _sigmoid(-1.2 * np.tanh(z)), z, np.cos(3.0 * i))
        for z in (np.sin(5.0 * i) - shift for shift in (1.0, -1.0))
    ]


def test_the_numbers_are_those_of_alpaca_evals_procedure() -> None:
    # By `fit_LogisticRegressionCV` of alpaca_eval's glm_winrate.py (metadata routing, GroupKFold(5), seed 123) with
    # scikit-learn 1.9.1, on the same rows; 100 times these are the percentages that it reports.
    alone, anchored = control_length(_rows()), control_length(_rows(), _gamed())
    assert alone.at_equal_length.mean() == pytest.approx(PINNED[0], abs=1e-7)
    assert (alone.length, alone.penalty) == (pytest.approx(PINNED[1], abs=1e-6), pytest.approx(PINNED[2]))
    assert anchored.at_equal_length.mean() == pytest.approx(PINNED[3], abs=1e-7)
    assert (anchored.length, anchored.penalty) == (pytest.approx(PINNED[4], abs=1e-6), pytest.approx(PINNED[5]))


def test_a_model_against_itself_has_exactly_one_half() -> None:
    same = LengthRows([f"p{i}" for i in range(20)], np.full(20, 0.5), in_deviations(np.zeros(20)))
    control = control_length(same)
    assert control.at_equal_length.tolist() == [0.5] * 20
    assert control.values.tolist() == [0.5] * 20
    assert in_deviations(np.zeros(20)).tolist() == [0.0] * 20  # 0/0 of equal lengths


def test_swapped_roles_give_the_complement() -> None:
    one = _rows()
    assert one.difficulty is not None
    other = LengthRows(one.prompts, 1 - one.p, -one.lengths, -one.difficulty)
    rates = [control_length(rows).at_equal_length.mean() for rows in (one, other)]
    assert sum(rates) == pytest.approx(1.0, abs=1e-6)
    assert rates[0] > 0.55


def test_padding_the_answers_moves_it_far_less_than_the_raw_win_rate() -> None:
    # The judge's log-odds rise by 0.9·tanh of the answer's lead in units of 300 characters; every second answer gets
    # 300 characters more.
    i = np.arange(200)
    lead, quality = 300 * np.sin(7.0 * i), 0.2 + 0.8 * np.sin(11.0 * i)

    def rates(padding: Any) -> tuple[float, float]:
        p = _sigmoid(quality + 0.9 * np.tanh((lead + padding) / 300))
        rows = LengthRows([f"p{j}" for j in i], p, in_deviations(-(lead + padding)))
        return mean_over_prompts(rows), float(control_length(rows).at_equal_length.mean())

    (raw, controlled), (padded, padded_controlled) = rates(0.0), rates(np.where(i % 2, 300.0, 0.0))
    assert padded - raw > 0.05
    assert abs(padded_controlled - controlled) < (padded - raw) / 4


def test_without_length_and_difficulty_a_prompts_value_is_its_own_p_around_the_mean() -> None:
    p = np.array([0.9, 0.7, 0.8, 0.6, 0.5] * 4)
    control = control_length(LengthRows([f"p{i}" for i in range(20)], p, np.zeros(20)))
    assert control.at_equal_length.mean() == pytest.approx(0.7, abs=5e-3)  # 20 prompts: the penalty
    assert control.values - control.values.mean() == pytest.approx(p - 0.7)


def test_the_spread_of_the_values_is_that_of_leaving_out_one_prompt() -> None:
    rows = _rows(200)
    assert rows.difficulty is not None
    x = np.stack([np.tanh(rows.lengths), rows.difficulty, np.ones(200)], axis=1)
    equal = x * [0.0, 1.0, 1.0]

    def rate(weights: Any) -> float:
        theta = np.zeros(3)
        for _ in range(8):  # Newton, without a penalty
            q = _sigmoid(x @ theta)
            theta += np.linalg.solve((x * (weights * q * (1 - q))[:, None]).T @ x, x.T @ (weights * (rows.p - q)))
        return float(np.average(_sigmoid(equal @ theta), weights=weights))

    without = np.array([rate(np.where(np.arange(200) == i, 0.0, 1.0)) for i in range(200)])
    jackknife = (199 / 200 * ((without - without.mean()) ** 2).sum()) ** 0.5
    control = control_length(rows)
    assert control.values.std(ddof=1) / 200**0.5 == pytest.approx(jackknife, rel=0.03)
    assert control.values.mean() == pytest.approx(control.at_equal_length.mean())


def test_all_pairs_of_a_prompt_count_as_one() -> None:
    rows = _rows(30)
    assert rows.difficulty is not None
    twice = np.arange(30).repeat(np.where(np.arange(30) < 10, 3, 1))  # ten prompts have their pair three times
    repeated = LengthRows(
        [rows.prompts[i] for i in twice], rows.p[twice], rows.lengths[twice], rows.difficulty[twice]
    )  # fmt: skip
    one, other = control_length(rows), control_length(repeated)
    assert other.at_equal_length == pytest.approx(one.at_equal_length, abs=1e-4)
    assert other.values == pytest.approx(one.values, abs=1e-3)


def test_a_model_that_always_wins_has_one_and_few_prompts_are_refused() -> None:
    always = LengthRows([f"p{i}" for i in range(8)], np.ones(8), in_deviations(np.arange(8.0)))
    assert control_length(always).at_equal_length.tolist() == [1.0] * 8
    with pytest.raises(DataError, match="4 prompts have an answer from the oracle, and the length control needs 5"):
        control_length(LengthRows(["a", "b", "c", "d"], np.ones(4), np.zeros(4)))


def _texts() -> tuple[list[str], list[str], list[float]]:
    """The baseline's answers, the model's, and P."""
    i = np.arange(12)
    baseline, answers = ["b" * (20 + 3 * (j % 4)) for j in i], ["a" * (24 + 5 * (j % 3)) for j in i]
    return baseline, answers, [round(float(p), 3) for p in _sigmoid(0.4 + np.sin(5.0 * i))]


def _of_tables(folder: Path, **more: Any) -> tuple[Report, Workspace]:
    baseline, answers, p = _texts()
    ours = completions({f"p{i}": [text] for i, text in enumerate(answers)})
    theirs = completions({f"p{i}": [text] for i, text in enumerate(baseline)}, stream=1)
    judged = win_probs([(f"p{i}", f"p{i}/0/0", f"p{i}/1/0", value) for i, value in enumerate(p)])
    work = Workspace(folder)
    return length_controlled(judged, ours, theirs, work, **more), work


def _of_file(folder: Path, anchors: Path | None = None, **changes: Any) -> tuple[Report, Workspace]:
    folder.mkdir(parents=True, exist_ok=True)
    baseline, answers, p = _texts()
    rows = [
        {"instruction": f"ask {i}", "output_1": b, "output_2": a, "preference": 1 + x, "generator_1": "base",
         "generator_2": "model", **changes}
        for i, (b, a, x) in enumerate(zip(baseline, answers, p, strict=True))
    ]  # fmt: skip
    file = folder / "annotations.json"
    file.write_text(json.dumps(rows))
    work = Workspace(folder / "work")
    return alpaca_eval(work, annotations=_source(file), anchors=_source(anchors) if anchors else None), work


def _source(path: Path) -> Chosen:
    return Chosen("sources", "path", {"path": str(path)})


def test_a_file_of_annotations_and_our_tables_give_the_same_numbers(tmp_path: Path) -> None:
    by_tables, work = _of_tables(tmp_path / "tables")
    by_file, _ = _of_file(tmp_path / "file")
    ours, theirs = named(by_tables), named(by_file)
    for name, row in ours.items():
        assert {k: v for k, v in theirs[name].items() if k != "name"} == pytest.approx(
            {k: v for k, v in row.items() if k != "name"}, nan_ok=True
        )
    assert theirs["eval/win_rate"]["value"] == pytest.approx(np.mean(_texts()[2]))
    assert ours["eval/characters"]["value"] == pytest.approx(29.0)  # 24, 29, 34 in turn
    assert ours["eval/baseline_characters"]["value"] == pytest.approx(24.5)  # 20, 23, 26, 29 in turn
    assert (ours["eval/lc_win_rate"]["n"], ours["eval/lc_win_rate"]["unit"]) == (12, "probability")
    assert ours["eval/lc_standard_error"]["value"] == 0.0  # as AlpacaEval defines it, without difficulty
    assert work.notices == [
        "LC win rate (no instruction difficulty, no gamed anchor): comparable only with numbers that were made so, not "
        "with a leaderboard's"
    ]
    assert by_tables.per_prompt is not None
    values = by_tables.per_prompt.column("lc_win_rate").to_pylist()
    assert np.mean(values) == pytest.approx(ours["eval/lc_win_rate"]["value"])


def test_the_model_that_is_its_own_baseline_by_name_has_one_half(tmp_path: Path) -> None:
    report, work = _of_file(tmp_path, generator_2="base")
    row = named(report)["eval/lc_win_rate"]
    assert (row["value"], row["ci_low"], row["ci_high"]) == (0.5, 0.5, 0.5)
    assert work.notices == ["the model is its own baseline: its length-controlled win rate is ½ by definition"]


def _anchors(file: Path, instructions: int) -> Path:
    """AlpacaEval's columns: two gamed baselines, whose rows also have the difficulty of their instruction."""
    lines = ["model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    lines += [
        f"{name},{i},{0.5 - 0.2 * sign:.2f},{sign * (0.5 + i / 20):.3f},{np.sin(5.0 * i):.4f},False"
        for name, sign in (("verbose", -1), ("concise", 1))
        for i in range(instructions)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_with_anchors_the_notice_is_gone_and_the_difficulty_counts(tmp_path: Path) -> None:
    report, work = _of_file(tmp_path, _anchors(tmp_path / "df_gamed.csv", 12))
    assert work.notices == []
    rows = named(report)
    assert rows["eval/lc_standard_error"]["value"] > 0
    assert rows["eval/lc_win_rate"]["value"] != named(_of_file(tmp_path)[0])["eval/lc_win_rate"]["value"]
    with pytest.raises(DataError, match="has the difficulty of 11 instructions, and there are 12 annotations"):
        _of_file(tmp_path, _anchors(tmp_path / "df_gamed.csv", 11))


def test_ties_missing_preferences_and_wrong_ones_in_a_file(tmp_path: Path) -> None:
    report, _ = _of_file(tmp_path, preference=0.0)
    assert named(report)["eval/ties"]["value"] == 1.0
    assert named(report)["eval/lc_win_rate"]["value"] == 0.5
    with pytest.raises(DataError, match=r"the preference 2\.5 is neither in \[1, 2\] nor 0"):
        _of_file(tmp_path, preference=2.5)
    with pytest.raises(DataError, match="0 prompts have an answer from the oracle"):
        _of_file(tmp_path, preference=None)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"instruction": "a", "output_1": "b", "output_2": "c"}], "is not an annotation of AlpacaEval: it lacks pref"),
        ([{"instruction": "a", "output_1": "b", "output_2": "c", "preference": 1, "generator_2": name}
          for name in ("one", "two")], r"has answers of 2 models \(one, two\): one file for each"),
    ],
)  # fmt: skip
def test_files_of_something_else_are_refused(tmp_path: Path, rows: Sequence[Any], problem: str) -> None:
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=problem):
        alpaca_eval(Workspace(tmp_path), annotations=_source(file))


def test_difficulties_and_gamed_tables_of_our_own(tmp_path: Path) -> None:
    import polars as pl

    baseline, _, p = _texts()
    table = pl.DataFrame({"prompt_id": [f"p{i}" for i in range(12)], "hard": np.sin(5.0 * np.arange(12))})
    difficulty = Report.of(Report.SCHEMA.empty_table()).with_per_prompt(table)
    gamed = completions({f"p{i}": [text + "b" * 40] for i, text in enumerate(baseline)}, stream=2)
    judged = win_probs([(f"p{i}", f"p{i}/2/0", f"p{i}/1/0", 1 - value / 2) for i, value in enumerate(p)])
    anchors: dict[str, Any] = {"gamed": [judged], "gamed_completions": [gamed]}
    report, work = _of_tables(tmp_path / "1", difficulty=difficulty, quantity="hard", **anchors)
    assert work.notices == []
    assert named(report)["eval/lc_standard_error"]["value"] > 0
    _, partly = _of_tables(tmp_path / "2", **anchors)
    assert partly.notices[0].startswith("LC win rate (no instruction difficulty): ")
    with pytest.raises(DataError, match="`difficulty` has no values of 'easy' by prompt"):
        _of_tables(tmp_path / "3", difficulty=difficulty, quantity="easy")
    with pytest.raises(DataError, match="`gamed` needs one table of `gamed_completions`"):
        _of_tables(tmp_path / "4", gamed=[judged])
