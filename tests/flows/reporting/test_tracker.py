"""What MLflow gets of a run, that a cached run is as complete, and that MLflow never stops a run."""

import json
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import decompress

import pytest

from flows.reporting.results import run_results
from flows.reporting.sinks.mlflow_sink import EXPERIMENT, MlflowServer, tracking_uri
from flows.reporting.sinks.pending import PendingRuns
from flows.reporting.sinks.run_facts import run_name
from flows.reporting.tracker import Tracker
from flows.store.finished import finished_steps
from flows.store.runs import Runs
from tests.flows.fabricated import Fabricated, fabricate

ROOT = Path(__file__).parents[3]


def _track(made: Fabricated, hits: Sequence[str] = (), end: bool = True) -> Tracker:
    """A tracker that has received the events of the run as `Execution` sends them."""
    tracker = Tracker(made.store)
    tracker.run_started(made.run, made.graph, made.store.root / "logs" / made.run.id)
    for id, node in made.graph.nodes.items():
        tracker.step_finished(node, made.records[id], hit=id in hits, reason="")
    if end:
        tracker.run_finished(made.run)
    return tracker


def _client(made: Fabricated) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(made.store.root))


def _runs(made: Fabricated, where: str = "") -> list[Any]:
    client = _client(made)
    return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], where))


def _parent(made: Fabricated, id: str) -> Any:
    return _runs(made, f"tags.`alignflow.run` = '{id}'")[0]


def _children(made: Fabricated, parent: Any) -> dict[str, Any]:
    found = _runs(made, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return {r.data.tags["step"]: r for r in found}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, migrated once: that takes seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="module", autouse=True)
def _no_server() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture
def made(tmp_path: Path, database: Path) -> Fabricated:
    """A run of one round that MLflow has not got."""
    made = fabricate(tmp_path, rounds=1)
    shutil.copyfile(database, made.store.root / "mlflow.db")
    return made


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Fabricated:
    """One run made, and one of which every step was a hit."""
    made = fabricate(tmp_path_factory.mktemp("tracked"))
    shutil.copyfile(database, made.store.root / "mlflow.db")
    assert _track(made).close() == ""
    steps = {id: replace(step, state="hit") for id, step in made.run.steps.items()}
    again = made._replace(run=replace(made.run, id=made.run.id + "-again", steps=steps, links={}))
    assert _track(again, hits=list(made.graph.nodes)).close() == ""
    return made


def _history(made: Fabricated, run: Any, metric: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in _client(made).get_metric_history(run.info.run_id, metric))


def test_metrics_of_the_headline_have_the_round_as_step_and_base_against_base_at_nought(tracked: Fabricated) -> None:
    parent = _parent(tracked, tracked.run.id)
    assert parent.info.status == "FINISHED"
    assert _history(tracked, parent, "eval/win_rate") == [(0, 0.49), (1, 0.62), (2, 0.71)]
    assert _history(tracked, parent, "eval/win_rate_low") == [
        (0, pytest.approx(0.46)), (1, pytest.approx(0.59)), (2, pytest.approx(0.68))
    ]  # fmt: skip
    assert _history(tracked, parent, "eval/kl") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert _history(tracked, parent, "cost/oracle_queries") == [(0, 4.0), (1, 8.0), (2, 12.0)]
    assert _history(tracked, parent, "eval/best_win_rate") == [(2, 0.71)]
    assert _history(tracked, parent, "eval/kl_low") == []
    assert _history(tracked, parent, "cache/misses") == [(2, float(len(tracked.graph.nodes)))]


def test_a_run_of_hits_is_as_complete_as_the_one_that_made_them(tracked: Fabricated) -> None:
    first, again = _parent(tracked, tracked.run.id), _parent(tracked, tracked.run.id + "-again")
    for metric in ("eval/win_rate", "eval/gold", "eval/length", "cost/samples", "cost/seconds"):
        assert _history(tracked, first, metric) == _history(tracked, again, metric) != []
    mine, theirs = _children(tracked, first), _children(tracked, again)
    assert set(mine) == set(theirs) == {"base", "policy@1", "policy@2"}
    for step, run in theirs.items():
        assert _history(tracked, run, "train/loss") == _history(tracked, mine[step], "train/loss")
        assert len(_history(tracked, run, "train/loss")) == 40
        assert (run.data.tags["cached"], mine[step].data.tags["cached"]) == ("true", "false")
        assert run.data.tags["original_run"] == mine[step].info.run_id
    assert _history(tracked, again, "cache/hits") == [(2, float(len(tracked.graph.nodes)))]
    link = Runs(tracked.store).load(tracked.run.id + "-again").links["mlflow"]
    assert link.split("/")[1] == again.info.run_id


def test_lineage_names_every_digest_that_went_in_and_came_out(tracked: Fabricated) -> None:
    parent = _parent(tracked, tracked.run.id)
    assert parent.data.tags["used.heldout"] == tracked.records["heldout"].content
    assert parent.data.tags["written.policy:2"] == tracked.records["policy@2"].content
    assert parent.data.tags["written.report:1"] == tracked.records["report@1"].content
    child = _children(tracked, parent)["policy@2"]
    assert child.data.tags["used.policy"] == tracked.records["policy@1"].content
    assert child.data.tags["written.Policy"] == tracked.records["policy@2"].content
    data = child.inputs.dataset_inputs[0].dataset
    assert data.digest == tracked.records["heldout"].content[:32]
    assert json.loads(data.source)["uri"] == str(tracked.store.root / tracked.records["heldout"].path)


def test_parameters_are_few_and_the_whole_configuration_is_an_artifact(tracked: Fabricated, tmp_path: Path) -> None:
    parent = _parent(tracked, tracked.run.id)
    assert parent.data.params == {
        "pipeline": "sppo", "algorithm": "sppo", "rounds": "2", "pipeline/k": "5", "kl_weight": "0.1",
        "train/lr": "0.0005", "pipeline/max_tokens": "null",
    }  # fmt: skip
    child = _children(tracked, parent)["policy@1"]
    assert child.data.params == {"step": "policy@1", "loss": "sppo", "loss.eta": "10.0", "lr": "0.0005"}
    text = Path(
        _client(tracked).download_artifacts(parent.info.run_id, "config/resolved.yaml", str(tmp_path))
    ).read_text()
    assert "workers: 2" in text
    assert "choice: losses/pointwise/sppo" in text


def test_policies_are_external_models_of_their_digest_with_the_numbers_measured_on_them(tracked: Fabricated) -> None:
    client = _client(tracked)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    by_win_rate = client.search_logged_models(
        [experiment], order_by=[{"field_name": "metrics.eval/win_rate", "ascending": False}]
    )
    ordered = ["policy@2", "policy@1", "base"]
    assert [m.tags["digest"] for m in by_win_rate] == [tracked.records[i].content for i in ordered]
    best = by_win_rate[0]
    assert best.name == "sppo-round-2-policy"
    assert best.tags["path"] == str(tracked.store.root / tracked.records["policy@2"].path)
    assert best.params == {"step": "policy@2", "loss": "sppo", "loss.eta": "10.0", "lr": "0.0005"}
    assert {(m.key, m.value, m.dataset_digest) for m in best.metrics} >= {
        ("eval/win_rate", 0.71, tracked.records["heldout"].content[:32])
    }
    files = [p for p in (tracked.store.root / "mlruns").rglob("*") if p.suffix == ".safetensors"]
    assert files == []
    parent = _parent(tracked, tracked.run.id + "-again")
    assert {o.model_id for o in parent.outputs.model_outputs} == {m.model_id for m in by_win_rate}
    [version] = client.search_model_versions("name = 'sppo'")
    assert (version.tags["digest"], version.aliases) == (best.tags["digest"], []), "two runs, one content"


def test_the_pages_open_with_columns_and_charts_that_compare(tracked: Fabricated) -> None:
    tags = _client(tracked).get_experiment_by_name(EXPERIMENT).tags
    saved = json.loads(tags["mlflow.sharedViewState.alignflow"])
    assert saved["name"] == "Win rate, gold, KL"
    state = json.loads(decompress(b64decode(saved["state"].removeprefix("deflate;"))))
    assert state["selectedColumns"][:3] == ["metrics.`eval/win_rate`", "metrics.`eval/gold`", "metrics.`eval/kl`"]
    assert len(tags["mlflow.sharedViewState.alignflow"]) < 5000, "MLflow cuts longer tags"
    assert "(#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=" in tags["mlflow.note.content"]


def test_tags_with_digests_come_after_all_others(tracked: Fabricated) -> None:
    parent = _parent(tracked, tracked.run.id)
    for run in (parent, *_children(tracked, parent).values()):
        names = sorted(n for n in run.data.tags if not n.startswith("mlflow."))
        digests = [n for n in names if n.startswith(("used.", "written."))]
        assert digests
        assert names[-len(digests) :] == digests


def test_a_note_that_somebody_wrote_stays(made: Fabricated) -> None:
    id = MlflowServer(made.store.root, tracking_uri(made.store.root))._experiment
    _client(made).set_experiment_tag(id, "mlflow.note.content", "Ours: nightly runs")
    MlflowServer(made.store.root, tracking_uri(made.store.root))
    assert _client(made).get_experiment(id).tags["mlflow.note.content"] == "Ours: nightly runs"


def test_a_runs_name_has_its_overrides_and_a_cached_step_links_its_maker(tracked: Fabricated) -> None:
    assert run_name(tracked.run, {}) == _parent(tracked, tracked.run.id).info.run_name
    named = run_name(tracked.run, {"beta": None, "eta": 5.0, "loss": {"dpo": {"beta": 0.1}}})
    assert named.startswith("sppo eta=5.0 loss=dpo(beta=0.1) · ")
    assert len(run_name(tracked.run, {"text": "long " * 40})) == 60 + len(" · 11-21 15:30")
    first, again = (_children(tracked, _parent(tracked, tracked.run.id + end)) for end in ("", "-again"))
    assert f"runs/{first['policy@2'].info.run_id}?" in again["policy@2"].data.tags["mlflow.note.content"]


def test_figures_are_drawn_and_logged(tracked: Fabricated) -> None:
    files = {p.name for p in (tracked.store.root / "figures" / tracked.run.id).glob("*.png")}
    assert files == {"win_rate.png", "gold_vs_kl.png", "training_base.png", "training_policy.png"}
    logged = _client(tracked).list_artifacts(_parent(tracked, tracked.run.id).info.run_id, "figures")
    assert {Path(f.path).name for f in logged} == files


def test_the_report_is_written_at_the_end_and_opens_in_mlflow(tracked: Fabricated) -> None:
    written = tracked.store.root / "reports" / f"{tracked.run.id}.html"
    run = _parent(tracked, tracked.run.id).info.run_id
    logged = Path(_client(tracked).download_artifacts(run, "report.html"))
    assert logged.read_bytes() == written.read_bytes()
    assert b"Answers before and after" in logged.read_bytes()


def test_the_win_rate_figure_shows_every_round_its_interval_and_the_floor(tracked: Fabricated) -> None:
    from flows.reporting.figures.lines import metric_by_round

    results = run_results(tracked.store, finished_steps(tracked.store, tracked.run))
    figure = metric_by_round({"": results}, "eval/win_rate", "sppo")
    drawn = {tuple(round(float(y), 6) for y in line.get_ydata()) for line in figure.axes[0].lines}  # type: ignore[union-attr]
    assert {(0.62, 0.71), (0.49, 0.49), (0.5, 0.5), (0.59, 0.65), (0.68, 0.74)} <= drawn


def test_what_the_server_refuses_is_reported_and_the_rest_arrives(made: Fabricated) -> None:
    tracker = _track(made, end=False)
    tracker.deliveries[0].put(lambda to: to.server.metrics(made.run.id, [("a" * 300, 1.0, 0)], 0))
    tracker.run_finished(made.run)
    assert "refused" in tracker.close()
    assert PendingRuns(made.store, "mlflow").ids() == []
    assert _parent(made, made.run.id).info.status == "FINISHED"


def test_a_run_that_was_killed_is_closed_as_killed_by_the_next(made: Fabricated) -> None:
    made.run.status = "running"
    tracker = _track(made, end=False)
    tracker.close()
    assert _parent(made, made.run.id).info.status == "RUNNING"
    later = Tracker(made.store)
    later.left_open(made.run)
    Runs(made.store).end(made.run, "stopped")
    run = replace(made.run, id=made.run.id + "-later", links={}, extra={}, status="done")
    later.run_started(run, made.graph, made.store.root / "logs" / run.id)
    later.run_finished(run)
    assert later.close() == ""
    assert _parent(made, made.run.id).info.status == "KILLED"
    assert _history(made, _parent(made, made.run.id), "cost/samples"), "all that its records know is published"
    assert _parent(made, run.id).info.status == "FINISHED"


def test_two_processes_may_open_a_fresh_database_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from flows.reporting.sinks.mlflow_sink import MlflowServer, tracking_uri\n"
        f"root = Path({str(tmp_path)!r})\n"
        "MlflowServer(root, tracking_uri(root)).start(sys.argv[1], 't', {}, 1)\n"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    assert [(p.communicate(timeout=120)[1], p.returncode) for p in several] == [("", 0)] * 2


def test_a_run_that_ended_before_it_began_publishes_nothing(tmp_path: Path) -> None:
    made = fabricate(tmp_path, rounds=1)
    tracker = Tracker(made.store)
    tracker.run_finished(Runs(made.store).load(made.run.id))
    assert tracker.close() == ""
    assert not (made.store.root / "mlflow.db").exists()
