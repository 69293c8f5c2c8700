"""Scorers that refer to other artifacts through a pipeline of real tasks at toy size: their keys, contents and ends."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.planning.plan import make_plan
from flows.run.run import Execution, run_cached
from flows.store.keys import Choices
from flows.store.lineage import training_tables
from flows.store.maintenance import collect_garbage, verify_store
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import DataError
from tasks.kinds import Ensemble, ImplicitReward
from tests.flows.inline import run_inline

WIRING = """
pipelines:
  tiny:
    about: Scorers of a random model and an adapter of it, and of a rule
    params: {lr: 1.0e-2}
    steps:
      demos:    {task: load_demonstrations, source: toy, split: rm}
      some:     {task: take_batch, table: demos, index: 1, size: 8}
      base:     {task: init_policy, demonstrations: some, vocab: 300, hidden: 16, layers: 1, heads: 2, ffn: 16,
                 positions: 192, max_new_tokens: 4}
      adapted:  {task: train, policy: base, data: some, loss: sft, lr: $lr, steps: 2, batch: 4,
                 adapter: {lora: {rank: 2}}}
      implicit: {task: implicit_reward, policy: adapted, ref: base, beta: 0.5}
      rule:     {task: load_oracle, oracle: toy_judge}
      both:     {task: ensemble, oracles: [implicit, rule], how: mean}
      asked:    {task: load_prompts, source: toy, split: gate}
      prompts:  {task: take_batch, table: asked, index: 1, size: 2}
      answers:  {task: sample, policy: base, prompts: prompts, k: 3, engine: transformers}
      probs:    {task: compare, completions: answers, oracle: both}
      scores:   {task: score, completions: answers, oracle: implicit}
      judged:   {task: pairs, completions: answers, win_probs: probs, rule: all_pairs}
      trained:  {task: train, policy: base, ref: base, data: judged, loss: dpo, lr: $lr, steps: 1, batch: 4}
"""


def _graph(folder: Path) -> Graph:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipelines.yaml").write_text(WIRING)
    return compile_pipeline(folder / "pipelines.yaml", "tiny", {})


def _run(folder: Path) -> Execution:
    return run_cached(Execution(_graph(folder), Store(folder / "artifacts")))


def _units(store: Store, graph: Graph, id: str) -> Sequence[str]:
    choices = Choices(store.code(graph.packages), store.contents, Path(graph.file).parent)
    return [*choices.prepare(graph.nodes[id]).reached.units]


def test_scorers_of_scorers_have_equal_contents_in_two_folders_and_a_member_that_is_gone_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    one, other = _run(tmp_path / "one"), _run(tmp_path / "a" / "longer" / "path")
    assert not one.errors
    contents = {id: record.content for id, record in one.records.items()}
    assert contents == {id: record.content for id, record in other.records.items()}
    store, records = one.store, one.records
    members = [records[id].content for id in ("implicit", "adapted", "base", "rule")]
    assert set(records["implicit"].refers_to) == {*members[1:3]}
    assert set(records["both"].refers_to) == {*members}
    assert collect_garbage(store, dry=True) == []
    assert verify_store(store) == []
    both = store.open(records["both"])
    assert isinstance(both, Ensemble)
    [implicit, rule] = both.members["member"]
    assert isinstance(implicit, ImplicitReward)
    assert (implicit.digest, rule.digest) == (members[0], members[3])
    assert implicit.members["policy"][0].base.digest == members[2]  # type: ignore[attr-defined]
    tables = {entry.content for entry in training_tables(store, contents["trained"])}
    assert contents["some"] in tables, "what trained the policy that judged trained the one that was judged by it"

    shutil.rmtree(store.root / records["adapted"].path)
    lost = f"its policy is Policy {members[1][:12]} (made by `fit` "
    assert store.lookup(records["implicit"].key).reason.startswith(lost)
    reason = store.lookup(records["both"].key).reason
    assert reason.startswith(f"its member is ImplicitReward {members[0][:12]}, which cannot be used: {lost}")
    assert reason.endswith("and that is gone: run the pipeline that made it again")
    with pytest.raises(DataError, match=r"Ensemble \w{12} \(ensemble\) cannot be used: its member is ImplicitReward"):
        store.open(records["both"])
    assert make_plan(one.graph, store).states["adapted"] == "run"
    again = _run(tmp_path / "one")
    assert [step.id for step in again.run.steps.values() if step.state == "made"] == ["adapted"]
    assert store.usability_error(records["both"]) == ""


def test_the_code_that_opens_a_scorer_and_its_members_is_in_the_keys_of_the_steps_that_query_it(tmp_path: Path) -> None:
    graph, store = _graph(tmp_path), Store(tmp_path / "artifacts")
    openers = ("reward_scorer.py::reward_scorer", "implicit_scorer.py::implicit_scorer",
               "ensemble_scorer.py::ensemble_scorer")  # fmt: skip

    def opened(id: str) -> list[bool]:
        units = _units(store, graph, id)
        return [any(unit.endswith(opener) for unit in units) for opener in openers]

    assert opened("probs") == [True, True, True]
    assert opened("scores") == [False, True, False]
    assert opened("both")[1], "an ensemble scores base samples by its members"
    assert opened("answers") == [False, False, False]
    assert graph.nodes["probs"].opens == {"Ensemble"}
