"""W&B and trackio get a run as MLflow does, offline; writing it again changes nothing, and neither can fail a run."""

import re
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.reporting.sinks.pending import PendingRuns
from flows.reporting.sinks.tracking import chosen_servers
from flows.reporting.tracker import Tracker
from flows.store.runs import Runs
from tasks.contract import SpecError
from tests.flows.fabricated import Fabricated, fabricate


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "ALIGNFLOW_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def made(tmp_path: Path) -> Fabricated:
    return fabricate(tmp_path, rounds=1)


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else here."""
    monkeypatch.setattr("flows.reporting.tracker.try_to_write_report", lambda *_: None)


def _track(made: Fabricated, *servers: str) -> str:
    """Publish a run as it is published while it goes on. Returns the tracker's message."""
    tracker = Tracker(made.store, servers)
    tracker.run_started(made.run, made.graph, made.store.root / "logs" / made.run.id)
    for id, node in made.graph.nodes.items():
        tracker.step_finished(node, made.records[id], hit=False, reason="")
    tracker.run_finished(made.run)
    return tracker.close()


def _records(folder: Path) -> Iterator[Any]:
    """What an offline run holds: protobuf messages in LevelDB's log format, behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    [file] = folder.glob("*.wandb")
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too small for a header: the rest of a block is empty
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def _history(folder: Path, metric: str) -> list[tuple[int, float]]:
    rows = []
    for record in _records(folder):
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if metric in items:
            rows.append((record.history.step.num, float(items[metric])))
    return rows


@pytest.mark.usefixtures("_no_report")
def test_wandb_has_a_run_with_rounds_as_steps_and_its_trainings_in_its_group(made: Fabricated) -> None:
    pytest.importorskip("wandb")
    from PIL import Image

    figures = made.store.inside("figures", made.run.id)
    figures.mkdir(parents=True)
    Image.new("L", (2, 2)).save(figures / "win_rate.png")
    for _ in range(2):
        assert _track(made, "wandb") == ""
    files = [*(made.store.root / "wandb").glob("offline-run-*/run-*.wandb")]
    folders = {file.stem.removeprefix("run-"): file.parent for file in files}
    id = made.run.id
    assert sorted(folders) == [id, f"{id}-base", f"{id}-policy-1"]
    assert len(files) == 3, "written twice, there once"
    assert _history(folders[id], "eval/win_rate") == [(0, 0.49), (1, 0.62)]
    assert len(_history(folders[f"{id}-policy-1"], "train/loss")) == 40
    [run] = [r.run for r in _records(folders[f"{id}-policy-1"]) if r.HasField("run")]
    assert (run.run_group, run.job_type, run.display_name) == (id, "step", "round 1 · policy")
    config = {item.key: item.value_json for item in run.config.update}
    assert config["lr"] == "0.0005"
    assert config["written.Policy"] == f'"{made.records["policy@1"].content}"'
    files = {f.name for f in (folders[id] / "files").rglob("*") if f.is_file()}
    assert {"lineage.json", "resolved.yaml"} <= files
    assert any(name.startswith("win_rate") for name in files)
    assert Runs(made.store).load(id).links["wandb"] == id


@pytest.mark.usefixtures("_no_report")
def test_trackio_has_the_same_numbers_once(
    made: Fabricated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trackio = pytest.importorskip("trackio.sqlite_storage")
    for name in ("trackio.sqlite_storage.TRACKIO_DIR", "trackio.utils.TRACKIO_DIR"):
        monkeypatch.setattr(name, tmp_path / "trackio")
    for _ in range(2):
        assert _track(made, "trackio") == ""
    assert capfd.readouterr().out == ""
    storage = trackio.SQLiteStorage
    records = {r["id"]: r["name"] for r in storage.get_run_records("alignflow")}
    id = made.run.id
    assert {*records} == {id, f"{id}-base", f"{id}-policy-1"}
    rows = storage.get_logs("alignflow", records[id], run_id=id)
    assert [(r["step"], r["eval/win_rate"]) for r in rows if "eval/win_rate" in r] == [(0, 0.49), (1, 0.62)]
    assert len(storage.get_logs("alignflow", records[f"{id}-base"], run_id=f"{id}-base")) == 40
    config = storage.get_run_config("alignflow", records[id], run_id=id)
    assert (config["pipeline/k"], config["algorithm"], config["_Group"]) == (5, "sppo", id)


def test_servers_are_chosen_by_the_environment_or_else_by_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_servers(["mlflow", "wandb"]) == ("mlflow", "wandb")
    monkeypatch.setenv("ALIGNFLOW_TRACKING", "trackio, wandb,trackio")
    assert chosen_servers(["mlflow"]) == ("trackio", "wandb")
    monkeypatch.setenv("ALIGNFLOW_TRACKING", "tensorboard")
    with pytest.raises(SpecError, match="names 'tensorboard'; choose among mlflow, wandb, trackio"):
        chosen_servers(["mlflow"])


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(
    ("missing", "key", "message"),
    [
        ("wandb", "", "it needs the package wandb .*: pip install 'alignflow\\[wandb\\]'"),
        ("", "", "W&B at https://api.wandb.ai cannot be used: it has no API key: `wandb login`"),
        ("", "x" * 40, "W&B at http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_what_a_server_lacks_is_a_message_and_the_run_is_published_later(
    made: Fabricated, monkeypatch: pytest.MonkeyPatch, missing: str, key: str, message: str
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE")
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
        monkeypatch.setattr("flows.reporting.sinks.wandb_sink.SECONDS", 3.0)
    begun = time.monotonic()
    told = _track(made, "wandb")
    assert time.monotonic() - begun < 30
    assert re.search(message, told)
    assert PendingRuns(made.store, "wandb").ids() == [made.run.id]
    if not key:
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.delitem(sys.modules, missing, raising=False)
        later = made._replace(run=Runs(made.store).begin("sppo", {}))
        Runs(made.store).save(made.run)
        Runs(made.store).end(later.run, "done")
        _track(later, "wandb")
        assert PendingRuns(made.store, "wandb").ids() == []
        assert list((made.store.root / "wandb").glob(f"offline-run-*-{made.run.id}"))
