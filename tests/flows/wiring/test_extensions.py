"""`extend:`: a user's own package of tasks, composites, choices and data files beside the shipped ones."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.check import code_check_results
from flows.commands.list import choices, lines
from flows.python.code_index import CodeIndex
from flows.python.codebase import Codebase
from flows.store.content import Contents
from flows.store.keys import Choices
from flows.wiring.check_results import check_pipelines
from flows.wiring.graph import catalogue_for, compile_pipeline
from flows.wiring.model import Graph
from flows.wiring.schema import json_schema
from flows.wiring.text import PipelineFile
from flows.wiring.tree import read
from tasks.contract import Chosen, SpecError, data_file
from tests.flows.codebases import write_files

LOSS = """
    import torch
    from torch import Tensor
    from PACKAGE.helpers import scaled

    def softer(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, *, beta: float = 0.1) -> Tensor:
        '''A loss of my own.

        Args:
            beta: temperature.
        '''
        return -torch.nn.functional.logsigmoid(scaled(beta, policy_chosen_logps - policy_rejected_logps))
"""
LAB = {
    "names.py": "FIRST = 'first'\n",
    "helpers.py": "def scaled(beta, x):\n    return beta * x\n",
    "losses/pairwise/softer.py": LOSS,
    "oracles/terse.py": """
        from tasks.contract import data_file
        from tasks.kinds import Scorer

        identity = None

        def terse() -> Scorer:
            '''Prefers fewer words.'''
            return Scorer.scoring(scores)

        def scores(prompts, completions, truths):
            unit = float(data_file("unit.txt").read_text())
            return [-unit * len(c.split()) for c in completions]
    """,
    "data/unit.txt": "0.5",
    "tasks.py": """
        from tasks.kinds import Prompts

        def halved(prompts: Prompts) -> Prompts:
            '''The first half.'''
            return Prompts.of(prompts.table.slice(0, len(prompts) // 2))
    """,
    "composites.py": """
        from __future__ import annotations
        from PACKAGE.names import FIRST
        from tasks.contract import Add
        from tasks.kinds import Prompts

        def quartered(add: Add, prompts: Prompts) -> Prompts:
            return add("halved", name="second", prompts=add("halved", name=FIRST, prompts=prompts))
    """,
}
FILE = """
    extend: [./PACKAGE]
    pipelines:
      mine:
        extends: alignflow#offline-dpo
        params: {beta: null}
        steps:
          policy: {loss: softer}
          report: {task: evaluate, policy: policy, baseline: base, prompts: few, oracle: judge}
          all:    {task: load_prompts, source: toy, split: heldout}
          few:    {task: quartered, prompts: all}
          judge:  {task: load_oracle, oracle: terse}
      plain: {extends: alignflow#offline-dpo}
"""


def write_lab(folder: Path, package: str = "mylab", **changed: str) -> Path:
    """A file of pipelines, extended by a package; `changed` are files of it, written with `__` for `/` and no `.py`."""
    own = {f"{name.replace('__', '/')}.py": text for name, text in changed.items()}
    files = {"pipelines.yaml": FILE, **{f"{package}/{name}": text for name, text in {**LAB, **own}.items()}}
    write_files(folder, {name: text.replace("PACKAGE", package) for name, text in files.items()})
    return folder / "pipelines.yaml"


def keys(graph: Graph) -> dict[str, str]:
    """The key of every step, without its inputs."""
    choices = Choices(CodeIndex(Codebase(graph.packages)), Contents(), Path(graph.file).parent)
    return {id: choices.prepare(node).fixed.digest for id, node in graph.nodes.items()}


def test_a_users_tasks_composites_and_choices_are_named_like_shipped_ones(tmp_path: Path) -> None:
    file = write_lab(tmp_path)
    graph = compile_pipeline(file, "mine")
    modules = [graph.nodes[i].module for i in ("few/first", "few", "policy")]
    assert modules == ["mylab.tasks", "mylab.tasks", "tasks.train"]
    assert graph.nodes["policy"].params["loss"].module == "mylab.losses.pairwise.softer"  # type: ignore[union-attr]
    assert [v.error for v in check_pipelines(file)] == ["", ""]
    assert code_check_results(CodeIndex(Codebase(graph.packages))) == []
    catalogue = catalogue_for(PipelineFile(file))
    own = [" ".join(line.split()) for line in lines(choices(catalogue)) if "mylab" in line]
    assert own == [
        f"halved The first half. ({tmp_path}/mylab/tasks.py)", f"quartered ({tmp_path}/mylab/composites.py)",
        f"softer A loss of my own. ({tmp_path}/mylab/losses/pairwise/softer.py)",
        f"terse Prefers fewer words. ({tmp_path}/mylab/oracles/terse.py)",
    ]  # fmt: skip
    schema = json_schema(catalogue)
    assert not list(Draft202012Validator(schema).iter_errors(read(file).plain))
    assert list(Draft202012Validator(json_schema(catalogue_for(PipelineFile(Path("pipelines.yaml"))))).iter_errors(
        {"pipelines": {"p": {"steps": {"judge": {"task": "load_oracle", "oracle": "terse"}}}}}
    ))  # fmt: skip
    file.write_text(file.read_text().replace("loss: softer", "loss: softr"))
    with pytest.raises(SpecError, match=r"there is no such choice \(did you mean 'softer'\?\); "):
        compile_pipeline(file, "mine")


def test_no_key_knows_in_which_package_code_lies_and_extend_changes_no_other_key(tmp_path: Path) -> None:
    here = keys(compile_pipeline(write_lab(tmp_path / "a"), "mine"))
    there = keys(compile_pipeline(write_lab(tmp_path / "b", "otherlab"), "mine"))
    assert here == there
    shipped = keys(compile_pipeline(Path("pipelines.yaml"), "offline-dpo"))
    assert keys(compile_pipeline(tmp_path / "a" / "pipelines.yaml", "plain")) == shipped
    edited = write_lab(tmp_path / "a", helpers="def scaled(beta, x):\n    return beta * x * 2\n")
    after = keys(compile_pipeline(edited, "mine"))
    assert [id for id in here if here[id] != after[id]] == ["policy"]
    (tmp_path / "a/mylab/data/unit.txt").write_text("0.25")
    read_anew = keys(compile_pipeline(edited, "mine"))
    assert {id.split("/")[0] for id in after if after[id] != read_anew[id]} == {"judge"}


def test_what_a_task_is_given_finds_the_users_function_and_data_wherever_the_package_lies(tmp_path: Path) -> None:
    compile_pipeline(write_lab(tmp_path / "a"), "mine")
    scorer = Chosen("oracles", "terse", {})
    assert list(scorer().score([None], ["three short words"], [None])) == [-1.5]
    assert data_file("unit.txt") == tmp_path / "a/mylab/data/unit.txt"
    compile_pipeline(write_lab(tmp_path / "b", "otherlab"), "mine")
    assert scorer.module == "otherlab.oracles.terse"
    compile_pipeline(Path("pipelines.yaml"), "sppo")
    assert scorer.module == "tasks.oracles.terse"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"losses__reward__dpo": "def dpo(chosen_scores) -> Tensor: ..."},
         r"tasks/losses/pairwise/dpo\.py and .*mylab/losses/reward/dpo\.py both define the choice 'dpo'; rename one"),
        ({"tasks": "from tasks.kinds import Prompts\ndef sample(prompts: Prompts) -> Prompts: ..."},
         r"tasks/sample\.py and .*mylab/tasks\.py both define the task or composite 'sample'; rename one"),
        ({"losses__pairwise__softer": "from torch import *\ndef softer(policy_chosen_logps) -> Tensor: ..."},
         r"/mylab/losses/pairwise/softer\.py:1: 'from torch import \*' is refused"),
        ({"helpers": "import os\ndef scaled(beta, x):\n    return float(os.environ['X'])\n"},
         r"/mylab/helpers\.py:3: os\.environ is refused, because the key cannot follow it; .* or declare in UNKEYED"),
        ({"helpers": "def scaled(beta, x):\n    return open('mylab/data/unit.txt')\n"},
         "put the file into the folder data of its package"),
        ({"helpers": "from tasks.contract import data_file\ndef scaled(beta, x):\n    return data_file('no.txt')\n"},
         r"/mylab/helpers\.py:3: there is no file tasks/data/no\.txt or .*/mylab/data/no\.txt"),
        ({"oracles__terse": "from tasks.kinds import Scorer\ndef terse() -> Scorer: ..."},
         r"/mylab/oracles/terse\.py:2: 'terse' does not declare what it reads outside"),
        ({"helpers": "def scaled(:"}, r"/mylab/helpers\.py:1:12: invalid Python"),
    ],
)  # fmt: skip
def test_the_rules_of_shipped_code_hold_for_a_users_and_name_her_file(
    changed: dict[str, str], message: str, tmp_path: Path
) -> None:
    file = write_lab(tmp_path, **changed)
    with pytest.raises(SpecError, match=message):
        keys(compile_pipeline(file, "mine"))


def test_a_composite_that_fails_is_named_with_its_own_line(tmp_path: Path) -> None:
    composites = "from tasks.kinds import Prompts\ndef quartered(add, prompts: Prompts) -> Prompts:\n    return 1 / 0\n"
    with pytest.raises(
        SpecError, match=r"pipelines\.yaml:.*quartered failed at .*/mylab/composites\.py:3: ZeroDivision"
    ):
        compile_pipeline(write_lab(tmp_path, composites=composites), "mine")


def test_what_a_user_declares_to_change_no_result_is_allowed(tmp_path: Path) -> None:
    helpers = "import os\nUNKEYED = {'os.environ': 'only a path'}\ndef scaled(beta, x):\n    return os.environ['X']\n"
    assert keys(compile_pipeline(write_lab(tmp_path, helpers=helpers), "mine"))["policy"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("no-name", r"pipelines\.yaml:1:10: 'no-name' is an invalid name for a package; use letters, digits and _"),
        ("tasks", "'tasks' is the name of another package, which it would hide; choose another name"),
        ("json", "'json' is the name of another package"),
        ("torch", "'torch' is the name of another package"),
    ],
)
def test_a_folder_whose_name_cannot_be_imported_is_refused(folder: str, message: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    file = tmp_path / "pipelines.yaml"
    file.write_text(f"extend: [./{folder}]\npipelines: {{}}\n")
    with pytest.raises(SpecError, match=message):
        PipelineFile(file)


def test_a_file_takes_the_packages_of_the_files_that_it_inherits_from(tmp_path: Path) -> None:
    inherited = write_lab(tmp_path / "a", "alab")
    own = tmp_path / "pipelines.yaml"
    own.write_text(f"extend: [b/blab]\npipelines:\n  p: {{extends: {inherited}#mine}}\n")
    with pytest.raises(SpecError, match="there is no such folder"):
        PipelineFile(own)
    (tmp_path / "b/blab").mkdir(parents=True)
    assert [p.name for p in compile_pipeline(own, "p").packages] == ["tasks", "blab", "alab"]
    (tmp_path / "c/alab").mkdir(parents=True)
    own.write_text(own.read_text().replace("b/blab", "c/alab"))
    with pytest.raises(SpecError, match=r"a/pipelines\.yaml:2:10: extend: .*a/alab and .*c/alab \(.*\) have one name"):
        compile_pipeline(own, "p")


def test_the_command_line_extends_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_EXTEND", "")
    file = write_lab(tmp_path)
    file.write_text(file.read_text().replace("extend: [./mylab]\n", ""))
    without = CliRunner().invoke(app, ["check", "mine", "--file", str(file)])
    assert (without.exit_code, "there is no such" in without.output) == (2, True)
    extended = CliRunner().invoke(app, ["check", "mine", "--file", str(file), "--extend", str(tmp_path / "mylab")])
    assert extended.exit_code == 0, extended.output
