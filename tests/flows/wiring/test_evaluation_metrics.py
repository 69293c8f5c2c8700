"""`more` metrics of an evaluation: the steps that they add, and what they leave as it is."""

from pathlib import Path

import pytest

from flows.wiring.graph import compile_pipeline
from tasks.contract import SpecError
from tests.flows.wiring.conftest import Compile
from tests.flows.wiring.test_real_file import _contents


def test_more_metrics_change_no_step_that_was_there_before(shipped: Compile) -> None:
    plain, more = shipped("sppo"), shipped("sppo-evaluated")
    assert {*_contents(plain).values()} <= {*_contents(more).values()}
    joined = more.nodes["report@2"]
    assert (joined.task, more.headline) == ("join_reports", ("report@1", "report@2", "report@3"))
    names = ("measure", "length_controlled", "kl_to_previous", "diversity", "refusals", "bleu_and_rouge", "perplexity")
    assert joined.inputs["reports"] == tuple(f"report/{name}@2" for name in names)
    assert more.nodes["report/previous_logps@2"].inputs["policy"] == ("policy@1",)
    assert more.nodes["report/reference_logps@2"].inputs["policy"] == ("policy@2",)


def test_the_references_are_tokenized_once_for_all_rounds(shipped: Compile) -> None:
    tokenized = [n.id for n in shipped("sppo-evaluated").nodes.values() if "reference_rows" in n.id]
    assert tokenized == ["report/reference_rows@1"]


@pytest.mark.parametrize(
    ("port", "metric"), [("previous", "kl_to_previous"), ("references", "bleu_and_rouge"), ("references", "perplexity")]
)
def test_a_metric_without_the_port_that_it_needs_is_refused(tmp_path: Path, port: str, metric: str) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text(
        "pipelines:\n  mine:\n    extends: alignflow#sppo-evaluated\n"
        f"    params: {{more: [{metric}]}}\n    repeat: {{steps: {{report: {{{port}: null}}}}}}\n"
    )
    with pytest.raises(SpecError, match=f"`more` names {metric}, which needs the port `{port}`"):
        compile_pipeline(file, "mine")


def test_an_evaluation_samples_by_the_engine_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text(
        "pipelines:\n  mine:\n    extends: alignflow#sppo\n"
        "    repeat: {steps: {report: {engine: {vllm: {dtype: float32}}}}}\n"
    )
    graph = compile_pipeline(file, "mine", {"rounds": "1"})
    engines = {id: node.params["engine"] for id, node in graph.nodes.items() if node.task == "sample"}
    for side in ("report/sample@1", "report/baseline_sample@1"):
        assert (engines[side].name, engines[side].params["dtype"]) == ("vllm", "float32")  # type: ignore[union-attr]
    assert engines["base_check/sample"].name == "transformers"  # type: ignore[union-attr]
