"""Agreement of annotators and the majority of them, by hand; and real ones, whose numbers are published."""

import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from tasks.annotators import agreement, agreement_wiring, check_names, majority
from tasks.contract import Chosen, DataError, SpecError
from tasks.judge import compare_pairs
from tasks.kinds import Preferences, Report, WinProbs
from tasks.load import load_judgements, read_preferences
from tests.answers import Judge, named, rows, win_probs
from tests.tasks.reading import write
from tests.workspace import Workspace

DATA = Path(__file__).parents[3] / "shared" / "data" / "preferences"
real = pytest.mark.skipif(not DATA.exists(), reason="the real pairs are not on this machine")

PEOPLE = [("p", "a", "b"), ("p", "a", "c"), ("q", "d", "e"), ("r", "f", "g")]


def judged(*p: float | None, swap: bool = False) -> WinProbs:
    """Answers to the four questions; `swap`: with the two answers of each exchanged."""
    both = zip(PEOPLE, p, strict=False)
    return win_probs([
        (i, b, a, None if x is None else 1 - x) if swap else (i, a, b, x) for (i, a, b), x in both
    ])  # fmt: skip


def by_annotators(**p: list[float | None]) -> WinProbs:
    """A table in which several people answered the four questions."""
    found = [
        {"prompt_id": i, "a_id": a, "b_id": b, "p": x, "annotator": name}
        for name, answers in p.items()
        for (i, a, b), x in zip(PEOPLE, answers, strict=True)
    ]
    return WinProbs.of(pa.Table.from_pylist(found, WinProbs.SCHEMA))


def report(tables: list[WinProbs], folder: Path, **options: object) -> dict[str, dict[str, float]]:
    made = agreement(tables, Workspace(folder), **options)  # type: ignore[arg-type]
    assert isinstance(made, Report)
    return named(made)


def test_accuracy_and_kappa_of_two_tables_by_hand(tmp_path: Path) -> None:
    # Verdicts: 1 1 −1 0 and 1 −1 −1 0: 3 of 4 agree. Shares ½ ¼ ¼ and ¼ ½ ¼: p_e = 1/8 + 1/8 + 1/16 = 5/16.
    # Coincidences: 11: 2, 1−: 1, −1: 1, −−: 2, 00: 2; of the 8 verdicts 3, 3, 2: alpha = 1 − 2·7 / (64 − 22).
    metrics = report([judged(0.9, 0.8, 0.1, 0.5), judged(0.6, 0.3, 0.4, 0.5, swap=True)], tmp_path, names=["x", "y"])
    assert metrics["eval/accuracy/x/y"]["value"] == pytest.approx(3 / 4)
    assert metrics["eval/accuracy/x/y"]["n"] == 3
    assert metrics["eval/kappa/x/y"]["value"] == pytest.approx((3 / 4 - 5 / 16) / (11 / 16))
    assert metrics["eval/alpha"]["value"] == pytest.approx(1 - 14 / 42)
    assert metrics["eval/alpha"]["unit"] == "kappa"


def test_a_tie_may_be_wider_than_exactly_one_half(tmp_path: Path) -> None:
    tables = [judged(0.55, 0.9, 0.1, 0.45), judged(0.5, 0.9, 0.1, 0.5)]
    narrow, wide = (report(tables, tmp_path / str(t), names=["x", "y"], tie_within=t) for t in (0.0, 0.1))
    assert narrow["eval/accuracy/x/y"]["value"] == pytest.approx(1 / 2)
    assert wide["eval/accuracy/x/y"]["value"] == 1


def test_both_orders_of_a_pair_are_one_verdict(tmp_path: Path) -> None:
    first = win_probs([("p", "a", "b", 0.9), ("p", "b", "a", 0.7), ("q", "d", "e", 0.1)])  # p of a: (.9 + .3) / 2
    metrics = report([first, judged(1.0, None, 0.0)], tmp_path, names=["x", "y"])
    assert metrics["eval/accuracy/x/y"]["value"] == 1


def test_each_person_of_a_table_is_an_annotator_and_the_reference_counts_in_no_summary(tmp_path: Path) -> None:
    people = by_annotators(kim=[1, 1, 0, 0.5], lee=[1, 1, 0, None])
    metrics = report(
        [people, judged(0.2, 0.9, 0.3, 0.7)], tmp_path, names=["people", "judge"], reference=judged(0.9, 0.1, 0.2, 0.5),
        reference_name="gold",
    )  # fmt: skip
    accuracy = {name: row["value"] for name, row in metrics.items() if "accuracy" in name}
    assert accuracy == pytest.approx({
        "eval/accuracy/gold/kim": 3 / 4, "eval/accuracy/gold/lee": 2 / 3, "eval/accuracy/gold/judge": 1 / 4,
        "eval/accuracy/kim/lee": 1, "eval/accuracy/kim/judge": 2 / 4, "eval/accuracy/lee/judge": 2 / 3,
    })  # fmt: skip
    without = report([people, judged(0.2, 0.9, 0.3, 0.7)], tmp_path / "without", names=["people", "judge"])
    assert metrics["eval/alpha"] == without["eval/alpha"]
    assert metrics["eval/fleiss_kappa"] == without["eval/fleiss_kappa"]


def test_a_notice_names_those_who_answered_fewer_pairs(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    agreement([judged(1, 1, 0, None), judged(1, 1, 0, 1)], work, names=["x", "y"])
    assert work.notices == ["of 4 pairs these annotators answered fewer: x 3"]


def test_the_accuracy_of_each_prompt_stands_beside(tmp_path: Path) -> None:
    made = agreement([judged(0.9, 0.8, 0.1), judged(0.9, 0.3, 0.4)], Workspace(tmp_path), names=["x", "y"])
    assert made.per_prompt is not None
    assert made.per_prompt.to_pylist() == [
        {"prompt_id": "p", "accuracy/x/y": 0.5}, {"prompt_id": "q", "accuracy/x/y": 1.0},
    ]  # fmt: skip


def test_two_people_of_one_name_have_the_names_of_their_tables_before(tmp_path: Path) -> None:
    one, other = by_annotators(kim=[1, 1, 0, 0]), by_annotators(kim=[1, 1, 0, 1])
    assert "eval/accuracy/x kim/y kim" in report([one, other], tmp_path, names=["x", "y"])


def test_what_cannot_agree_is_refused(tmp_path: Path) -> None:
    apart = win_probs([("p", "h", "i", 1.0)])
    with pytest.raises(DataError, match="no pair was answered by two of x, y"):
        report([judged(1.0), apart], tmp_path, names=["x", "y"])
    with pytest.raises(DataError, match="needs two annotators"):
        report([judged(1.0)], tmp_path, names=["x"])
    with pytest.raises(DataError, match="`reference` has 2 annotators"):
        report([apart], tmp_path, names=["x"], reference=by_annotators(kim=[1, 1, 0, 0], lee=[1, 1, 0, 0]))
    with pytest.raises(SpecError, match="must differ"):
        check_names(["x", "x"])
    with pytest.raises(SpecError, match="slash"):
        check_names(["x/y"])


def test_a_wiring_needs_a_name_for_each_table() -> None:
    params = {"names": ["x"], "reference_name": "gold"}
    step = SimpleNamespace(inputs={"win_probs": [None, None]}, params=params)
    with pytest.raises(SpecError, match="one for each of the 2 tables"):
        agreement_wiring(step)  # type: ignore[arg-type]
    step = SimpleNamespace(inputs={"win_probs": [None], "reference": [None]}, params=params | {"names": ["gold"]})
    with pytest.raises(SpecError, match="must differ"):
        agreement_wiring(step)  # type: ignore[arg-type]


def test_the_majority_is_one_verdict_of_several_tables_and_people(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    people = by_annotators(kim=[1, 1, 0.5, None], lee=[1, 0, 0.5, None])
    found = rows(majority([people, judged(0.2, None, 0.6, None, swap=True)], work))
    assert [(r["a_id"], r["b_id"], r["p"]) for r in found] == [
        ("a", "b", 1.0), ("a", "c", None), ("d", "e", 0.5), ("f", "g", None),
    ]  # fmt: skip
    assert work.totals == {"pairs": 4, "pairs_without_majority": 2}


def test_an_oracle_compares_labelled_pairs_under_the_ids_of_their_sides(tmp_path: Path) -> None:
    pairs = Preferences.of(pa.Table.from_pylist([
        {"prompt_id": i, "prompt": [{"role": "user", "content": i}], "chosen_id": f"{i}+", "rejected_id": f"{i}-",
         "chosen": "long", "rejected": "short"} for i in ("p", "q")
    ], Preferences.SCHEMA))  # fmt: skip
    judge = Judge({("long", "short"): 0.7, ("short", "long"): 0.4}, antisymmetric=False)
    found = rows(compare_pairs(pairs, judge, Workspace(tmp_path)))
    assert [(r["a_id"], r["b_id"], r["first"], r["p"]) for r in found] == [
        ("p+", "p-", "a", 0.7), ("p+", "p-", "b", pytest.approx(0.6)),
        ("q+", "q-", "a", 0.7), ("q+", "q-", "b", pytest.approx(0.6)),
    ]  # fmt: skip
    assert len(judge.questions) == 4


def source(name: str, **params: str) -> Chosen:
    return Chosen("sources", "path", {"path": str(DATA / f"{name}.jsonl.gz"), **params})


@pytest.fixture
def pandalm(tmp_path: Path) -> Chosen:
    """The file with six answers as the texts that they were: `true` and `false` stand in it without quotes."""
    with gzip.open(DATA / "pandalm_testset.jsonl.gz", "rt") as lines:
        found = [json.loads(line) for line in lines]
    for row in found:
        row |= {name: str(row[name]) for name in ("response1", "response2")}
    return Chosen("sources", "path", {"path": str(write(tmp_path / "pandalm.jsonl", found)), "doubtful": "keep"})


@real
def test_pandalms_three_people_come_out_as_published(pandalm: Chosen, tmp_path: Path) -> None:
    """Kappas .85, .88 and .86; labels: 105 ties, 422 and 472. Source: Wang et al., arXiv 2306.05087, and its data."""
    people = load_judgements(Workspace(tmp_path / "people"), source=pandalm, split="all")
    labels = majority([people], Workspace(tmp_path / "labels"))
    won = [r["p"] for r in rows(labels)]
    assert [won.count(p) for p in (0.5, 1.0, 0.0)] == [105, 422, 472]
    metrics = report([people], tmp_path / "report", names=["people"], reference=labels)
    couples = ("annotator1/annotator2", "annotator1/annotator3", "annotator2/annotator3")
    assert [round(metrics[f"eval/kappa/{c}"]["value"], 2) for c in couples] == [0.85, 0.88, 0.86]
    assert all(row["ci_low"] < row["value"] < row["ci_high"] for row in metrics.values())
    pairs = read_preferences(Workspace(tmp_path / "pairs"), source=pandalm, split="all")
    sides = [{r["a_id"], r["b_id"]} for r in rows(labels)]
    assert [{r["chosen_id"], r["rejected_id"]} for r in rows(pairs)] == sides


@real
def test_rows_of_pandalm_whose_answers_are_no_texts_are_skipped_and_counted(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    people = load_judgements(work, source=source("pandalm_testset"), split="all")
    assert (len(people), work.totals["rows_skipped"]) == (3 * 993, 6)


@real
def test_pandalms_judges_beside_the_people(pandalm: Chosen, tmp_path: Path) -> None:
    people = load_judgements(Workspace(tmp_path / "people"), source=pandalm, split="all")
    judges = load_judgements(
        Workspace(tmp_path / "judges"), source=pandalm, split="all", annotators=["gpt35_result", "pandalm7b_result"]
    )
    metrics = report(
        [people, judges], tmp_path / "report", names=["people", "judges"], reference_name="majority",
        reference=majority([people], Workspace(tmp_path / "majority")),
    )  # fmt: skip
    # Counted in the file: 697 of the 974 pairs that it answered, 667 of 999.
    assert metrics["eval/accuracy/majority/gpt35_result"]["value"] == pytest.approx(697 / 974)
    assert metrics["eval/accuracy/majority/pandalm7b_result"]["value"] == pytest.approx(667 / 999)


@real
def test_the_longer_answer_is_right_in_27_percent_of_llmbar(tmp_path: Path) -> None:
    """In characters, the right answer is the longer one in 113 of 419 pairs, and in 57 of the 319 adversarial ones.

    Two pairs have equal lengths. Source of the pairs: Zeng et al., arXiv 2310.07641.
    """
    pairs = read_preferences(Workspace(tmp_path / "pairs"), source=source("llmbar"), split="all")
    longest = Chosen("oracles", "longest", {})()
    found = compare_pairs(pairs, longest, Workspace(tmp_path / "longest"))
    adversarial = [r["group"].startswith("Adversarial") for r in rows(pairs)]
    right = [r["p"] > 0.5 for r in rows(found)]
    assert (sum(right), len(right), sum(r["p"] == 0.5 for r in rows(found))) == (113, 419, 2)
    assert math.isclose(sum(right) / len(right), 0.270, abs_tol=0.0005)
    assert (sum(r for r, a in zip(right, adversarial, strict=True) if a), sum(adversarial)) == (57, 319)
