"""What a run leaves on Prefect's pages: bars for long steps, the results, where to look; and that it harms no run."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.reporting.results import run_results
from flows.reporting.sinks import prefect_artifacts
from flows.reporting.sinks.prefect_answers import _escaped
from flows.reporting.sinks.prefect_artifacts import PrefectArtifacts, as_rows, last_artifacts, summary
from flows.run.prefect.api import send_pending
from flows.store.finished import finished_steps
from tests.flows.commands.processes import free_port
from tests.flows.fabricated import Fabricated, fabricate


@pytest.fixture(scope="module")
def url(server: str) -> Iterator[str]:
    with temporary_settings({PREFECT_API_URL: server}):
        yield server
        send_pending()


def _flow_run(made: Fabricated) -> UUID:
    """A flow run on the server, for the run of `made`."""
    from prefect import flow

    with get_client(sync_client=True) as client:
        id = client.create_flow_run(flow(lambda: None, name=made.run.pipeline)).id
    made.run.links["prefect"] = str(id)
    return id


def _artifacts(flow_run: UUID) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        return client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))


def _tell(made: Fabricated, *, hits: bool = False) -> PrefectArtifacts:
    listener = PrefectArtifacts(made.store, lambda: "#/experiments/1/runs/r")
    listener.run_started(made.run, made.graph, made.store.root / "logs")
    for id, node in made.graph.nodes.items():
        listener.step_finished(node, made.records[id], hit=hits, reason="")
    return listener


@pytest.mark.parametrize("hits", [False, True])
def test_a_run_leaves_its_results_and_where_to_look_cached_or_not(tmp_path: Path, url: str, hits: bool) -> None:
    made = fabricate(tmp_path)
    flow_run = _flow_run(made)
    _tell(made, hits=hits).run_finished(made.run)
    found = {a.key: a for a in _artifacts(flow_run)}
    assert set(found) == {"sppo-results", "sppo-run"}
    rows = json.loads(found["sppo-results"].data)
    assert [r["row"] for r in rows][:3] == ["base vs. base", "round 1", "round 2"]
    [win_rate] = [name for name in rows[2] if "win rate" in name]
    assert rows[2][win_rate] == "0.710 (0.680–0.740)"
    assert "\n" not in win_rate
    assert "round 2" in found["sppo-results"].description
    assert "0.710 (0.680–0.740)" in found["sppo-results"].description
    assert f"alignflow show {made.run.id}:" in found["sppo-run"].data
    assert "http://127.0.0.1:5000/#/experiments/1/runs/r" in found["sppo-run"].data


def test_the_key_of_a_deployment_has_its_name_in_letters_that_prefect_takes(tmp_path: Path, url: str) -> None:
    made = fabricate(tmp_path)
    made.run.deployment = "Every_Night"
    flow_run = _flow_run(made)
    _tell(made).run_finished(made.run)
    assert {a.key for a in _artifacts(flow_run)} == {"sppo-every-night-results", "sppo-every-night-run"}


def test_a_long_step_has_a_bar_that_moves_and_a_short_one_has_none(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_artifacts, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(prefect_artifacts, "LONG_SECONDS", 0.2)
    made = fabricate(tmp_path)
    flow_run = _flow_run(made)
    listener = PrefectArtifacts(made.store)
    listener.run_started(made.run, made.graph, tmp_path)
    short, long = (made.graph.nodes[i] for i in ("policy@1", "policy@2"))
    for node in (short, long):
        listener.step_started(node, "never run", tmp_path)
    listener.step_progress(short, 1, 2, "steps")
    listener.step_finished(short, made.records["policy@1"], hit=False, reason="")
    time.sleep(0.3)
    listener.step_progress(long, 30, 120, "steps")
    end = time.monotonic() + 30
    while not (bars := _artifacts(flow_run)) and time.monotonic() < end:
        time.sleep(0.05)
    [bar] = bars
    assert (bar.type, bar.data, bar.description) == ("progress", 25.0, "round 2 · policy: 30 of 120 steps")
    listener.step_finished(long, made.records["policy@2"], hit=False, reason="")
    listener.run_finished(made.run)
    assert not [a for a in _artifacts(flow_run) if a.type == "progress"]


def test_a_bar_that_the_server_refuses_costs_no_result(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    create = SyncPrefectClient.create_artifact

    def refuse_bars(client: SyncPrefectClient, artifact: Any) -> Any:
        if artifact.type == "progress":
            raise TimeoutError("the database is locked")
        return create(client, artifact)

    monkeypatch.setattr(SyncPrefectClient, "create_artifact", refuse_bars)
    monkeypatch.setattr(prefect_artifacts, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(prefect_artifacts, "EVERY_SECONDS", 0.0)
    made = fabricate(tmp_path)
    flow_run = _flow_run(made)
    listener = PrefectArtifacts(made.store)
    listener.run_started(made.run, made.graph, tmp_path)
    for done in (1, 2, 3):
        listener.step_progress(made.graph.nodes["policy@2"], done, 3, "steps")
        time.sleep(0.1)
    listener.run_finished(made.run)
    assert listener.trouble == "Prefect did not take an artifact of this run: the database is locked"
    assert sorted(a.key for a in _artifacts(flow_run)) == ["sppo-results", "sppo-run"]
    assert [r.getMessage() for r in caplog.records if "artifact" in r.getMessage()] == [
        "Prefect did not take an artifact of this run: the database is locked"
    ]


def test_results_that_the_server_does_not_take_in_time_are_logged(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    done = threading.Event()
    monkeypatch.setattr(SyncPrefectClient, "create_artifact", lambda *_: done.wait(30))
    made = fabricate(tmp_path)
    sender = prefect_artifacts.Sender(str(_flow_run(made)))
    sender.close([prefect_artifacts.PageArtifact("markdown", "", "")], seconds=0.2)
    done.set()
    assert [r.getMessage() for r in caplog.records if "artifact" in r.getMessage()] == [
        "Prefect did not take an artifact of this run: it did not take the results within 0.2 s"
    ]


def test_a_server_that_is_gone_is_logged_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = fabricate(tmp_path)
    made.run.links["prefect"] = "7f6f6a2e-5b0e-4a51-9a39-1d6f0b1f6f10"
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        listener = _tell(made)
        start = time.monotonic()
        listener.run_finished(made.run)
    assert time.monotonic() - start < prefect_artifacts.LAST_SECONDS + 1
    assert [r.message for r in caplog.records if "artifact" in r.message]


def test_the_summary_of_a_failed_run_has_the_failed_step_and_its_reason(tmp_path: Path) -> None:
    made = fabricate(tmp_path)
    made.run.status = "failed"
    step = made.run.steps["policy@2"]
    step.state, step.reason = "failed", "the loss | is not a number"
    made.run.notices = ["`labels` feeds no step"]
    found = run_results(made.store, finished_steps(made.store, made.run))
    message = summary(made.run, found, made.store.root, "").data
    assert "## sppo: failed" in message
    assert "- **round 2 · policy** failed: the loss \\| is not a number" in message
    assert "- `labels` feeds no step" in message
    assert "1 not done" in message
    assert "MLflow" not in message


def test_the_summary_links_the_report_among_the_artifacts_of_mlflow(tmp_path: Path) -> None:
    made = fabricate(tmp_path, rounds=1)
    found = run_results(made.store, finished_steps(made.store, made.run))
    message = summary(made.run, found, made.store.root, "#/experiments/1/runs/ab?workflowType=x").data
    assert "/#/experiments/1/runs/ab/artifacts/report.html?workflowType=x)" in message


def test_rows_are_those_of_the_command_line(tmp_path: Path) -> None:
    made = fabricate(tmp_path)
    rows = as_rows(run_results(made.store, finished_steps(made.store, made.run)))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[0]["row"] == "base vs. base"


def test_the_page_has_the_results_then_answers_side_by_side_then_where_to_look(tmp_path: Path) -> None:
    made = fabricate(tmp_path)
    table, page = last_artifacts(made.store, made.run, "")
    assert [a.key for a in (table, page)] == ["sppo-results", "sppo-run"]
    parts = ["## sppo: done", "| row | prompts |", "### Answers before and after", "### Where to look"]
    assert sorted(parts, key=page.data.index) == parts
    assert "The first 2 of 2 prompts of `round 2 · report`. P: that the answer after wins" in page.data
    swan = next(line for line in page.data.splitlines() if "does the swan" in line)
    assert swan.startswith("| where does the swan live ? | go away .")
    assert swan.endswith("| 0.90 |")


def test_text_of_models_is_plain_text_on_the_page() -> None:
    text = "<script>x</script>\n| *a* & [b](javascript:c)"
    assert _escaped("word " * 8) == "word word word word word word<br>word word"
    assert _escaped(text) == ("&lt;script&gt;x&lt;/script&gt;<br>\\| \\*a\\* &amp; \\[b\\]\\(javascript:c\\)")
