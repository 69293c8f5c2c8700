"""The project's own pipelines.yaml."""

from __future__ import annotations

from pathlib import Path
from time import process_time

from jsonschema import Draft202012Validator

from flows.wiring import check_pipelines, compile_pipeline, json_schema
from flows.wiring.tree import read

FILE = Path(__file__).parents[3] / "pipelines.yaml"


def test_every_pipeline_and_deployment_compiles(tmp_path: Path) -> None:
    verdicts = check_pipelines(FILE, kept=tmp_path)
    assert {(v.pipeline, v.deployment) for v in verdicts} >= {
        ("sppo", None),
        ("sppo", "nightly"),
        ("offline-dpo", None),
    }
    assert not [v.error for v in verdicts if v.error]


def test_the_schema_accepts_the_file(tmp_path: Path) -> None:
    errors = Draft202012Validator(json_schema(kept=tmp_path)).iter_errors(read(FILE).plain)
    assert not [f"{e.json_path}: {e.message}" for e in errors]


def test_a_warm_compile_takes_little_time(tmp_path: Path) -> None:
    compile_pipeline(FILE, "sppo", kept=tmp_path)
    begin = process_time()
    compile_pipeline(FILE, "sppo", kept=tmp_path)
    assert process_time() - begin < 0.2


def test_sppo_is_three_rounds_each_from_the_one_before(tmp_path: Path) -> None:
    graph = compile_pipeline(FILE, "sppo", kept=tmp_path)
    assert graph.headline == ("report@1", "report@2", "report@3")
    assert graph.nodes["completions@3"].inputs["policy"] == ("policy@2",)
    assert "floor" in graph.nodes
    trained = [n.id for n in graph.nodes.values() if n.task == "fit"]
    assert trained == ["base", "policy@1", "policy@2", "policy@3"]
