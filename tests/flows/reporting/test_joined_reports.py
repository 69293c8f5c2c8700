"""A Report that joins others: what it is ranked by, what is not shown twice, whose notices and facts it has."""

import pyarrow as pa

from flows.reporting.comparability import measurement_facts
from flows.reporting.results import run_results
from flows.store.finished import finished_steps
from flows.store.records import HowMade
from flows.store.runs import Runs
from flows.store.store import Store
from tasks.joined import join_reports
from tasks.kinds import Report
from tests.flows.evaluated import IDS, evaluated
from tests.flows.store.made import put, run_step

NOTICE = "6 of 6 prompts have one answer: they have no self-BLEU"


def _diversity() -> Report:
    table = pa.table({
        "name": ["eval/self_bleu"], "value": [0.7], "ci_low": [0.6], "ci_high": [0.8], "n": [6], "unit": ["share"],
    })  # fmt: skip
    return Report.of(table).with_per_prompt(pa.table({"prompt_id": list(IDS), "self_bleu": [0.7] * 6}))


def test_the_joined_report_stands_for_all_of_them(store: Store) -> None:
    run = evaluated(store, "mine", [[0.6] * 6])
    measured = store.record(run.steps["report@1"].key)
    answers = store.record(run.steps["report/sample@1"].key)
    assert measured is not None
    assert answers is not None
    further = put(store, _diversity(), "diversity", {"completions": [answers]}, HowMade(1.0, notices=[NOTICE]))
    both = join_reports([Report(store.root / record.path) for record in (measured, further)])
    joined = put(store, both, "join_reports", {"reports": [measured, further]})
    run.steps["report/measure@1"] = run_step("report/measure@1", measured)
    run.steps["report/diversity@1"] = run_step("report/diversity@1", further)
    run.steps["report@1"] = run_step("report@1", joined)
    Runs(store).end(run, "done")

    results = run_results(store, finished_steps(store, run))
    [row] = results.rows
    assert results.others == ()
    assert [*row.metrics] == ["eval/win_rate", "eval/gold", "eval/kl", "eval/self_bleu"]
    assert row.metrics["eval/win_rate"].metric.role == "win_rate"
    assert row.metrics["eval/self_bleu"].metric.column == "self-\nBLEU"
    assert NOTICE in row.notices
    assert measurement_facts(store, joined) == measurement_facts(store, measured)
    assert "(`measure`)" in measurement_facts(store, joined)["evaluation"]
