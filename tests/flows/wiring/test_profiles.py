# ruff: noqa: E501
"""Profiles: which steps run as several ranks, and what is refused before any work."""

import os
from pathlib import Path

import pytest

from flows.planning.plan import make_plan
from flows.store.store import Store
from flows.wiring.check_results import check_pipelines
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import SpecError

TEXT = """profiles:
  cards: {gpus: 2, ranks: {sample: 2}, sharding: ddp, timeout_minutes: 5}
  more: {ranks: {report: 2, report/sample: 3, compare: 1}}
  mixed:
    ranks: {answers: 2, sample: 3, evaluate: 4}
PROFILE
pipelines:
  p:
    params: {world: toy}
    steps:
      base: {task: load_policy, source: $world}
      prompts: {task: load_prompts, source: $world, split: policy}
      heldout: {task: load_prompts, source: $world, split: heldout}
      judge: {task: load_oracle, oracle: toy_gold}
      answers: {task: sample, policy: base, prompts: prompts, k: 2}
      other: {task: sample, policy: base, prompts: prompts, k: 3}
    after:
      report: {task: evaluate, policy: base, baseline: base, prompts: heldout, oracle: judge}
  q:
    steps:
      words: {task: load_prompts, source: toy, split: policy}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    (tmp_path / "pipelines.yaml").write_text(TEXT.replace("PROFILE\n", ""))
    monkeypatch.chdir(tmp_path)
    return Path("pipelines.yaml")


def _compiled(file: Path, profile: str, monkeypatch: pytest.MonkeyPatch, pipeline: str = "p", text: str = "") -> Graph:
    if text:
        file.write_text(TEXT.replace("PROFILE\n", f"  {profile}: {text}\n"))
    monkeypatch.setenv("ALIGNFLOW_PROFILE", profile)
    return compile_pipeline(file, pipeline)


def _ranks(graph: Graph) -> dict[str, int]:
    return {node.id: graph.ranks_of(node) for node in graph.nodes.values() if graph.ranks_of(node) > 1}


def test_without_a_profile_every_step_is_one_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _ranks(compile_pipeline(file, "p")) == {}
    graph = _compiled(file, "local", monkeypatch)
    assert (graph.profile.name, graph.profile.gpus, graph.profile.sharding) == ("local", None, "auto")


def test_ranks_are_given_by_task_and_by_step_and_what_is_more_precise_counts(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _ranks(_compiled(file, "mixed", monkeypatch)) == {
        "answers": 2, "other": 3, "report/sample": 3, "report/baseline_sample": 3, "report/compare": 4,
        "report/score": 4, "report/baseline_score": 4, "report/logps": 4,
    }  # fmt: skip
    assert _ranks(_compiled(file, "more", monkeypatch)) == {
        "report/sample": 3, "report/baseline_sample": 2, "report/compare": 2, "report/score": 2,
        "report/baseline_score": 2, "report/logps": 2,
    }  # fmt: skip
    assert _ranks(_compiled(file, "mixed", monkeypatch, "q")) == {}


def test_a_profile_of_gpus_holds_where_they_are(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b=80")
    graph = _compiled(file, "cards", monkeypatch)
    assert (graph.profile.gpus, graph.profile.sharding, graph.profile.timeout_minutes) == (2, "ddp", 5.0)
    assert _ranks(graph) == {"answers": 2, "other": 2, "report/sample": 2, "report/baseline_sample": 2}


REFUSED = {
    "cards": ("", "2:17: profiles.cards.gpus = 2; steps can use 0 GPUs of this machine"),
    "a": ("{gpu: 1}", "6:7: profiles.a has no key 'gpu'; choose one of [gpus, ranks, sharding, timeout_minutes, tracking] (did you mean 'gpus'?)"),
    "b": ("{gpus: 0}", "6:13: profiles.b.gpus = 0; it must be a whole number, at least 1"),
    "c": ("{sharding: fdsp}", "6:17: profiles.c.sharding = 'fdsp'; choose one of [auto, ddp, fsdp] (did you mean 'fsdp'?)"),
    "d": ("{timeout_minutes: soon}", "6:24: profiles.d.timeout_minutes = 'soon'; it must be a number above 0"),
    "e": ("{ranks: {sampel: 2}}", "6:15: profiles.e.ranks.sampel: there is no step or task of this name (did you mean 'sample'?); choose one of ["),
    "f": ("{ranks: {tokenize: 2}}", "6:15: profiles.f.ranks.tokenize: the task 'tokenize' cannot run as several ranks; choose one of ["),
    "g": ("{ranks: {prompts: 2}}", "6:15: profiles.g.ranks.prompts: in p this is 'load_prompts', which cannot run as several ranks"),
    "h": ("{ranks: {sample: 5}}", "6:23: profiles.h.ranks.sample = 5; without GPUs there are at most as many ranks as cores, and these are 4"),
    "i": ("{ranks: {sample: true}}", "6:23: profiles.i.ranks.sample = True; it must be a whole number, at least 1"),
    "j": ("{tracking: wandb}", "6:17: profiles.j.tracking = 'wandb'; it must be a list of mlflow, wandb, trackio"),
    "k": ("{tracking: [mlflow, wandbe]}", "6:26: profiles.k.tracking names 'wandbe'; choose one of [mlflow, trackio, wandb] (did you mean 'wandb'?)"),
}  # fmt: skip


@pytest.mark.parametrize("profile", REFUSED)
def test_what_a_profile_cannot_be_is_refused_at_its_place(
    file: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = REFUSED[profile]
    with pytest.raises(SpecError) as refused:
        _compiled(file, profile, monkeypatch, text=text)
    assert str(refused.value).startswith(f"pipelines.yaml:{message}")


def test_a_profile_names_where_runs_are_tracked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compile_pipeline(file, "p").profile.tracking == ("mlflow",)
    assert _compiled(file, "x", monkeypatch, text="{tracking: [trackio, mlflow]}").profile.tracking == (
        "trackio", "mlflow"
    )  # fmt: skip


def test_a_misspelt_profile_is_refused_with_those_that_are_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError) as refused:
        _compiled(file, "crads", monkeypatch)
    assert str(refused.value) == (
        "pipelines.yaml: there is no profile 'crads'; choose one of [cards, local, mixed, more] (did you mean 'cards'?)"
    )


def test_ranks_need_a_gpu_each_where_there_are_gpus(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b=80 GPU-c=80")
    with pytest.raises(SpecError, match=r"sample = 3; ranks need a GPU of their own, and this run may use 2$"):
        _compiled(file, "x", monkeypatch, text="{gpus: 2, ranks: {sample: 3}}")


def test_check_judges_every_profile_whatever_the_machine_is(file: Path) -> None:
    text = TEXT.replace("PROFILE\n", "  local: {}\n  wrong: {ranks: {fti: 2}}\n")
    file.write_text(text)
    errors = {r.pipeline: r.error for r in check_pipelines(file) if r.error}
    assert set(errors) == {"profile local", "profile wrong"}
    assert errors["profile local"].startswith("pipelines.yaml:6:3: profiles.local: 'local' is built in")
    assert "there is no step or task of this name (did you mean 'fit'?); choose one of [" in errors["profile wrong"]


def test_a_plan_shows_ranks_and_no_key_depends_on_them(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "artifacts")
    alone = {s.node.id: s.key for s in make_plan(compile_pipeline(file, "p"), store).steps}
    plan = make_plan(_compiled(file, "mixed", monkeypatch), store)
    assert {s.node.id: s.key for s in plan.steps} == alone
    shown = {s.node.id: s.needs_text for s in plan.steps if "ranks" in s.needs_text}
    assert {id: text.strip(" [").split(" · ")[-1] for id, text in shown.items()} == {
        "answers": "2 ranks]", "other": "3 ranks]", "report/sample": "3 ranks]", "report/baseline_sample": "3 ranks]",
        "report/compare": "4 ranks]", "report/score": "4 ranks]", "report/baseline_score": "4 ranks]",
        "report/logps": "4 ranks]",
    }  # fmt: skip


def test_a_step_that_needs_more_gpus_than_there_are_is_refused_by_the_plan(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(file.read_text().replace("k: 2}", "k: 2, engine: {vllm: {tensor_parallel: 3}}}"))
    store = Store(tmp_path / "artifacts")
    make_plan(compile_pipeline(file, "p"), store)
    monkeypatch.setenv("ALIGNFLOW_GPUS", "GPU-a=80 GPU-b=80")
    with pytest.raises(
        SpecError, match=r"^pipelines.yaml:14:7: p.answers needs 3 GPUs at a time, and this run may use 2$"
    ):
        make_plan(compile_pipeline(file, "p"), store)
