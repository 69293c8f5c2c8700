"""Benchmark harnesses in a process of their own: what it sees, how it fails, what becomes of its numbers."""

import json
import os
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest

from tasks.contract import Chosen, DataError, SpecError
from tasks.external_benchmarks import alignment_tax, inspect_evals, lm_eval_harness
from tasks.harnesses import process
from tasks.harnesses.process import check_installed, run_harness
from tasks.harnesses.results import harness_report
from tasks.judging.intervals import interval
from tasks.kinds import Policy, Report
from tests.answers import named, saved
from tests.workspace import Workspace

ANIMALS = [
    {"question": f"where does the {a} live ?", "choices": ["the swamp", "the forest", "the desert"], "gold": i % 3}
    for i, a in enumerate(("swan", "fox", "bear", "mole", "duck", "newt", "toad", "crow"))
]
LM_EVAL_TASK = """
task: animals
dataset_path: json
dataset_kwargs: {data_files: {test: animals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

@task
def animals():
    rows = json_dataset("animals.jsonl", FieldSpec(input="question", target="letter"))
    return Task(dataset=rows, solver=generate(), scorer=includes())
"""


def _run(place: Path, code: str, request: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """What a child of this code makes of a request."""
    place.mkdir(exist_ok=True)
    file = place / "child.py"
    file.write_text(f"import json, os, sys, time\n{code}\n")
    child = FunctionType(compile("0", str(file), "eval"), {})  # a function of that file
    settings = {"folder": None, "pass_env": (), "timeout": None, **options}
    return run_harness(child, request or {}, Workspace(place / "work"), **settings)


WRITE = "json.dump({}, open(sys.argv[2], 'w'))"


def test_a_child_sees_no_keys_but_those_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "x")
    code = WRITE.format("dict(os.environ)")
    seen = _run(tmp_path, code, pass_env=["HF_TOKEN"])
    assert {"HF_TOKEN", "HF_HUB_OFFLINE", "PATH"} <= seen.keys()
    assert not {"OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"} & seen.keys()
    assert not {name for name in process.PASSED_ON if any(word in name for word in ("TOKEN", "KEY", "SECRET"))}


def test_a_child_that_fails_is_an_error_with_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)harness ended with exit code 1; .*harness\.log:.*ValueError: no such task"
    ):
        _run(tmp_path / "a", "raise ValueError('no such task')")
    with pytest.raises(DataError, match="ended with exit code 0"):
        _run(tmp_path / "b", "pass")
    with pytest.raises(DataError, match=r"took longer than timeout = 0\.5 s"):
        _run(tmp_path / "c", "time.sleep(60)", timeout=0.5)


def test_a_result_is_taken_up_by_the_next_attempt_at_the_same_request_alone(tmp_path: Path) -> None:
    code = WRITE.format("{'at': time.time(), 'here': os.getcwd()}")
    first = _run(tmp_path, code, {"tasks": ["a"]})
    assert _run(tmp_path, code, {"tasks": ["a"]}) == first
    assert _run(tmp_path, code, {"tasks": ["b"]}, folder=tmp_path)["here"] == os.fspath(tmp_path)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(
        SpecError, match=r"`x` runs the package no_such_package, .*: `pip install 'alignflow\[extra\]'`"
    ):
        check_installed("no_such_package", "x", "extra")


def _result(**tasks: list[float]) -> dict[str, Any]:
    return {
        "metrics": [
            {"task": task, "metric": "acc", "value": float(np.mean(values)), "stderr": 0.1, "n": len(values),
             "higher_is_better": True} for task, values in tasks.items()
        ],
        "samples": [
            {"task": task, "metric": "acc", "sample": str(i), "value": value}
            for task, values in tasks.items() for i, value in enumerate(values)
        ],
    }  # fmt: skip


def test_metrics_have_intervals_over_samples_and_the_mean_over_tasks_counts_tasks_alike() -> None:
    report = harness_report(_result(a=[1, 0, 1, 1], b=[0, 0]), "lm_eval")
    rows = named(report)
    assert rows["eval/lm_eval"]["value"] == pytest.approx((0.75 + 0) / 2)
    expected = interval([1, 0, 1, 1], share=True)
    row = rows["eval/lm_eval/a/acc"]
    assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == (0.75, expected.low, expected.high, 4)
    assert report.per_prompt is not None
    assert len(report.per_prompt) == 6
    assert report.per_prompt.column("lm_eval").to_numpy().mean() == pytest.approx(0.375)


def test_a_metric_that_is_no_mean_of_samples_has_the_interval_of_its_standard_error() -> None:
    """t(0.975, 9) = 2.262."""
    result = {"metrics": [{"task": "wiki", "metric": "perplexity", "value": 20.0, "stderr": 2.0, "n": 10,
                           "higher_is_better": False}], "samples": []}  # fmt: skip
    report = harness_report(result, "lm_eval")
    row = named(report)["eval/lm_eval/wiki/perplexity"]
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(20 - 4.524, abs=1e-3), pytest.approx(20 + 4.524, abs=1e-3))
    assert "eval/lm_eval" not in named(report)
    assert report.per_prompt is None
    with pytest.raises(DataError, match="the harness measured nothing"):
        harness_report({"metrics": [], "samples": []}, "lm_eval")


def test_the_alignment_tax_is_paired_by_sample(tmp_path: Path) -> None:
    """d = 0, −1, 0, −1: mean −½, and an interval narrower than that of two separate accuracies."""
    before, after = (harness_report(_result(a=values), "lm_eval") for values in ([1, 1, 0, 1], [1, 0, 0, 0]))
    tax = alignment_tax(saved(after, tmp_path / "after"), saved(before, tmp_path / "before"))
    rows = named(tax)
    expected = interval([0, -1, 0, -1], share=False)
    for name in ("eval/alignment_tax", "eval/alignment_tax/lm_eval", "eval/alignment_tax/lm_eval/a/acc"):
        assert (rows[name]["value"], rows[name]["ci_low"]) == (pytest.approx(-0.5), pytest.approx(expected.low))
    assert tax.per_prompt is not None
    assert sorted(tax.per_prompt.column("alignment_tax/lm_eval/a/acc").to_pylist()) == [-1, -1, 0, 0]


def test_a_tax_of_other_samples_has_no_interval_and_of_other_metrics_is_refused() -> None:
    one, more = harness_report(_result(a=[1, 0]), "lm_eval"), harness_report(_result(a=[1, 0, 0, 0]), "lm_eval")
    row = named(alignment_tax(more, one))["eval/alignment_tax/lm_eval/a/acc"]
    assert (row["value"], row["ci_low"]) == (-0.25, None)
    with pytest.raises(DataError, match="`report` and `before` have no metric in common"):
        alignment_tax(one, harness_report(_result(a=[1, 0]), "inspect_evals"))


def _folder(folder: Path) -> Chosen:
    folder.mkdir()
    letters = [{**row, "letter": "e"} for row in ANIMALS]
    (folder / "animals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in letters))
    (folder / "animals.yaml").write_text(LM_EVAL_TASK)
    (folder / "animals.py").write_text(INSPECT_TASK)
    return Chosen("sources", "path", {"path": str(folder)})


def _check(report: Report, prefix: str, task: str) -> None:
    rows = named(report)
    assert rows[f"eval/{prefix}"]["value"] == rows[f"eval/{prefix}/{task}"]["value"]
    assert rows[f"eval/{prefix}"]["n"] == len(ANIMALS)
    assert rows[f"eval/{prefix}"]["unit"] == "share"
    assert report.per_prompt is not None
    assert len(report.per_prompt) == len(ANIMALS)
    assert named(alignment_tax(report, report))["eval/alignment_tax"]["value"] == 0


@pytest.mark.slow
def test_lm_eval_itself_runs_a_task_of_ones_own(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    work, include = Workspace(tmp_path / "work"), _folder(tmp_path / "tasks")
    report = lm_eval_harness(policy, work, benchmarks=["animals"], include=include, dtype="float32")
    _check(report, "lm_eval", "animals/acc")
    assert work.notices[0].startswith("versions of the tasks: animals ")
    with pytest.raises(DataError, match=r"(?s)no_such_task"):
        lm_eval_harness(policy, Workspace(tmp_path / "other"), benchmarks=["no_such_task"], include=include)


@pytest.mark.slow
def test_inspect_itself_runs_a_task_of_ones_own(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("inspect_ai", reason="the extra inspect is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = inspect_evals(
        policy, Workspace(tmp_path / "work"), benchmarks=["animals.py"], include=_folder(tmp_path / "tasks"),
        max_tokens=8, temperature=1.0, dtype="float32",
    )  # fmt: skip
    _check(report, "inspect_evals", "animals/includes/accuracy")


def test_a_folder_that_is_none_is_refused(policy: Policy, tmp_path: Path) -> None:
    for wrong in (Chosen("sources", "toy", {}), Chosen("sources", "path", {"path": str(tmp_path / "none")})):
        with pytest.raises(SpecError, match="`include` must be a folder with tasks"):
            lm_eval_harness(policy, Workspace(tmp_path / "work"), benchmarks=["x"], include=wrong)
