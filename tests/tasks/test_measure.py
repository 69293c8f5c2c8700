from pathlib import Path
from typing import Any

import pytest

from tasks.contract import DataError
from tasks.judge import compare, score
from tasks.kinds import Completions, Logps, Report
from tasks.measure import measure
from tests.answers import Judge, completions, named, scorer, win_probs
from tests.workspace import Workspace

# Prompt x: 2 × 2 pairs with P = .9 .7 / .5 .1 (mean .55); prompt y: 1 × 1 with .3.
JUDGED = [
    ("x", "x/0/0", "x/1/0", 0.9), ("x", "x/0/0", "x/1/1", 0.7), ("x", "x/0/1", "x/1/0", 0.5),
    ("x", "x/0/1", "x/1/1", 0.1), ("y", "y/0/0", "y/1/0", 0.3),
]  # fmt: skip


def ours() -> Completions:
    return completions({"x": ["one", "four"], "y": ["ninety"]})


def theirs() -> Completions:
    return completions({"x": ["a", "bc"], "y": ["d"]}, stream=1)


def logps(values: dict[str, float], lengths: dict[str, int]) -> Logps:
    import pyarrow as pa

    found = [
        {"prompt_id": i[0], "completion_id": i, "logps": v, "lengths": lengths[i]} for i, v in values.items()
    ]  # fmt: skip
    return Logps.of(pa.Table.from_pylist(found, Logps.SCHEMA))


def by_prompt(report: Report) -> dict[str, dict[str, Any]]:
    assert report.per_prompt is not None
    return {r["prompt_id"]: r for r in report.per_prompt.to_pylist()}


def test_the_win_rate_is_the_mean_over_prompts_of_the_mean_over_pairs(tmp_path: Path) -> None:
    report = measure(win_probs(JUDGED), ours(), theirs(), Workspace(tmp_path))
    rate = named(report)["eval/win_rate"]
    assert rate["value"] == pytest.approx((0.55 + 0.3) / 2)
    assert (rate["n"], rate["unit"]) == (2, "probability")
    assert {p: r["win_rate"] for p, r in by_prompt(report).items()} == pytest.approx({"x": 0.55, "y": 0.3})


def test_shares_of_wins_ties_and_losses_add_up_to_one(tmp_path: Path) -> None:
    found = named(measure(win_probs(JUDGED), ours(), theirs(), Workspace(tmp_path)))
    # x: 2 of 4 won, 1 tied, 1 lost; y: lost.
    assert found["eval/wins"]["value"] == pytest.approx(0.25)
    assert found["eval/ties"]["value"] == pytest.approx(0.125)
    assert found["eval/losses"]["value"] == pytest.approx(0.625)


def test_lengths_and_endings_are_those_of_the_answers(tmp_path: Path) -> None:
    found = named(measure(win_probs(JUDGED), ours(), theirs(), Workspace(tmp_path)))
    assert found["eval/length"]["value"] == pytest.approx((3.5 + 6) / 2)
    assert found["eval/baseline_length"]["value"] == pytest.approx((1.5 + 1) / 2)
    assert found["eval/finished"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert found["eval/length"]["unit"] == "tokens"
    assert "eval/kl" not in found
    assert "eval/gold" not in found


def test_kl_is_the_sum_of_log_ratios_per_answer(tmp_path: Path) -> None:
    # The answers have −0.5 per token under the policy: −1.5, −2 and −3 in all.
    lengths = {"x/0/0": 3, "x/0/1": 4, "y/0/0": 6}
    base = logps({"y/0/0": -7.0, "x/0/0": -2.5, "x/0/1": -1.0}, lengths)
    report = measure(win_probs(JUDGED), ours(), theirs(), Workspace(tmp_path), logps=base)
    kl = named(report)["eval/kl"]
    assert {p: r["kl"] for p, r in by_prompt(report).items()} == pytest.approx({"x": (1.0 - 1.0) / 2, "y": 4.0})
    assert (kl["value"], kl["unit"]) == (pytest.approx(2.0), "nats")


def test_kl_of_other_tokens_or_answers_is_refused(tmp_path: Path) -> None:
    values, lengths = {"x/0/0": -2.5, "x/0/1": -1.0, "y/0/0": -7.0}, {"x/0/0": 3, "x/0/1": 4, "y/0/0": 5}
    with pytest.raises(DataError, match="1 answers have another number of tokens"):
        measure(win_probs(JUDGED), ours(), theirs(), Workspace(tmp_path), logps=logps(values, lengths))
    del values["y/0/0"]
    with pytest.raises(DataError, match="have 2 rows, of which 2 belong to the 3 answers"):
        measure(win_probs(JUDGED), ours(), theirs(), Workspace(tmp_path), logps=logps(values, lengths))


def test_another_temperature_makes_kl_biased_and_is_told(tmp_path: Path) -> None:
    lengths = {"x/0/0": 3, "x/0/1": 4, "y/0/0": 6}
    base = logps(dict.fromkeys(lengths, -1.0), lengths)
    one, other = Workspace(tmp_path / "1"), Workspace(tmp_path / "2")
    measure(win_probs(JUDGED), ours(), theirs(), one, logps=base)
    measure(win_probs(JUDGED), ours(), theirs(), other, logps=base, temperature=0.7)
    assert one.notices == []
    assert other.notices == ["the answers were sampled at temperature 0.7: eval/kl is biased, as it assumes 1"]


def test_unanswered_questions_count_neither_as_wins_nor_as_losses(tmp_path: Path) -> None:
    judged = [(*q[:3], None if q[3] in (0.9, 0.3) else q[3]) for q in JUDGED]
    work = Workspace(tmp_path)
    report = measure(win_probs(judged), ours(), theirs(), work)
    found = named(report)
    assert found["eval/win_rate"]["value"] == pytest.approx((0.7 + 0.5 + 0.1) / 3)
    assert found["eval/win_rate"]["n"] == 1
    assert found["eval/wins"]["value"] + found["eval/ties"]["value"] + found["eval/losses"]["value"] == pytest.approx(1)
    assert found["eval/unanswered"]["value"] == pytest.approx((0.25 + 1) / 2)
    assert by_prompt(report)["y"]["win_rate"] is None
    assert work.notices == ["eval/win_rate: 1 of 2 prompts have no answer from the oracle and are left out"]


def test_both_orders_are_one_pair_and_their_agreement_is_measured(tmp_path: Path) -> None:
    # P(a beats b) = .8 with a first and .4 with b first: no agreement; c and d: .9 and .9.
    oracle = Judge(
        {("a", "b"): 0.8, ("b", "a"): 0.6, ("c", "d"): 0.9, ("d", "c"): 0.1}, antisymmetric=False
    )  # fmt: skip
    one, two = completions({"x": ["a"], "y": ["c"]}), completions({"x": ["b"], "y": ["d"]}, stream=1)
    judged = compare(one, oracle, Workspace(tmp_path / "1"), two)
    found = named(measure(judged, one, two, Workspace(tmp_path / "2")))
    assert found["eval/win_rate"]["value"] == pytest.approx((0.6 + 0.9) / 2)
    assert found["eval/order_consistency"]["value"] == pytest.approx(0.5)
    assert found["eval/wins"]["value"] == 1.0


@pytest.mark.parametrize("swapped", [False, True])
def test_questions_about_other_answers_are_refused(tmp_path: Path, swapped: bool) -> None:
    strange = ("x", "x/1/0", "x/0/0", 0.5) if swapped else ("x", "x/0/7", "x/1/0", 0.5)
    with pytest.raises(DataError, match="1 of 6 questions have an a_id that is not one of the answers"):
        measure(win_probs([*JUDGED, strange]), ours(), theirs(), Workspace(tmp_path))


def test_the_proxys_scores_are_rows_of_their_own_beside_gold(tmp_path: Path) -> None:
    gold = {"one": 1.0, "four": 2.0, "ninety": 3.0, "a": 0.0, "bc": 1.0, "d": -1.0}
    proxy = {"one": 5.0, "four": None, "ninety": 7.0, "a": 4.0, "bc": 2.0, "d": 0.0}
    a, b = ours(), theirs()
    golds, proxies = (
        [score(t, scorer(o), Workspace(tmp_path / f"{n}{i}")) for i, t in enumerate((a, b))]
        for n, o in (("gold", gold), ("proxy", proxy))
    )
    report = measure(win_probs(JUDGED), a, b, Workspace(tmp_path / "m"), *golds, None, *proxies)
    found = named(report)
    # x: 5 (the other answer has none); y: 7. The baseline's: (4 + 2)/2 and 0.
    assert found["eval/proxy"]["value"] == pytest.approx((5 + 7) / 2)
    assert found["eval/baseline_proxy"]["value"] == pytest.approx((3 + 0) / 2)
    assert found["eval/gold"]["value"] == pytest.approx((1.5 + 3) / 2)
    assert (found["eval/proxy"]["unit"], found["eval/proxy"]["n"]) == ("score", 2)
    assert found["eval/proxy"]["ci_low"] < 6 < found["eval/proxy"]["ci_high"]
    assert {p: (r["proxy"], r["baseline_proxy"]) for p, r in by_prompt(report).items()} == {"x": (5, 3), "y": (7, 0)}
    with pytest.raises(DataError, match="the scores of eval/proxy have 3 rows, of which 0 belong to the 3 answers"):
        measure(win_probs(JUDGED), a, b, Workspace(tmp_path / "m"), proxy_scores=proxies[1])
