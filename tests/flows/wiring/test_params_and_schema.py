# ruff: noqa: E501
"""Sweeps split at top-level commas; the JSON Schema accepts what compiles and refuses what editors should show."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flows.wiring.params import sweep_values
from flows.wiring.schema import json_schema
from flows.wiring.tree import parse_yaml
from tasks.contract import SpecError
from tests.flows.codebases import catalogue_of
from tests.flows.wiring.test_deployments import TEXT
from tests.flows.wiring.test_refusals import BASE, WRONG


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("dpo,ipo,{hinge: {beta: 0.05}}", ["dpo", "ipo", "{hinge: {beta: 0.05}}"]), ("1e-4, 2e-4", ["1e-4", "2e-4"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]), ("'a,b',c", ["'a,b'", "c"]),
        ("{dpo: {beta: 0.1, labels: soft}},dpo", ["{dpo: {beta: 0.1, labels: soft}}", "dpo"]), ("x", ["x"]),
    ],
)  # fmt: skip
def test_a_sweep_is_split_at_its_top_level_commas(text: str, values: list[str]) -> None:
    assert sweep_values(text) == values


@pytest.mark.parametrize("text", ["a,,b", "a,", "{a: 1", "[1,2", "'a", "a],b", ""])
def test_a_sweep_that_cannot_be_split_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="command line: cannot split"):
        sweep_values(text)


@pytest.fixture(scope="module")
def schema(tree: Path) -> dict[str, Any]:
    found = json_schema(catalogue_of(tree))
    Draft202012Validator.check_schema(found)
    return found


def _errors(schema: dict[str, Any], text: str) -> list[str]:
    tree = parse_yaml("pipelines:\n" + textwrap.indent(text, "  "), "f.yaml").plain
    return [f"{e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(tree)]


VARIANT = """
v:
  extends: p
  params: {lr: null, x: }
  steps: {judge: {oracle: {toy_judge: {sharpness: $x}}}, held: null}
  repeat: {times: null, start: {policy: null}, each: {lr: [1, 2]}, steps: {answers: {k: 3, temperature: null}}}
"""


@pytest.mark.parametrize("text", [BASE, TEXT, BASE + VARIANT])
def test_the_schema_accepts_what_compiles(text: str, schema: dict[str, Any]) -> None:
    assert not _errors(schema, text)


SHOWN = ["unknown task", "unknown choice", "unknown port or parameter", "unknown parameter of a choice", "unknown key of repeat",
         "unknown key of a pipeline", "reserved name", "bad step name", "bad parameter name", "missing port", "missing parameter",
         "bounds", "type", "bool is no int", "list", "item of a list", "literal", "two choices", "times below 1",
         "no reference", "dollar", "a step that is a number", "a list for one"]  # fmt: skip


@pytest.mark.parametrize("case", SHOWN)
def test_the_schema_refuses_what_can_be_seen_without_the_other_steps(case: str, schema: dict[str, Any]) -> None:
    old, new, *_ = WRONG[case]
    assert _errors(schema, BASE.replace(old, new))


def test_the_schema_offers_a_step_only_losses_by_which_its_task_can_train(schema: dict[str, Any]) -> None:
    offered = {
        folder: set(schema["$defs"][f"choice.{folder}"]["anyOf"][0]["enum"]) for folder in ("losses", "losses.reward")
    }
    assert offered == {"losses": {"dpo", "simpo", "kto", "sft", "sppo", "rank"}, "losses.reward": {"bradley_terry"}}


def test_the_schema_describes_tasks_and_parameters(schema: dict[str, Any]) -> None:
    tasks = {t["const"]: t["description"] for t in schema["$defs"]["mapping"]["properties"]["task"]["anyOf"]}
    assert tasks["sample"] == "K answers to each prompt."
    [sample] = [
        c["then"] for c in schema["$defs"]["mapping"]["allOf"] if c["if"]["properties"]["task"]["const"] == "sample"
    ]
    assert sample["properties"]["k"]["description"] == "answers per prompt."
    assert sample["properties"]["k"]["default"] == 4
    assert sample["required"] == ["policy", "prompts"]
