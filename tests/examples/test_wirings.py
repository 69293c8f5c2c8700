"""The wirings among the examples: four projects' loops are the shipped pipelines; the lab of `docs/extend` works."""

import math
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from flows.wiring.check_results import check_pipelines
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.kinds import WinRates
from tasks.skipped import RowLog
from tasks.workspace import LocalWorkspace

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "examples" / "peers.yaml"


@pytest.fixture(autouse=True)
def artifacts_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the parses of Python files are kept beside the pipelines file."""
    monkeypatch.setenv("ALIGNFLOW_ARTIFACTS", str(ROOT / "artifacts"))


def _steps(graph: Graph) -> dict[str, object]:
    """Step → what it computes, for the steps of the rounds."""
    return {n.id: (n.task, dict(n.params), dict(n.inputs)) for n in graph.nodes.values() if n.round}


@pytest.mark.parametrize("name", ["comal", "mnpo", "sppo"])
def test_a_peers_loop_is_that_of_the_shipped_pipeline(name: str) -> None:
    ours, shipped = (_steps(compile_pipeline(file, name)) for file in (PEERS, ROOT / "pipelines.yaml"))
    compared = {node for node in shipped if not node.startswith("report")}  # its baseline is measured once more there
    assert {node: ours[node] for node in compared} == {node: shipped[node] for node in compared}


def test_the_loop_of_online_rlhf_scores_then_trains_on_the_best_against_the_worst_from_the_last_policy() -> None:
    graph = compile_pipeline(PEERS, "online-rlhf-loop")
    second = {n.id.split("@")[0]: n for n in graph.nodes.values() if n.round == 2}
    order = [name for name in second if "/" not in name]
    assert order == ["batch", "completions", "scores", "win_probs", "new_pairs", "policy", "report"]
    assert second["policy/logps"].inputs["policy"] == ("policy@1",), "the reference is the last policy"


@pytest.mark.parametrize(("section", "lines"), [("comal", 15), ("mnpo", 15), ("sppo", 14), ("online-rlhf", 15)])
def test_each_loop_has_as_many_lines_as_the_readme_says(section: str, lines: int) -> None:
    text = PEERS.read_text().partition(f"[start:{section}]\n")[2].partition("  # --8<-- [end")[0]
    assert len(text.splitlines()) == lines <= 15
    name = text.strip().partition(":")[0]
    assert re.search(rf"\| `{name}`, {lines} lines \|", (ROOT / "README.md").read_text())


def test_every_pipeline_of_the_examples_compiles() -> None:
    for file in (PEERS, ROOT / "examples" / "lab.yaml"):
        assert [r.error for r in check_pipelines(file) if r.error] == []


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for name in [n for n in sys.modules if n.split(".")[0] == "lab"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("lab")
def test_the_source_of_cards_gives_its_splits_and_counts_lines_that_it_cannot_read(tmp_path: Path) -> None:
    from lab.sources.cards import cards, identity

    file = tmp_path / "cards.tsv"
    file.write_text("".join(f"question {i}?\tanswer {i}\n" for i in range(1, 10)) + "ten?\tten\nno tab\n")
    source, log = cards(path=str(file)), RowLog(LocalWorkspace(tmp_path / "work"), 0.5)
    table = source.demonstrations("train", "mixed", log).table
    assert table["completion"].to_pylist() == [f"answer {i}" for i in range(1, 10)]
    assert (log.read, [row.reason for row in log.skipped]) == (10, ["no tab between question and answer"])
    [held_out] = source.prompts("heldout", RowLog(log.work, 0)).table.to_pylist()
    assert [m["content"] for m in held_out["prompt"]] == ["ten?"]
    assert identity(online=False, base=tmp_path, path="cards.tsv") == {"cards": file}


@pytest.mark.usefixtures("lab")
def test_weights_follow_the_win_rates_and_have_mean_1_within_a_prompt(tmp_path: Path) -> None:
    from lab.weigh import weigh_by_wins

    def row(k: int, rate: float) -> dict[str, object]:
        return {
            "prompt_id": "p", "prompt": [{"role": "user", "content": "q"}], "completion_id": str(k), "completion": "a",
            "stream": 0, "k": k, "token_logps": [], "finish_reason": "stop", "win_rate": rate, "opponents": 2,
            "prompt_win_rates": [0.0, 1.0],
        }  # fmt: skip

    table = WinRates.of(pa.Table.from_pylist([row(0, 0.0), row(1, 1.0)]))
    weights = weigh_by_wins(table, LocalWorkspace(tmp_path / "work"), eta=math.log(3)).table["weight"].to_pylist()
    assert weights == pytest.approx([0.5, 1.5]), "exp(0) = 1 and exp(log 3) = 3, over their mean 2"
