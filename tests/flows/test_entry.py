"""Pipelines as Prefect flows: found by name, typed as the pipeline is, and run for real."""

import inspect
import os
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from prefect.exceptions import ParameterTypeError

from flows.run.prefect.api import send_pending
from flows.run.prefect.typed_flow import typed_flow
from flows.store.runs import Runs
from flows.store.store import Store
from flows.wiring.annotations import annotation
from flows.wiring.model import Parameter
from flows.wiring.types import Type, parse_type
from tasks.contract import Choice

BLANK = """
pipelines:
  init-policy:
    about: A policy that has learnt nothing.
    params: {world: toy, seed: 0}
    steps:
      rows:   {task: load_demonstrations, source: $world, split: rm}
      policy: {task: init_policy, demonstrations: rows}
"""


def _bare(annotated: Any) -> Any:
    return get_args(annotated)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int", int), ("float | None", float | None), ("list[str]", list[str]), ("Execution[bool]", bool),
        ("Literal['all', 'best_and_worst']", Literal["all", "best_and_worst"]),
    ],
)  # fmt: skip
def test_a_parameters_annotation_is_the_type_in_the_form(text: str, expected: Any) -> None:
    assert annotation(parse_type(text)) == expected


def test_a_choice_is_a_name_or_a_mapping_and_any_text_where_it_has_an_other() -> None:
    losses = annotation(Type("choice", options=("dpo", "ipo"), choice=Choice("losses")))
    assert [_bare(t) for t in get_args(losses)] == [Literal["dpo", "ipo"], dict[str, Any]]
    sources = annotation(Type("choice", options=("path", "toy"), choice=Choice("sources", other="path")))
    assert [_bare(t) for t in get_args(sources)] == [Literal["path", "toy"], dict[str, Any], str]


def test_bounds_are_kept_and_checked_before_the_flow_runs() -> None:
    ran: list[dict[str, Any]] = []
    rounds = Parameter("rounds", 3, parse_type("Annotated[int, Bounds(min=1)]"), "number of rounds")
    loss = Parameter("loss", "dpo", Type("choice", options=("dpo", "ipo"), choice=Choice("losses")))
    rates = Parameter("lr", [0.1], parse_type("Annotated[list[float], Bounds(above=0)]"))
    flow = typed_flow("tiny-one", "Does nothing.", {"rounds": rounds, "loss": loss, "lr": rates}, ran.append)
    assert flow.name == "tiny-one"
    assert flow.validate_parameters({"rounds": 1, "loss": {"ipo": {"beta": 1}}, "lr": [1]})["lr"] == [1.0]
    for wrong in ({"rounds": 0}, {"loss": "dop"}, {"lr": [0.0]}, {"rounds": "many"}):
        with pytest.raises(ParameterTypeError):
            flow.validate_parameters({"rounds": 1, "loss": "dpo", "lr": [1.0], **wrong})
    shown = flow.parameters.model_dump()["properties"]
    assert (shown["rounds"]["minimum"], shown["rounds"]["default"]) == (1, 3)
    assert shown["rounds"]["description"] == "number of rounds"
    assert shown["loss"]["anyOf"][0]["enum"] == ["dpo", "ipo"]
    assert shown["lr"]["items"]["exclusiveMinimum"] == 0
    assert ran == []


def test_a_parameter_without_a_value_is_required() -> None:
    both = {"y": Parameter("y", 1, Type("int")), "x": Parameter("x", None, Type("int"), required=True)}
    flow = typed_flow("t", "", both, lambda _: None)
    assert flow.parameters.required == ["x"]


@pytest.fixture
def blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipelines.yaml").write_text(BLANK)
    monkeypatch.setenv("ALIGNFLOW_FILE", str(tmp_path / "pipelines.yaml"))
    monkeypatch.setenv("ALIGNFLOW_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path


def test_the_module_has_every_pipeline_under_its_name(blank: Path) -> None:
    from flows import entry

    flow = entry.init_policy
    assert flow.name == getattr(entry, "init-policy").name == "init-policy"
    assert list(inspect.signature(flow.fn).parameters) == ["world", "seed", "max_skipped"]
    assert "A policy that has learnt nothing." in (flow.fn.__doc__ or "")
    with pytest.raises(AttributeError, match="no pipeline 'sppoo'; it has init-policy"):
        _ = entry.sppoo


def test_only_what_differs_from_the_defaults_is_an_override() -> None:
    from flows.entry import overrides_of

    shown = {n: Parameter(n, "toy") for n in ("world", "model")}
    assert overrides_of({"world": {"toy": {"seed": 1}}, "model": "toy"}, shown) == {"world": {"toy": {"seed": 1}}}


def test_a_requested_value_stays_also_where_it_is_the_default() -> None:
    from flows.entry import overrides_of

    shown = {n: Parameter(n, "toy") for n in ("world", "model")} | {"seed": Parameter("seed", 0)}
    values = {"world": "other", "model": "toy", "seed": 0}
    assert overrides_of(values, shown, {"world", "model"}) == {"world": "other", "model": "toy"}
    assert overrides_of(values, shown, {"world"}) == {"world": "other"}
    assert overrides_of(values, shown, set()) == {"world": "other"}
    assert overrides_of(values, shown, set(values)) == {"world": "other"}, "a form sends all of them"


def test_the_overrides_of_a_deployments_run_are_those_of_its_request(
    blank: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--param model=toy --param world=…`, where the file says `model: $world`: the model stays."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import entry

    file = blank / "pipelines.yaml"
    file.write_text(file.read_text().replace("seed: 0}", "seed: 0, model: $world}").replace(": $world,", ": $model,"))
    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
        run = client.create_flow_run(entry.init_policy, parameters={"model": "toy", "world": "other"})
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run.id))
        compiled: list[Any] = []

        class Compiled(Exception):
            pass

        def compile_pipeline(file: Path, name: str, overrides: dict[str, Any], **_: Any) -> None:
            compiled.append(overrides)
            raise Compiled

        flow = entry.init_policy
        monkeypatch.setattr(entry, "compile_pipeline", compile_pipeline)
        with pytest.raises(Compiled):
            flow.fn(world="other", seed=0, model="toy")
    assert compiled == [{"world": "other", "model": "toy"}]


def test_an_entrypoint_runs_the_pipeline_with_its_parameters(blank: Path, server: str) -> None:
    from prefect.flows import load_flow_from_entrypoint
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    root = Path(__file__).parents[2]
    updates: dict[Any, Any] = {PREFECT_API_URL: server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    before = os.getcwd()
    with temporary_settings(updates):
        os.chdir(root)
        try:
            flow = load_flow_from_entrypoint("flows/entry.py:init-policy")
            state = flow(seed=3, return_state=True)
        finally:
            os.chdir(before)
            send_pending()
    assert state.is_completed()
    store = Store(blank / "artifacts")
    [run] = Runs(store).newest("init-policy")
    assert (run.status, run.parameters["seed"]) == ("done", 3)
    assert {s.state for s in run.steps.values()} == {"made"}
    assert (store.root / "Policy" / run.steps["policy"].content / "model.safetensors").exists()
