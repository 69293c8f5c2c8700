"""Scored answers: from files as HelpSteer has them, from the toy world's scorers; rows that have no score."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.composites import load_scores, train_reward
from tasks.contract import ChoiceSpec, Chosen, DataError, SpecError
from tasks.kinds import Scores
from tasks.load import load_prompts, read_scores
from tasks.scored import drop_unscored
from tasks.sources import toy
from tests.tasks.training.tables import scores
from tests.workspace import Workspace

HELPSTEER = [
    {"prompt": "Why ?", "response": "Because .", "helpfulness": 4, "correctness": 3, "verbosity": 1, "model": "x"},
    {"prompt": "Why ?", "response": "No idea .", "helpfulness": 0, "correctness": None, "verbosity": 2, "model": "y"},
    {"prompt": "Who ?", "response": "A cat .", "helpfulness": 2, "correctness": 4, "verbosity": 0, "model": "x"},
]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "scores.jsonl") -> Chosen:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return Chosen("sources", "path", {"path": str(folder / name)})


def read(folder: Path, source: Chosen, **options: Any) -> tuple[Scores, Workspace]:
    work = Workspace(folder / "work")
    return read_scores(work, source=source, split="all", **options), work


def test_a_file_of_answers_with_numbers_is_a_table_with_attributes(tmp_path: Path) -> None:
    found, work = read(tmp_path, written(tmp_path, HELPSTEER))
    assert found.attributes == ("helpfulness", "correctness", "verbosity")
    rows = found.table.to_pylist()
    assert [r["attributes"] for r in rows] == [[4, 3, 1], [0, None, 2], [2, 4, 0]]
    assert [r["score"] for r in rows] == [pytest.approx(8 / 3), None, 2.0]
    assert [(r["completion"], r["k"]) for r in rows] == [("Because .", 0), ("No idea .", 1), ("A cat .", 0)]
    assert rows[0]["prompt_id"] == rows[1]["prompt_id"]
    assert len({r["completion_id"] for r in rows}) == 3
    (notice,) = work.notices
    assert "prompts with answers (prompt, response, scored by helpfulness, correctness, verbosity)" in notice
    assert "columns not used: model" in notice


def test_attributes_may_be_chosen_and_unknown_ones_are_refused_with_the_nearest(tmp_path: Path) -> None:
    source = written(tmp_path, HELPSTEER)
    found, _ = read(tmp_path / "chosen", source, attributes=["verbosity", "helpfulness"])
    assert found.attributes == ("verbosity", "helpfulness")
    assert found.table.column("attributes").to_pylist()[0] == [1, 4]
    with pytest.raises(SpecError, match=r"no row has the column 'helpfullness' \(did you mean 'helpfulness'\?\)"):
        read(tmp_path / "typo", source, attributes=["helpfullness"])
    with pytest.raises(SpecError, match="the column 'model' holds values that are not numbers"):
        read(tmp_path / "text", source, attributes=["model"])


def test_rows_that_cannot_be_used_are_counted_and_listed(tmp_path: Path) -> None:
    rows = [*HELPSTEER, {**HELPSTEER[0], "helpfulness": None, "correctness": None, "verbosity": None},
            {**HELPSTEER[0], "helpfulness": float("nan")}]  # fmt: skip
    found, work = read(tmp_path, written(tmp_path, rows), max_skipped=0.5)
    assert len(found) == 3
    assert work.totals["rows_skipped"] == 2
    listed = [json.loads(line)["reason"] for line in (found.path / "skipped.jsonl").read_text().splitlines()]
    assert listed == [
        "it has none of the scores helpfulness, correctness, verbosity", "invalid helpfulness = nan; it must be finite",
    ]  # fmt: skip
    with pytest.raises(DataError, match="max_skipped"):
        read(tmp_path / "strict", written(tmp_path, rows))


def test_a_csv_file_is_read_alike(tmp_path: Path) -> None:
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        lines = csv.DictWriter(file, HELPSTEER[0].keys())
        lines.writeheader()
        lines.writerows(HELPSTEER)
    found, _ = read(tmp_path, Chosen("sources", "path", {"path": str(tmp_path / "scores.csv")}))
    assert [r["attributes"] for r in found.table.to_pylist()] == [[4, 3, 1], [0, None, 2], [2, 4, 0]]


def test_files_without_scores_are_refused(tmp_path: Path) -> None:
    plain = written(tmp_path / "a", [{"prompt": "Why ?", "response": "So .", "model": "x"}])
    with pytest.raises(DataError, match="holds the answers' scores as numbers"):
        read(tmp_path / "a", plain)
    pairs = written(tmp_path / "b", [{"prompt": "Why ?", "chosen": "So .", "rejected": "No .", "margin": 1}])
    with pytest.raises(SpecError, match="has no scores: its rows are pairs"):
        read(tmp_path / "b", pairs)
    with pytest.raises(SpecError, match="source 'toy' has no scores"):
        read_scores(Workspace(tmp_path), source=Chosen("sources", "toy", {}))


def test_rows_without_any_score_are_left_out_before_a_training(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    found = drop_unscored(scores([1.0, None, 2.0]), work, max_skipped=0.5)
    assert found.table.column("score").to_pylist() == [1.0, 2.0]
    assert "Scores: 1 of 3 rows (33.3%) skipped: no score (1)" in work.notices[0]
    assert json.loads((found.path / "skipped.jsonl").read_text())["completion_id"] == "c1-0"
    with pytest.raises(DataError, match="max_skipped"):
        drop_unscored(scores([1.0, None, 2.0]), Workspace(tmp_path / "strict"))


class _Added:
    """A step's result as a composite sees it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def is_a(self, kind: str) -> bool:
        return self.kind == kind


def test_a_worlds_scored_answers_are_joined_from_its_scorers(tmp_path: Path) -> None:
    added: list[tuple[str, dict[str, Any]]] = []

    def add(task: str, name: str | None = None, **inputs: Any) -> Any:
        added.append((name or task, inputs))
        return _Added(task)

    spec = ChoiceSpec("sources", "toy", {}, (), "World", toy.world)
    load_scores(add, source=spec, k=3)  # type: ignore[arg-type]
    assert [name for name, _ in added] == [
        "load_policy", "load_prompts", "sample", "toy_gold_oracle", "toy_gold_scores", "toy_length_oracle",
        "toy_length_scores", "join_scores",
    ]  # fmt: skip
    assert added[-1][1]["names"] == ["toy_gold", "toy_length"]
    assert added[1][1]["split"] == "rm"
    assert len(load_prompts(Workspace(tmp_path), source=Chosen("sources", "toy", {}), split="rm")) > 0


@pytest.mark.parametrize(("kind", "first"), [("Scores", ["drop_unscored"]), ("Rankings", []), ("Preferences", [])])
def test_only_scores_are_freed_of_rows_without_one(kind: str, first: list[str]) -> None:
    added: list[str] = []

    def add(task: str, name: str | None = None, **inputs: Any) -> Any:
        added.append(task)
        return _Added(task)

    train_reward(add, _Added("Policy"), _Added(kind), lr=1e-3)  # type: ignore[arg-type]
    assert added == [*first, "tokenize", "fit_reward"]
