"""What `alignflow deploy` finds in a file, and what it refuses before it asks any server."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.commands import deploy as deploying
from flows.commands.deploy import register_deployments
from flows.commands.deployments import ServePaths, deployments, write_prefect_yaml
from flows.commands.serve import serve_deployments
from tasks.contract import DataError, SpecError
from tests.flows.commands.processes import alignflow, free_port

TINY = """
pipelines:
  tiny:
    about: demonstrations learned by heart
    params: {world: toy, size: 20, lr: 1.0e-3, steps: 2}
    steps:
      data:   {task: load_demonstrations, source: $world, split: sft}
      blank:  {task: init_policy, demonstrations: data}
      part:   {task: take_batch, table: data, index: 1, size: $size}
      policy: {task: train, policy: blank, data: part, loss: sft, lr: $lr, steps: $steps, max_length: 100}
  loop-heart:
    about: the same, in rounds
    params: {world: toy, rounds: 2, lr: 1.0e-3}
    steps:
      data:   {task: load_demonstrations, source: $world, split: sft}
      blank:  {task: init_policy, demonstrations: data}
    repeat:
      times: $rounds
      start: {policy: blank}
      steps:
        part:   {task: take_batch, table: data, index: $round, size: 10, wrap: true}
        policy: {task: train, policy: prev.policy, data: part, loss: sft, lr: $lr, steps: 1, max_length: 100}
    deployments:
      weekly:
        schedule: {cron: "0 3 * * 1", timezone: Europe/Berlin}
        continue: always
"""


@pytest.fixture
def place(tmp_path: Path) -> ServePaths:
    (tmp_path / "pipelines.yaml").write_text(TINY)
    return ServePaths(tmp_path / "pipelines.yaml", tmp_path / "artifacts")


def _edit(place: ServePaths, old: str, new: str) -> None:
    text = place.file.read_text()
    assert old in text
    place.file.write_text(text.replace(old, new))


def test_every_pipeline_has_its_own_deployments_and_one_without_a_schedule(place: ServePaths) -> None:
    found = {d.title: d for d in deployments(place.file)}
    assert list(found) == ["tiny/manual", "loop-heart/weekly", "loop-heart/manual"]
    weekly = found["loop-heart/weekly"]
    assert (weekly.cron, weekly.timezone, weekly.continues) == ("0 3 * * 1", "Europe/Berlin", True)
    assert weekly.executed(place)["entrypoint"].endswith("flows/entry.py:loop-heart__weekly")
    assert found["loop-heart/manual"].executed(place)["entrypoint"].endswith("flows/entry.py:loop-heart")
    assert found["tiny/manual"].cron is None


def test_a_file_may_give_the_manual_one_itself(place: ServePaths) -> None:
    _edit(place, "weekly:", "manual:")
    assert [d.title for d in deployments(place.file, "loop-heart")] == ["loop-heart/manual"]
    assert deployments(place.file, "loop-heart/manual")[0].continues


def test_all_refusals_come_at_once_and_nothing_is_deployed(place: ServePaths) -> None:
    _edit(place, "task: take_batch, table: data, index: 1", "task: take_bach, table: data, index: 1")
    _edit(place, "continue: always", "continue: {gate: policy}")
    with pytest.raises(SpecError) as refused:
        deployments(place.file)
    message = str(refused.value)
    assert "nothing is deployed" in message
    assert "  tiny: " in message
    assert "pipelines.yaml:9:" in message
    assert "loop-heart: " in message
    assert "the gate 'policy' must be a Report" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [("tniy", "did you mean 'tiny'"), ("loop-heart/wekly", "did you mean 'weekly'"), ("tiny/x", r"\[manual\]")],
)
def test_an_unknown_name_is_refused_with_the_near_miss(place: ServePaths, name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        deployments(place.file, name)


def test_a_schedule_needs_a_value_for_every_parameter(place: ServePaths) -> None:
    _edit(place, "rounds: 2, lr: 1.0e-3", "rounds: 2, lr: ")
    with pytest.raises(SpecError, match="loop-heart/weekly has a schedule, and needs a value for 'lr'"):
        deployments(place.file)


def test_without_a_server_the_error_shows_how_to_start_one(place: ServePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for what in (
        lambda: list(register_deployments(place, deployments(place.file))),
        lambda: serve_deployments(place.artifacts),
    ):
        with pytest.raises(DataError, match="start one with `alignflow up`"):
            what()


@pytest.mark.parametrize("arguments", [("deploy",), ("serve",), ("run", "tiny")])
def test_a_server_that_does_not_answer_is_one_message_and_exit_code_1(
    place: ServePaths, arguments: tuple[str, ...]
) -> None:  # fmt: skip
    url = f"http://127.0.0.1:{free_port()}/api"
    answer = alignflow(*arguments, cwd=place.file.parent, code=1, PREFECT_API_URL=url)
    assert f"no Prefect server answers at {url}" in answer.stderr
    assert not list(place.artifacts.glob("runs/*"))


def test_prefect_yaml_has_the_deployments_and_is_written_over_none_by_hand(place: ServePaths) -> None:
    from ruamel.yaml import YAML

    target = write_prefect_yaml(place, deployments(place.file))
    written = YAML(typ="safe").load(target.read_text())
    weekly = written["deployments"][1]
    assert weekly["name"] == "weekly"
    assert weekly["schedules"] == [{"cron": "0 3 * * 1", "timezone": "Europe/Berlin"}]
    assert weekly["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert weekly["work_pool"]["job_variables"]["env"]["ALIGNFLOW_FILE"] == str(place.file)
    assert "concurrency_limit" not in written["deployments"][0]
    assert write_prefect_yaml(place, deployments(place.file)) == target
    target.write_text("name: mine\n")
    with pytest.raises(DataError, match="was not written by alignflow"):
        write_prefect_yaml(place, deployments(place.file))


class Server:
    """Remembers what is registered, and refuses one deployment by its name."""

    def __init__(self, refused: str) -> None:
        self.there: dict[str, dict[str, Any]] = {"loop-heart/weekly": {"name": "weekly", "entrypoint": "old"}}
        self.refused = refused

    def create_flow_from_name(self, name: str) -> str:
        return name

    def create_deployment(self, flow_id: str, **fields: Any) -> None:
        if fields["name"] == self.refused and flow_id == "loop-heart":
            raise RuntimeError("no")
        self.there[f"{flow_id}/{fields['name']}"] = {"name": fields["name"], "entrypoint": fields["entrypoint"]}

    def read_deployment_by_name(self, title: str) -> Any:
        from prefect.exceptions import ObjectNotFound

        if title not in self.there:
            raise ObjectNotFound(RuntimeError(title))
        empty: dict[str, Any] = dict.fromkeys((
            "version", "description", "parameters", "path", "work_pool_name", "work_queue_name", "pull_steps",
            "enforce_parameter_schema", "parameter_openapi_schema", "job_variables", "global_concurrency_limit",
            "concurrency_options",
        ))  # fmt: skip
        return SimpleNamespace(
            **empty, id=title, flow_id=title.split("/")[0], tags=[], schedules=[], paused=False, **self.there[title]
        )

    def delete_deployment(self, id: str) -> None:
        del self.there[id]


def test_a_set_is_registered_whole_or_not_at_all(place: ServePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploying, "_form", lambda d: {})
    found, server = deployments(place.file), Server("manual")
    with pytest.raises(RuntimeError):
        deploying._register_all(server, place, found, "pool")  # type: ignore[arg-type]
    assert server.there == {"loop-heart/weekly": {"name": "weekly", "entrypoint": "old"}}
    server.refused = ""
    assert len(deploying._register_all(server, place, found, "pool")) == 3  # type: ignore[arg-type]
    assert server.there.keys() == {"tiny/manual", "loop-heart/weekly", "loop-heart/manual"}
    assert server.there["loop-heart/weekly"]["entrypoint"] != "old"


def test_a_deployment_keeps_the_profile_with_which_it_was_deployed(place: ServePaths) -> None:
    assert "ALIGNFLOW_PROFILE" not in place.environment
    with_cards = replace(place, profile="cards")
    [found] = deployments(place.file, "tiny/manual")
    env = found.executed(with_cards)["job_variables"]["env"]
    assert env == {**place.environment, "ALIGNFLOW_PROFILE": "cards"}
    assert with_cards.places == place.places  # another profile is no other deployment
