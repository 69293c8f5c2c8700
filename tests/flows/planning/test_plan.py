from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.planning.costs import StepCost
from flows.planning.plan import Plan, make_plan
from flows.python.codebase import tasks_in
from flows.store.keys import Choices
from flows.store.runs import Runs, RunStep
from flows.store.store import HowMade, Store
from flows.wiring.model import ChoiceValue, Graph, Node
from flows.wiring.where import Where
from tasks.kinds import Artifact
from tests.flows.codebases import code_index, write_files
from tests.flows.store.made import prompts

FILES = {
    "load.py": "def load_prompts(*, size):\n    return size\n",
    "select.py": """
        from tasks.declarations import Size

        def take_batch(table, *, index, size, wrap):
            return table

        def take_batch_size(step):
            return Size(step.params["size"])
        """,
    "sample.py": """
        from tasks import declarations
        from tasks.engine import draw

        LONGEST = 48

        def sample(policy, prompts, work, *, k):
            return draw(k)

        def sample_size(step):
            return declarations.Size(step.rows_of("prompts") * step.params["k"], step.params["k"])

        def sample_cost(step):
            return {"samples": step.rows, "tokens": declarations.AtMost(step.rows * LONGEST)}
        """,
    "engine.py": "def draw(k):\n    return k\n",
    "judge.py": """
        def compare(completions, oracle, work, others=None, *, rule):
            return rule(1)

        def compare_cost(step):
            answers = step.first("completions")
            return {"queries": answers.rows * (answers.k - 1)}
        """,
    "rules/short.py": "def short(x, *, limit):\n    return x\n",
    "rules/long.py": "def long(x, *, limit):\n    return x\n",
    "train.py": """
        def fit(policy, data, work, *, lr, epochs, batch):
            return data

        def fit_cost(step):
            return {"steps": -(-step.rows_of("data") // step.params["batch"]) * step.params["epochs"]}

        def fit_work(step):
            return fit_cost(step)["steps"] * step.params["batch"]
        """,
}
MODULES = {"load_prompts": "load", "take_batch": "select", "sample": "sample", "compare": "judge", "fit": "train"}


def node(id: str, task: str, inputs: Mapping[str, tuple[str, ...]] | None = None, **params: Any) -> Node:
    return Node(
        id=id, addresses=(id,), task=task, module=f"tasks.{MODULES[task]}", kind="Prompts", params=params, execution={},
        inputs=inputs or {}, lists=frozenset(), work=task != "take_batch",
        round=int(id.partition("@")[2]) if "@" in id else None, where=Where("pipelines.yaml"),
    )  # fmt: skip


def loop(rounds: int = 2, *, k: int = 4, lr: float = 0.1, rule: str = "short", limit: int = 3, size: int = 10) -> Graph:
    """all → (batch → answers → judged → policy) per round; the first policy is `base`."""
    nodes = [node("all", "load_prompts", size=100), node("base", "load_prompts", size=7)]
    for i in range(1, rounds + 1):
        policy = f"policy@{i - 1}" if i > 1 else "base"
        choice = ChoiceValue("rules", rule, {"limit": limit})
        nodes += [
            node(f"batch@{i}", "take_batch", {"table": ("all",)}, index=i, size=size, wrap=True),
            node(f"answers@{i}", "sample", {"policy": (policy,), "prompts": (f"batch@{i}",)}, k=k),
            node(f"judged@{i}", "compare", {"completions": (f"answers@{i}",)}, rule=choice),
            node(f"policy@{i}", "fit", {"policy": (policy,), "data": (f"answers@{i}",), "ref": (f"judged@{i}",)},
                 lr=lr, epochs=3, batch=8),
        ]  # fmt: skip
    return Graph("loop", "", "pipelines.yaml", {n.id: n for n in nodes}, {n.id: n.id for n in nodes}, {}, rounds, ())


def rows_of(n: Node) -> int:
    return {"load_prompts": n.params.get("size", 0), "take_batch": n.params.get("size", 0)}.get(n.task, 40)


Result = Callable[[Node, str], Artifact]


def table(n: Node, key: str) -> Artifact:
    """A table that differs for every key."""
    return prompts(*(f"{key[:6]}-{i}" for i in range(rows_of(n))))


class Project:
    """A project with the tasks above, and a store."""

    def __init__(self, folder: Path) -> None:
        self.root = write_files(folder / "project" / "tasks", FILES).parent
        self.store = Store(folder / "artifacts")

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.root / "tasks" / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def run(self, graph: Graph, *, only: set[str] | None = None, result: Result = table) -> list[str]:
        """Run a graph as an executor would, with tables that come from nowhere; gives the ids of the steps that ran."""
        choices = Choices(code_index(self.root), self.store.contents, self.root)
        run, ran, found = Runs(self.store).begin(graph.pipeline, {}), [], {}
        for n in (n for n in graph.nodes.values() if only is None or n.id in only):
            parents = {port: [found[i] for i in ids] for port, ids in n.inputs.items()}
            key = choices.prepare(n).key({port: [r.content for r in rs] for port, rs in parents.items()})
            record = self.store.record_of(key.digest)
            if record is None:
                made = HowMade(seconds=12.0, totals={"tokens": 800.0} if n.task == "sample" else {})
                record = self.store.publish(key, result(n, key.digest), parents=parents, made=made)
                ran.append(n.id)
            found[n.id] = record
            run.steps[n.id] = RunStep(n.id, n.addresses, n.task, n.title, n.round, "made", record.key, record.content)
        Runs(self.store).end(run, "done")
        return ran

    def plan(self, graph: Graph) -> Plan:
        return make_plan(replace(graph, packages=(tasks_in(self.root / "tasks"),)), self.store)

    def reasons(self, graph: Graph) -> dict[str, tuple[str, str]]:
        """State and reason of each step that is not cached."""
        return {s.node.id: (s.state, s.why) for s in self.plan(graph).steps if s.state != "cached"}

    def costs(self, graph: Graph) -> dict[str, StepCost]:
        return {s.node.id: s.cost for s in self.plan(graph).steps}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_on_an_empty_store_everything_is_to_run_because_it_never_ran(project: Project) -> None:
    planned = project.plan(loop(1))
    assert {s.state for s in planned.steps} == {"run"}
    assert {s.why for s in planned.steps} == {"never run"}
    assert [bool(s.key) for s in planned.steps] == [True, True, False, False, False, False]


def test_after_a_run_everything_is_cached_and_the_plan_has_the_records(project: Project) -> None:
    project.run(loop())
    planned = project.plan(loop())
    assert planned.counts() == {"cached": 10, "partial": 0, "run": 0, "open": 0}
    assert all(s.record and s.record.key == s.key and s.why.startswith("made 20") for s in planned.steps)
    assert planned.total == StepCost()


def test_a_changed_parameter_is_named_with_both_values_and_what_follows_is_open(project: Project) -> None:
    project.run(loop())
    found = project.reasons(loop(k=5))
    assert found == {
        "answers@1": ("run", "because `k` changed 4 → 5"), "judged@1": ("open", "waits for `answers@1`"),
        "policy@1": ("open", "waits for `answers@1` and 1 more"), "answers@2": ("run", "because `k` changed 4 → 5"),
        "judged@2": ("open", "waits for `answers@2`"), "policy@2": ("open", "waits for `policy@1` and 2 more"),
    }  # fmt: skip


def test_parameters_of_choices_and_other_choices_are_named(project: Project) -> None:
    project.run(loop(1))
    assert project.reasons(loop(1, limit=9))["judged@1"] == ("run", "because `rule.limit` changed 3 → 9")
    assert project.reasons(loop(1, rule="long"))["judged@1"] == (
        "run", "because `rule` changed short → long, `tasks/rules/long.py::long` is used now and 1 more",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "step", "why"),
    [
        ("rules/short.py", "return x", "return x * 2", "judged@1", "because `tasks/rules/short.py::short` changed"),
        ("engine.py", "return k", "return k + 0", "answers@1", "because `tasks/engine.py::draw` changed"),
    ],
)
def test_an_edited_function_is_named_by_file(
    project: Project, file: str, old: str, new: str, step: str, why: str
) -> None:
    project.run(loop(1))
    project.edit(file, old, new)
    assert project.reasons(loop(1))[step] == ("run", why)


def test_an_input_that_came_out_different_is_named_by_the_step_that_feeds_it(project: Project) -> None:
    project.run(loop(1))
    project.run(loop(1, k=5), only={"all", "base", "batch@1", "answers@1"})
    found = project.reasons(loop(1, k=5))
    assert found["judged@1"] == ("run", "because `answers@1` came out different")
    assert found["policy@1"] == ("open", "waits for `judged@1`")


def test_an_input_that_comes_out_equal_after_an_edit_cuts_the_work_off(project: Project) -> None:
    def same(n: Node, key: str) -> Artifact:
        return table(n, n.id)

    project.run(loop(1), result=same)
    project.edit("engine.py", "return k", "return k + 0")
    states = {s: state for s, (state, _) in project.reasons(loop(1)).items()}
    assert states == {"answers@1": "run", "judged@1": "open", "policy@1": "open"}
    assert project.run(loop(1), result=same) == ["answers@1"]
    assert project.reasons(loop(1)) == {}


def test_more_rounds_reuse_the_first_ones(project: Project) -> None:
    project.run(loop(2))
    found = project.reasons(loop(3))
    assert set(found) == {"batch@3", "answers@3", "judged@3", "policy@3"}
    assert found["batch@3"] == ("run", "round 3 has not run before")
    assert found["answers@3"] == ("open", "waits for `batch@3`")


def test_a_step_that_another_pipeline_made_is_cached_and_a_like_one_says_how_it_differs(project: Project) -> None:
    project.run(loop(1))
    other = replace(loop(1, lr=0.2), pipeline="other")
    why = "never run in this pipeline (nearest: `policy@1` of loop, but `lr` changed 0.1 → 0.2)"
    assert project.reasons(other) == {"policy@1": ("run", why)}


def test_a_step_fed_by_another_task_says_by_which(project: Project) -> None:
    graph = loop(1)
    project.run(graph)
    fed = replace(graph.nodes["judged@1"], inputs={"completions": ("batch@1",)})
    rewired = replace(graph, nodes={**graph.nodes, "judged@1": fed})
    assert project.reasons(rewired)["judged@1"] == ("run", "because `completions` is fed by `batch@1` now")


def test_damaged_content_is_the_reason_and_stays_in_place_of_an_explanation(project: Project) -> None:
    project.run(loop(1))
    before = {s.node.id: s.record for s in project.plan(loop(1)).steps}
    record = before["answers@1"]
    assert record
    (project.store.root / record.path / "table.arrow").write_bytes(b"noise")
    state, why = project.reasons(loop(1))["answers@1"]
    assert state == "run"
    assert why.startswith(f"its content Prompts/{record.content} was damaged; set aside in damaged/")


def test_work_that_was_stopped_is_partly_done(project: Project) -> None:
    project.run(loop(1), only={"all", "base", "batch@1"})
    key = project.plan(loop(1)).steps[3].key
    work = project.store.partial(key) / "work"
    work.mkdir(parents=True)
    (work / "shard-0.arrow").write_text("x")
    assert project.reasons(loop(1))["answers@1"] == ("partial", "never run")


def test_costs_are_samples_queries_and_steps_from_the_sizes_of_the_inputs(project: Project) -> None:
    planned = project.plan(loop(1, k=4, size=10))
    costs = {s.node.id: s.cost for s in planned.steps}
    assert costs["answers@1"].units == {"samples": 40, "tokens": 1920}  # 10 prompts, 4 answers each
    assert costs["judged@1"].units == {"queries": 120}  # each of 40 answers against the 3 others
    assert costs["policy@1"].units == {"steps": 15}  # ⌈40 / 8⌉ = 5 a pass, 3 passes
    assert planned.total.units == {"samples": 40, "tokens": 1920, "queries": 120, "steps": 15}
    assert planned.total.seconds is None


def test_time_and_tokens_are_scaled_from_the_former_record_of_the_task(project: Project) -> None:
    project.run(loop(1, k=4))
    cost = project.costs(loop(1, k=5))["answers@1"]
    assert cost.units == {"samples": 50, "tokens": 1000.0}
    assert cost.seconds == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("declared", "cost"),
    [
        ("declarations.AtMost(step.rows * 48, typical=False)", "50 samples · at most 2,400 tokens · 15 s"),
        ("declarations.AtMost(step.rows * 48)", "50 samples · 1,000 tokens · 15 s"),
        ("declarations.AtMost(step.rows * 8)", "50 samples · at most 400 tokens · 15 s"),
        ("declarations.AtMost(float('nan'))", "50 samples · 1,000 tokens · 15 s"),
    ],
)
def test_a_bound_gives_way_to_what_a_former_run_shows_where_that_is_typical(
    project: Project, declared: str, cost: str
) -> None:
    project.run(loop(1, k=4))  # 40 samples, 800 tokens, 12 s
    project.edit("sample.py", "declarations.AtMost(step.rows * LONGEST)", declared)
    assert project.costs(loop(1, k=5))["answers@1"].text() == cost
    assert project.plan(loop(1, k=4)).counts()["cached"] == 6, "a declaration is in no key"


@pytest.mark.parametrize(
    ("declared", "notice"),
    [
        ('1 / step.params["size"]', "sample.py:14: sample_cost failed (KeyError: 'size')"),
        ("[1]", "sample.py:13: sample_cost returned [1]"),
        ("{'samples': 'many'}", "sample_cost gave samples = 'many', which is not a number"),
        ("no_such_name", "sample.py:14: sample_cost failed (NameError: name 'no_such_name' is not defined)"),
    ],
)
def test_a_cost_that_cannot_be_computed_is_a_notice_and_no_cost(project: Project, declared: str, notice: str) -> None:
    project.edit("sample.py", '{"samples": step.rows, "tokens": declarations.AtMost(step.rows * LONGEST)}', declared)
    planned = project.plan(loop(1))
    assert planned.steps[3].cost == StepCost()
    (text,) = planned.notices
    assert text.endswith(notice)


def test_a_sum_is_an_upper_bound_where_all_is_known_and_says_so_where_not(project: Project) -> None:
    first = project.plan(loop(1, k=5)).text()
    assert first.endswith("; 50 samples · 2,400 tokens · 200 queries · 21 steps, and what is not known yet")
    project.run(loop(1, k=4))
    planned = project.plan(loop(1, k=5))
    # sampling 12 s · 50/40, judging 12 s · 200/120, training 12 s · 21/15
    assert planned.text().endswith("; at most 50 samples · 1,000 tokens · 200 queries · 21 steps · 52 s")


def test_a_size_that_is_not_known_before_it_runs_is_a_question_mark(project: Project) -> None:
    graph = loop(1)
    whole = replace(graph.nodes["answers@1"], inputs={"policy": ("base",), "prompts": ("all",)})
    costs = project.costs(replace(graph, nodes={**graph.nodes, "answers@1": whole}))
    assert costs["answers@1"].text() == "? samples"


def test_the_text_has_a_line_per_step_and_the_sum(project: Project) -> None:
    project.run(loop(1))
    lines = project.plan(loop(1, lr=0.2)).text().splitlines()
    assert lines[0].startswith("cached       all")
    assert lines[5] == "to run       round 1 · policy   because `lr` changed 0.1 → 0.2  [15 steps · 12 s]"
    assert lines[-1] == "5 cached · 1 to run; at most 15 steps · 12 s"


def test_planning_writes_no_result_and_no_run(project: Project) -> None:
    project.plan(loop(1))
    assert {p.name for p in project.store.root.iterdir()} <= {".cache"} if project.store.root.exists() else True
