"""A task, a loss and a metric of one's own package: what they declare is in the plan, among the parameters and in the
tables, without an edit in `flows` or `tasks`."""

import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from flows.commands.project import Project
from flows.planning.plan import Plan, make_plan
from flows.python.code_index import CodeIndex
from flows.python.codebase import Codebase
from flows.reporting.parameters import chosen_params
from flows.reporting.results import run_results, table
from flows.store.finished import FinishedStep
from flows.store.store import Store
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import SpecError
from tasks.kinds import Report
from tests.flows.store.made import put

SPELLING = '''
    """Spelling of answers."""

    from __future__ import annotations

    from no_such_package import spell

    from tasks.declarations import Cost, Evaluation, Metric, Resources, StepView
    from tasks.kinds import Completions, Report

    WORDS = 12


    def respell(completions: Completions, *, passes: int = 1) -> Completions:
        """Answers in their usual spelling.

        Args:
            passes: how often.
        """
        return spell(completions, passes)


    def respell_cost(step: StepView) -> Cost:
        return {"words": step.rows_of("completions") * WORDS * step.params["passes"]}


    respell_resources = Resources(exclusive=True)


    def spelling(completions: Completions) -> Report:
        """How many words are spelt wrongly."""
        return spell(completions)


    def spelling_evaluation(step: StepView) -> Evaluation:
        answers = step.inputs["completions"][0]
        return Evaluation("spelling", [(answers, answers.inputs["policy"])], answers.first("policy"))


    spelling_metrics = {
        "text/misspelt": Metric("misspelt\\n(95% CI)", ".1%", interval=True, ranks=True, higher_is_better=False),
        "text/words": Metric("words", ".1f"),
    }
    '''
SHARP = '''
    """A loss whose temperature divides."""

    from __future__ import annotations

    from torch import Tensor
    from torch.nn.functional import logsigmoid


    def sharp(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, *, tau: float = 1.0) -> Tensor:
        """Raises the chosen answer."""
        return -logsigmoid((policy_chosen_logps - policy_rejected_logps) / tau)


    def reward_scale(*, tau: float) -> float:
        return 1 / tau
    '''
PIPELINE = """
    extend: [./mylab]
    pipelines:
      mine:
        params: {tau: 0.25, lr: 1.0e-3}
        steps:
          base:    {task: load_policy, source: toy}
          prompts: {task: load_prompts, source: toy, split: policy}
          batch:   {task: take_batch, table: prompts, index: 1, size: 10}
          judge:   {task: load_oracle, oracle: toy_judge}
          answers: {task: sample, policy: base, prompts: batch, k: 2}
          spelt:   {task: respell, completions: answers, passes: 3}
          probs:   {task: compare, completions: spelt, oracle: judge}
          pairs:   {task: pairs, completions: spelt, win_probs: probs, rule: best_and_worst}
          policy:  {task: train, policy: base, data: pairs, loss: {sharp: {tau: $tau}}, lr: $lr}
          heldout: {task: load_prompts, source: toy, split: heldout}
          said:    {task: sample, policy: policy, prompts: heldout}
          report:  {task: spelling, completions: said}
    """


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {"mylab/spelling.py": SPELLING, "mylab/losses/pairwise/sharp.py": SHARP, "pipelines.yaml": PIPELINE}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text).lstrip())
    return tmp_path


def compiled(project: Path) -> Graph:
    return compile_pipeline(project / "pipelines.yaml", "mine")


def planned(project: Path) -> Plan:
    return make_plan(compiled(project), Store(project / "artifacts"))


def test_the_plan_has_the_cost_of_a_task_whose_file_imports_what_is_not_there(project: Path) -> None:
    costs = {s.node.id: s.cost.text() for s in planned(project).steps}
    assert costs["spelt"] == "720 words"  # 10 prompts · 2 answers · 12 words · 3 passes
    assert costs["probs"] == "20 queries"
    assert "720 words" in planned(project).text().splitlines()[-1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SpecError('nothing to spell')", r"pipelines\.yaml:11:\d+: mine\.spelt: nothing to spell"),
        ("return 1 / 0", r"mine\.spelt: .*spelling\.py:\d+: respell_wiring failed \(ZeroDivisionError: .*\)"),
    ],
)
def test_what_a_task_refuses_is_refused_at_the_step_and_its_mistakes_are_named(
    project: Path, body: str, message: str
) -> None:
    file = project / "mylab" / "spelling.py"
    check = f"\n\ndef respell_wiring(step):\n    from tasks.contract import SpecError\n    {body}\n"
    file.write_text(file.read_text() + check)
    with pytest.raises(SpecError, match=message):
        compiled(project)


def test_a_declaration_is_in_no_key(project: Path) -> None:
    """Neither its code nor that it is there."""

    def digest() -> str:
        return CodeIndex(Codebase(compiled(project).packages)).reach("mylab.spelling", "respell").digest

    before, file = digest(), project / "mylab" / "spelling.py"
    text = file.read_text()
    file.write_text(text.replace("* WORDS", "* 2 * WORDS") + "\n\nspelling_resources = Resources(exclusive=True)\n")
    assert "2 * WORDS" in file.read_text()
    assert digest() == before
    file.write_text(text.replace("return spell(completions, passes)", "return spell(completions, passes + 1)"))
    assert digest() != before


def test_the_losss_own_parameter_is_the_kl_weight_of_the_run(project: Path) -> None:
    params = chosen_params(compiled(project))
    shown = {n: params[n] for n in ("algorithm", "kl_weight", "oracle", "pipeline/tau", "train/lr", "train/epochs")}
    assert shown == {
        "algorithm": "sharp", "kl_weight": "4.0", "oracle": "toy_judge", "pipeline/tau": "0.25", "train/lr": "0.001",
        "train/epochs": "1",
    }  # fmt: skip


def test_the_metric_has_its_column_in_its_own_format(project: Path) -> None:
    store = Project(project / "pipelines.yaml").store  # as `show` and `compare` open it
    rows = {"name": ["text/words", "text/misspelt"], "value": [11.52, 0.0612], "unit": ["words", "share"]}
    ends = {"ci_low": [10.0, 0.05], "ci_high": [12.0, 0.07], "n": [128, 128]}
    report = put(store, Report.of(pa.table({**rows, **ends})), "spelling")
    shown = table(run_results(store, [FinishedStep(("report",), None, report, False)]))
    assert {str(c.header): list(map(str, c.cells)) for c in shown.columns[2:]} == {
        "misspelt\n(95% CI)": ["6.1% (5.0%–7.0%)"], "words": ["11.5"],
    }  # fmt: skip
