"""The totals of steps as people see them: in `alignflow show`, on Prefect's page of a run, in MLflow."""

from dataclasses import replace
from pathlib import Path

from flows.reporting.results import run_results
from flows.reporting.sinks.prefect_artifacts import summary
from flows.reporting.sinks.publication import _total_rows
from flows.reporting.totals import total_texts, totals_rows
from flows.store.finished import FinishedStep, finished_steps
from flows.store.records import Record
from flows.store.store import Store
from tests.flows.fabricated import fabricate
from tests.flows.store.made import prompts, put

COUNTED = {"queries": 1200, "unanswered": 0, "queries_asked": 300, "cost": 1.25, "ties": 0.0125, "samples": 7}


def judged(store: Store, **totals: float) -> Record:
    return replace(put(store, prompts("a")), task="compare", totals=totals)


def test_a_steps_totals_are_read_with_the_titles_and_formats_of_its_task_in_its_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert total_texts(store, judged(store, **dict(reversed(COUNTED.items())))) == [
        "questions 1,200", "unanswered 0", "asked 300", "cost 1.2500", "ties 0.013",
    ]  # fmt: skip


def test_steps_share_one_table_without_columns_that_are_nowhere_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    steps = [
        FinishedStep(("win_probs@2",), 2, judged(store, **COUNTED), False),
        FinishedStep(("gold",), None, judged(store, queries=5, nulls=0.2), True),
        FinishedStep(("prompts",), None, put(store, prompts("a")), True),
    ]
    assert totals_rows(store, steps) == [
        {"step": "round 2 · win_probs", "questions": "1,200", "asked": "300", "cost": "1.2500", "ties": "0.013",
         "nulls": "–"},
        {"step": "gold", "questions": "5", "asked": "–", "cost": "–", "ties": "–", "nulls": "0.200"},
    ]  # fmt: skip
    assert ("total/win_probs/ties", 0.0125, 2) in list(_total_rows(store, steps))
    assert ("total/gold/queries", 5.0, 1) in list(_total_rows(store, steps))


def test_the_page_of_a_run_has_the_table_of_totals(tmp_path: Path) -> None:
    made = fabricate(tmp_path)
    steps = [FinishedStep(("win_probs@1",), 1, judged(made.store, queries=5, ties=0.5), False)]
    found = run_results(made.store, finished_steps(made.store, made.run))
    page = summary(made.run, found, made.store.root, "", totals=totals_rows(made.store, steps)).data
    assert "| step | questions | ties |\n| --- | --- | --- |\n| round 1 · win_probs | 5 | 0.500 |" in page
