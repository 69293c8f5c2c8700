"""A deployment whose run waits for people: Prefect suspends it, and resuming it goes on with their answers."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.run.prefect.password import password_of_this_process
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.people.survey import Survey, next_question
from tests.flows.commands.processes import SECONDS, Started, alignflow, started
from tests.tasks.people.asked import judged

ASK = """
pipelines:
  ask:
    about: People label pairs.
    steps:
      pairs:  {task: read_preferences, source: pairs.jsonl, split: all}
      people: {task: load_oracle, oracle: {people: {survey: ask}}}
      judged: {task: judge_pairs, pairs: pairs, oracle: people, labels: likelier}
      thumbs: {task: labels, pairs: judged}
      again:  {task: load_oracle, oracle: {people: {survey: second}}}
      twice:  {task: judge_pairs, pairs: judged, oracle: again}
"""


class Deployed:
    """The project whose pipeline is deployed, and the client of its server."""

    def __init__(self, folder: Path, log: Started) -> None:
        self._folder, self.serving = folder, log

    def flow_run(self, id: str) -> Any:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(id))

    def wait_for(self, id: str, name: str) -> Any:
        """The flow run, once its state has this name."""
        end = time.monotonic() + 2 * SECONDS
        while (run := self.flow_run(id)).state.name != name:
            assert time.monotonic() < end, f"{run.state!r}\n{self.serving.output}\n{self.log}"
            assert run.state.name not in ("Failed", "Crashed"), f"{run.state!r}\n{self.log}"
            time.sleep(0.3)
        return run

    @property
    def log(self) -> str:
        return "\n".join(f.read_text() for f in (self._folder / "artifacts" / "logs").glob("serve.log"))

    def answer(self, survey: str) -> int:
        """Judge everything that a survey asks."""
        opened, count = Survey(self._folder / "artifacts" / "answers", survey), 0
        while question := next_question(opened, "ana"):
            opened.judge(judged(question.id, "ana", "x", at=time.time()))
            count += 1
        return count

    def resume(self, id: str) -> None:
        from prefect.flow_runs import resume_flow_run

        resume_flow_run(UUID(id))  # what the button Resume on its page does

    def runs(self) -> list[Run]:
        return list(Runs(Store(self._folder / "artifacts")).newest())


@pytest.fixture
def deployed(tmp_path: Path, server: str) -> Iterator[Deployed]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    (tmp_path / "pipelines.yaml").write_text(ASK)
    rows = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    env = {"PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": password_of_this_process()}
    alignflow("deploy", cwd=tmp_path, **env)
    with (
        temporary_settings({PREFECT_API_URL: server}),
        started("serve", cwd=tmp_path, log=tmp_path / "serve.log", **env) as serving,
    ):
        serving.wait_for("Ctrl-C ends this")
        yield Deployed(tmp_path, serving)


@pytest.mark.slow
def test_a_run_is_suspended_each_time_that_it_waits_and_ends_when_all_is_answered(deployed: Deployed) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("ask/manual")
        id = str(client.create_flow_run_from_deployment(deployment.id).id)
    deployed.wait_for(id, "Suspended")
    assert deployed.runs()[0].status == "waiting"
    assert deployed.answer("ask") == 4
    deployed.resume(id)
    while len(deployed.runs()) < 2 or deployed.runs()[0].status == "running":
        time.sleep(0.3)
    deployed.wait_for(id, "Suspended")
    second = deployed.runs()[0]
    states = {step.id: step.state for step in second.steps.values()}
    assert second.status == "waiting"
    assert (states["judged"], states["thumbs"], states["twice"]) == ("made", "made", "waiting")
    assert deployed.answer("second") == 4
    deployed.resume(id)
    deployed.wait_for(id, "Completed")
    last = deployed.runs()[0]
    assert (last.status, last.links["prefect"], len(deployed.runs())) == ("done", id, 3)
    assert "failed" not in deployed.serving.output
    assert "crashed" not in deployed.serving.output
