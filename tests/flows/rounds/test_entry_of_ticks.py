"""A deployment as a Prefect flow: its name, its form, and real ticks by its entrypoint."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from flows.rounds.head import Continuing
from flows.rounds.history import Stalled
from flows.rounds.ledger import Ledger
from flows.run.prefect.api import send_pending
from flows.store.runs import Runs
from flows.store.store import Store
from tests.flows.rounds.test_command import PIPELINES
from tests.flows.rounds.test_history import begun, finished
from tests.flows.tiny import ROOT

GATED = """
  gated:
    params: {rounds: 2, size: 20}
    steps:
      base: {task: load_policy, source: toy}
      rows: {task: load_prompts, source: toy, split: heldout}
      gold: {task: load_oracle, oracle: toy_gold}
    repeat:
      times: $rounds
      start: {policy: base}
      steps:
        policy: {task: checkpoint_at, policy: prev.policy, step: $size}
        report: {task: evaluate, policy: policy, baseline: base, prompts: rows, oracle: gold}
    deployments:
      nightly: {continue: {gate: report}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(PIPELINES + GATED)
    monkeypatch.setenv("ALIGNFLOW_FILE", str(path))
    monkeypatch.setenv("ALIGNFLOW_ARTIFACTS", str(tmp_path / "artifacts"))
    return path


@pytest.fixture
def client(server: str) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    updates: dict[Any, Any] = {PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    before = os.getcwd()
    with temporary_settings(updates):
        os.chdir(ROOT)
        yield server
        os.chdir(before)
        send_pending()


def test_a_deployment_is_found_by_pipeline_and_name_and_its_flow_is_the_pipelines(file: Path) -> None:
    from flows import entry

    flow = entry.growing_pool__every_night
    assert flow.name == "growing-pool"
    assert getattr(entry, "growing-pool__every-night").name == "growing-pool"
    shown = flow.parameters.model_dump()["properties"]
    assert list(shown) == ["rounds", "force", "world", "size", "max_skipped"]
    assert (shown["rounds"]["default"], shown["rounds"]["minimum"], shown["force"]["default"]) == (1, 1, False)
    assert "ticks to make" in shown["rounds"]["description"]
    with pytest.raises(ParameterTypeError):
        flow.validate_parameters({"rounds": 0})
    whole = entry.growing_pool__whole
    assert list(whole.parameters.model_dump()["properties"]) == ["world", "rounds", "size", "max_skipped"]
    with pytest.raises(AttributeError, match="has no pipeline 'growing_pool__nightly'"):
        _ = entry.growing_pool__nightly


def test_an_entrypoint_makes_ticks_in_one_flow_run(file: Path, client: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint("flows/entry.py:growing_pool__every_night")
    assert flow(rounds=2, size=30, return_state=True).is_completed()
    store = Store(file.parent / "artifacts")
    runs = list(Runs(store).newest("growing-pool"))
    assert [(r.deployment, r.status, r.rounds) for r in runs] == [
        ("every-night", "done", 2),
        ("every-night", "done", 1),
    ]
    assert len({r.links["prefect"] for r in runs}) == 1
    history = Ledger(store, "growing-pool", "every-night").history()
    assert [dict(r.begun.overrides) for r in history.rounds] == [{"size": 30}, {"size": 30}]
    pool = history.head.values["pool"]
    assert pool
    assert store.index.of_content(pool.digest)[0].rows == 60
    assert store.index.of_content(pool.digest)[0].kind == pool.kind
    state = flow(size=2000, return_state=True)
    assert state.is_failed()
    assert Ledger(store, "growing-pool", "every-night").history().open is not None


def test_a_stalled_deployment_ends_as_completed_with_a_state_of_that_name(file: Path, client: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    store = Store(file.parent / "artifacts")
    ledger = Ledger(store, "gated", "nightly")
    flow = load_flow_from_entrypoint("flows/entry.py:gated__nightly")
    loop = Continuing(file, "gated", "nightly", store)
    parameters = dict(loop.next_tick({}, ledger.history()).parameters)
    for number in (1, 2, 3):
        ledger.append(begun(number, **parameters))
        ledger.append(finished(number, accepted=False))
    state = flow(return_state=True)
    assert (state.name, state.is_completed()) == ("Stalled", True)
    assert "stalled: 3 consecutive rejections with these parameters since the head moved" in state.message
    assert isinstance(ledger.events()[-1], Stalled)
    assert flow(return_state=True).name == "Stalled"
    assert sum(isinstance(e, Stalled) for e in ledger.events()) == 1
    assert list(Runs(store).newest("gated")) == []
