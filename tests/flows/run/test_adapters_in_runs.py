"""Adapters through a pipeline of real tasks at toy size: trained, gone on with, sampled from, and made again."""

import shutil
from pathlib import Path

import pytest

from flows.commands.export import export_to
from flows.planning.plan import make_plan
from flows.run.run import Execution, run_cached
from flows.store.maintenance import collect_garbage
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import SpecError
from tests.flows.inline import run_inline

WIRING = """
pipelines:
  tiny:
    about: An adapter of a random model, trained twice
    params: {lr: 1.0e-2, adapter: {lora: {rank: 2}}}
    steps:
      demos:   {task: load_demonstrations, source: toy, split: rm}
      some:    {task: take_batch, table: demos, index: 1, size: 8}
      base:    {task: init_policy, demonstrations: some, vocab: 300, hidden: 16, layers: 1, heads: 2, ffn: 16,
                positions: 192, max_new_tokens: 4}
      first:   {task: train, policy: base, data: some, loss: sft, lr: $lr, steps: 2, batch: 4, adapter: $adapter}
      second:  {task: train, policy: first, data: some, loss: sft, lr: $lr, steps: 2, batch: 4, adapter: $adapter}
      asked:   {task: load_prompts, source: toy, split: gate}
      prompts: {task: take_batch, table: asked, index: 1, size: 2}
      answers: {task: sample, policy: second, prompts: prompts, k: 2, engine: transformers}
"""
ADAPTERS = ("first", "second")


def _graph(folder: Path) -> Graph:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipelines.yaml").write_text(WIRING)
    return compile_pipeline(folder / "pipelines.yaml", "tiny", {})


def _run(folder: Path) -> Execution:
    return run_cached(Execution(_graph(folder), Store(folder / "artifacts")))


def test_adapters_have_equal_contents_in_two_folders_and_a_base_that_is_gone_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    one, other = _run(tmp_path / "one"), _run(tmp_path / "a" / "longer" / "path")
    assert not one.errors
    contents = {id: record.content for id, record in one.records.items()}
    assert contents == {id: record.content for id, record in other.records.items()}
    store, base = one.store, one.records["base"]
    assert {one.records[id].refers_to for id in ADAPTERS} == {(base.content,)}
    assert contents["first"] != contents["second"]
    assert collect_garbage(store, dry=True) == []
    shutil.rmtree(store.root / base.path)
    for id in ADAPTERS:
        assert "and that is gone: run the pipeline that made it" in store.lookup(one.records[id].key).reason
    with pytest.raises(
        SpecError, match=r"tiny/second cannot be exported: its base is Policy \w{12} \(made by `init_policy`"
    ):
        export_to(store, "tiny/second", tmp_path / "out")
    assert make_plan(one.graph, store).states["base"] == "run"
    again = _run(tmp_path / "one")
    assert [step.id for step in again.run.steps.values() if step.state == "made"] == ["base"]
    assert {f.name for f in export_to(store, "tiny/second", tmp_path / "out")} >= {"config.json", "model.safetensors"}
