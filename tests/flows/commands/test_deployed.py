"""Deployments on a real server, executed by real processes: typed, bounded, scheduled, refused, stopped, attacked.

All of it where a proxy is set that is not there.
"""

import base64
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from flows.commands.deploy import register_deployments
from flows.commands.deployments import ServePaths, deployments
from flows.run.prefect.password import client_settings, saved_password
from flows.run.prefect.server import running
from flows.store.runs import Run, Runs
from flows.store.store import Store
from tasks.contract import SpecError
from tests.flows.commands.processes import (
    NO_WAY_OUT,
    ROOT,
    Started,
    alignflow,
    command,
    free_port,
    gone,
    started,
    wait_until,
)
from tests.flows.commands.test_deploy import TINY


class Served(NamedTuple):
    """A project whose pages are up and whose deployments are registered; nothing executes them yet."""

    folder: Path
    url: str

    def ask(self, what: str, **body: Any) -> Any:
        """POST to the API, as one who knows the password."""
        basic = base64.b64encode(self.password.encode()).decode()
        end = time.monotonic() + 20
        while True:
            try:
                return json.loads(self.send(what, body, Authorization=f"Basic {basic}"))
            except HTTPError as e:
                if e.code != 503 or time.monotonic() > end:  # the database is busy; Prefect's client repeats that too
                    raise
            time.sleep(0.5)

    def send(self, what: str, body: Any, **headers: str) -> bytes:
        """POST to the API with these headers."""
        headers["content-type"] = "application/json"
        with urlopen(Request(f"{self.url}/{what}", json.dumps(body).encode(), headers), timeout=30) as answer:
            return bytes(answer.read())

    def state(self, flow_run: str) -> tuple[str, str]:
        """Name and message of a flow run's state."""
        [run] = self.ask("flow_runs/filter", flow_runs={"id": {"any_": [flow_run]}})
        return run["state_name"], run["state"]["message"] or ""

    @property
    def password(self) -> str:
        return saved_password(self.folder / "artifacts")

    @property
    def client(self) -> dict[str, str]:
        return client_settings(self.url, self.password)

    def deployments(self) -> dict[str, Any]:
        flows = {f["id"]: f["name"] for f in self.ask("flows/filter")}
        return {f"{flows[d['flow_id']]}/{d['name']}": d for d in self.ask("deployments/filter")}

    @property
    def place(self) -> ServePaths:
        return ServePaths(self.folder / "pipelines.yaml", self.folder / "artifacts")

    def deploy(self, name: str | None = None, **how: bool) -> str:
        """What `alignflow deploy` prints, without a process."""
        lines = register_deployments(self.place, deployments(self.place.file, name), only=name, **how)
        return " ".join(" ".join(lines).split())

    def alignflow(self, *arguments: str) -> str:
        return alignflow(*arguments, cwd=self.folder, **NO_WAY_OUT).stdout

    def prefect(self, *arguments: str, code: int | None = 0) -> str:
        """From another directory, which needs the address and the password."""
        message = command("prefect", "--no-prompt", *arguments, cwd=Path("/"), code=code, **self.client)
        return " ".join(message.split())

    def runs(self) -> list[Run]:
        return list(Runs(Store(self.folder / "artifacts")).newest())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "pipelines.yaml").write_text(TINY)
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    with started("up", *ports, cwd=folder, log=folder / "up.log", **NO_WAY_OUT) as pages:
        pages.wait_for("Ctrl-C ends both")
        url = running(folder / "artifacts")
        assert url
        found = Served(folder, url)
        found.alignflow("deploy")
        yield found
        everything = pages.everything()
        assert len(everything) >= 4
        assert pages.end(signal.SIGKILL) == -signal.SIGKILL
        assert gone(everything), "the servers end with `up`, however it ends"


@pytest.fixture(scope="module")
def executing(served: Served) -> Iterator[Started]:
    with started("serve", cwd=served.folder, log=served.folder / "serve.log", **NO_WAY_OUT) as process:
        process.wait_for("Ctrl-C ends this")
        yield process


def test_schedules_limits_and_forms_are_on_the_server(served: Served) -> None:
    found = served.deployments()
    assert set(found) == {"tiny/manual", "loop-heart/weekly", "loop-heart/manual"}
    weekly, manual = found["loop-heart/weekly"], found["tiny/manual"]
    [schedule] = weekly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * 1", "Europe/Berlin")
    assert weekly["global_concurrency_limit"]["limit"] == 1
    assert weekly["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert manual["schedules"] == []
    assert manual["global_concurrency_limit"] is None
    assert "demonstrations learned by heart" in manual["description"]
    form = manual["parameter_openapi_schema"]["properties"]
    assert form["size"]["minimum"] == 1
    assert form["lr"]["exclusiveMinimum"] == 0
    assert form["size"]["description"]
    assert form["size"]["default"] == 20
    assert set(weekly["parameter_openapi_schema"]["properties"]) >= {"rounds", "force", "lr"}


def test_a_schedule_has_its_next_runs_on_the_server(served: Served) -> None:
    of_weekly = {"id": {"any_": [served.deployments()["loop-heart/weekly"]["id"]]}}
    wait_until(lambda: served.ask("flow_runs/filter", deployments=of_weekly), str)
    assert {r["state_name"] for r in served.ask("flow_runs/filter", deployments=of_weekly)} == {"Scheduled"}


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("size=0", "0 is less than the minimum of 1"), ("lr=-1", "-1 is less than or equal to the minimum of 0"),
        ("siez=3", "'siez' The following parameters are available on the deployment: 'world', 'size'"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_with_its_bounds_or_the_names_there_are(
    served: Served, parameter: str, message: str
) -> None:
    assert message in served.prefect("deployment", "run", "tiny/manual", "--param", parameter, code=1)


def test_what_is_paused_stays_paused_and_what_is_gone_is_listed_and_removed_on_request(served: Served) -> None:
    file = served.folder / "pipelines.yaml"
    weekly = served.deployments()["loop-heart/weekly"]
    served.prefect("deployment", "schedule", "pause", "loop-heart/weekly", weekly["schedules"][0]["id"])
    message = "loop-heart/weekly 0 3 * * 1 (Europe/Berlin) (paused on the server)"
    assert message in served.deploy("loop-heart")
    assert served.deployments()["loop-heart/weekly"]["schedules"][0]["active"] is False
    file.write_text(TINY.replace("weekly:", "monthly:"))
    try:
        assert "– loop-heart/weekly" in served.deploy()
        assert "loop-heart/weekly" in served.deployments()
        assert "removed" in served.alignflow("deploy", "--prune")
        assert set(served.deployments()) == {"tiny/manual", "loop-heart/monthly", "loop-heart/manual"}
    finally:
        file.write_text(TINY)
        served.deploy(prune=True)


def test_what_another_file_or_store_has_deployed_is_taken_over_only_on_request(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in served.client.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pipelines.yaml").write_text(TINY)
    (tmp_path / "artifacts").mkdir()
    mine, found, before = served.place, deployments(served.place.file), served.deployments()
    others = [
        ServePaths(tmp_path / "pipelines.yaml", tmp_path / "artifacts"),
        ServePaths(mine.file, tmp_path / "artifacts"),
    ]
    for other in others:
        with pytest.raises(SpecError, match=r"loop-heart/weekly: from (?s:.*)--take-over") as refused:
            list(register_deployments(other, found))
        assert f"loop-heart/weekly: from {mine.file}, results in {mine.artifacts}" in str(refused.value)
    assert served.deployments() == before
    list(register_deployments(others[0], found, take_over=True))
    assert served.deployments()["loop-heart/weekly"]["job_variables"]["env"] == others[0].environment
    with pytest.raises(SpecError, match="--take-over"):
        served.deploy()
    served.alignflow("deploy", "--take-over")
    assert served.deployments()["loop-heart/weekly"]["job_variables"]["env"] == mine.environment


def test_prefects_own_commands_work_in_the_folder_and_deploy_the_generated_file(served: Served) -> None:
    served.alignflow("deploy", "--prefect-yaml")
    deployment = served.deployments()["tiny/manual"]
    message = command("prefect", "--no-prompt", "deploy", "--all", cwd=served.folder)
    assert message.count("successfully created") == 3
    again = served.deployments()["tiny/manual"]
    assert again["updated"] > deployment["updated"]
    same = ("entrypoint", "job_variables", "pull_steps", "tags", "work_pool_name", "enforce_parameter_schema")
    assert {name: again[name] for name in same} == {name: deployment[name] for name in same}
    weekly = served.deployments()["loop-heart/weekly"]
    assert weekly["global_concurrency_limit"]["limit"] == 1
    assert weekly["schedules"][0]["schedule"]["timezone"] == "Europe/Berlin"


def test_a_requested_run_goes_through_from_anywhere_and_leaves_where_to_look(
    served: Served, executing: Started
) -> None:  # fmt: skip
    message = served.prefect("deployment", "run", "tiny/manual", "--param", "steps=1", "--watch")
    assert "finished successfully" in message
    executing.wait_for("is completed")
    run = served.runs()[0]
    assert (run.status, run.parameters["steps"]) == ("done", 1)
    [shown] = [a for a in served.ask("artifacts/filter") if a["flow_run_id"] == run.links["prefect"] and a["key"]]
    assert shown["key"] == "tiny-run"
    assert f"alignflow show {run.id}" in shown["data"]
    [flow_run] = served.ask("flow_runs/filter", flow_runs={"id": {"any_": [run.links["prefect"]]}})
    assert flow_run["name"].startswith(f"{run.id} · ")


COMMAND = "touch attacked"


def test_a_web_page_gets_no_answer_from_the_server(served: Served) -> None:
    """What any page of the web could send to this machine, and what it could send under a name that points here."""
    basic = "Basic " + base64.b64encode(served.password.encode()).decode()
    attacks = [
        ({"Origin": "http://evil.example.org"}, 403),
        ({"Origin": "http://evil.example.org", "Authorization": basic}, 403),
        ({"Origin": "null", "Authorization": basic}, 403),
        ({"Host": "evil.example.org", "Origin": "http://evil.example.org", "Authorization": basic}, 403),
        ({"Host": "evil.example.org", "Authorization": basic}, 403), ({}, 401),
        ({"Authorization": "Basic " + base64.b64encode(b"alignflow:guess").decode()}, 401),
    ]  # fmt: skip
    for headers, code in attacks:
        with pytest.raises(HTTPError) as refused:
            served.send("flows/", {"name": "evil"}, **headers)
        assert refused.value.code == code
        assert "access-control-allow-origin" not in refused.value.headers
    assert "evil" not in {f["name"] for f in served.ask("flows/filter")}


def test_serve_executes_nothing_that_deploy_did_not_register(
    served: Served, executing: Started, tmp_path: Path
) -> None:
    """One who knows the password adds a deployment, changes the command of a run, and that of the whole work pool."""
    deployed = served.deployments()["tiny/manual"]
    place = {"work_pool_name": "alignflow", "job_variables": deployed["job_variables"]}
    script = {"prefect.deployments.steps.run_shell_script": {"script": COMMAND, "directory": str(tmp_path)}}
    added = served.ask("deployments/", name="evil", flow_id=deployed["flow_id"], pull_steps=[script], **place)
    command = {"command": COMMAND, "working_dir": str(tmp_path)}
    runs = {
        f"deployments/{added['id']}": {},
        f"deployments/{deployed['id']}": {"job_variables": command},
    }
    asked = {served.ask(f"{path}/create_flow_run", **body)["id"] for path, body in runs.items()}
    for flow_run in asked:
        wait_until(lambda id=flow_run: served.state(id)[0] == "Failed", lambda: executing.output)
    messages = sorted(served.state(id)[1] for id in asked)
    assert messages == [
        "refused: `alignflow deploy` did not register it",
        "refused: the run's own request or the work pool changes its command and working_dir",
    ]
    assert executing.output.count("is refused: ") == 2
    assert "Traceback" not in executing.output
    assert not (tmp_path / "attacked").exists()
    changed = {**deployed["job_variables"], "env": {**deployed["job_variables"]["env"], "PYTHONSTARTUP": "x"}}
    served.ask("deployments/", name="manual", flow_id=deployed["flow_id"], pull_steps=deployed["pull_steps"],
               entrypoint=deployed["entrypoint"], **{**place, "job_variables": changed})  # fmt: skip
    flow_run = served.ask(f"deployments/{deployed['id']}/create_flow_run")["id"]
    wait_until(lambda: served.state(flow_run)[0] == "Failed", lambda: executing.output)
    assert "its job_variables changed since" in served.state(flow_run)[1]
    served.deploy()


@pytest.mark.slow
def test_a_run_that_is_cancelled_on_the_pages_is_cancelled_everywhere(served: Served, executing: Started) -> None:
    served.prefect("deployment", "run", "tiny/manual", "--param", "steps=100001")
    logs = served.folder / "artifacts" / "logs"
    wait_until(lambda: (logs / _newest(served, 100001) / "policy.log").exists(), lambda: executing.output)
    run = served.runs()[0]
    served.ask(f"flow_runs/{run.links['prefect']}/set_state", state={"type": "CANCELLING"})
    executing.wait_for("is cancelled")
    assert "crashed" not in executing.output
    assert served.state(run.links["prefect"])[0] == "Cancelled"
    assert served.runs()[0].status == "stopped"


def test_a_run_whose_pipeline_no_longer_compiles_fails_with_the_place(served: Served, executing: Started) -> None:
    file, before = served.folder / "pipelines.yaml", len(served.runs())
    file.write_text(TINY.replace("task: take_batch, table: data, index: 1", "task: take_bach, table: data, index: 1"))
    try:
        served.prefect("deployment", "run", "tiny/manual", "--watch", code=None)
    finally:
        file.write_text(TINY)
    executing.wait_for("did you mean 'take_batch'")
    assert "pipelines.yaml:9:" in executing.output
    assert "is failed: " in executing.output
    assert "Traceback" not in executing.output + (served.folder / "artifacts" / "logs" / "serve.log").read_text()
    assert len(served.runs()) == before


def test_ending_it_stops_the_runs_and_leaves_no_process(
    served: Served, executing: Started
) -> None:  # fmt: skip
    """The last one that needs it."""
    served.prefect("deployment", "run", "tiny/manual", "--param", "steps=100000")
    logs = served.folder / "artifacts" / "logs"
    wait_until(lambda: (logs / _newest(served, 100000) / "policy.log").exists(), lambda: executing.output)
    everything = executing.everything()
    assert len(everything) >= 3
    assert executing.end(signal.SIGTERM) == 0
    assert "stopping 1 run" in executing.output
    assert gone(everything)
    run = served.runs()[0]
    assert (run.status, run.steps["policy"].state) == ("stopped", "stopped")
    assert run.parameters["steps"] == 100000
    assert served.state(run.links["prefect"])[0] == "Cancelled"


def _newest(served: Served, steps: int) -> str:
    return next((r.id for r in served.runs()[:1] if r.parameters["steps"] == steps), "none")


@pytest.mark.slow
def test_a_run_from_the_command_line_is_on_the_pages_that_are_up(served: Served) -> None:
    message = command("alignflow", "run", "tiny", "steps=2", cwd=served.folder, **NO_WAY_OUT)
    run = served.runs()[0]
    states = served.ask("flow_runs/filter", flow_runs={"id": {"any_": [run.links["prefect"]]}})
    assert [s["state_name"] for s in states] == ["Completed"]
    assert f"{served.url.removesuffix('/api')}/runs/flow-run/{run.links['prefect']}" in message
    assert "alignflow up" not in message
