# ruff: noqa: E501
"""What choices are called with: those that do not fit their folder are refused where they are wrong."""

import re
import textwrap
from pathlib import Path

import pytest

from flows.wiring.catalogue import Catalogue
from flows.wiring.check_results import check_pipelines
from flows.wiring.choices import PYTHON
from flows.wiring.contracts import check_contract
from tasks.contract import SpecError
from tests.flows.codebases import catalogue_of, write_files
from tests.flows.wiring.conftest import TREE


def made(root: Path, **files: str) -> Catalogue:
    """A catalogue of the small tree with other files in it; `__` in a name stands for a slash."""
    own = {f"{name.replace('__', '/')}.py": text for name, text in files.items()}
    return catalogue_of(write_files(root / "tasks", {**TREE, **own}))


def refusal(root: Path, folder: str, text: str) -> str:
    """How the choice `mine` of a folder is refused; empty if it is not."""
    catalogue = made(root, **{f"{folder.replace('/', '__')}__mine": text})
    try:
        check_contract(catalogue.choice(folder, "mine", PYTHON, "mine"))
    except SpecError as e:
        return str(e)
    return ""


WRONG = {
    "a typing error in a loss": ("losses/pairwise", """
        def mine(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
                 ref_chosen_logp: Tensor) -> Tensor: ...
        """, r"mine\.py:3:10: the loss mine names the argument 'ref_chosen_logp'.*\(did you mean 'ref_chosen_logps'\?\)"),
    "an argument of another family": ("losses/reward", "def mine(scores, label) -> Tensor: ...",
        r"mine\.py:1:18: the loss mine names the argument 'label'; .*\[chosen_scores, margin, mask, rejected_scores, scores, target_scores, win_prob\]"),
    "arguments of two tables of one family": ("losses/reward", "def mine(scores, margin) -> Tensor: ...",
        r"the loss mine names scores \(of Scores and Rankings\), margin \(of Preferences\), and no table has all of these"),
    "a reward scale of what is an invalid parameter": ("losses/pointwise", """
        def reward_scale(*, beta: float, floor: float = 0.0) -> float: ...
        def mine(policy_logps, *, tau: float = 1.0) -> Tensor: ...
        """, r"mine\.py:3:1: reward_scale beside the loss mine needs 'beta', which is not a parameter of the loss; .*\[tau\]"),
    "nothing of the model": ("losses/pointwise", "def mine(lengths) -> Tensor: ...",
        r"the loss mine names none of policy_logps .log-probability of .*, so that nothing could be learnt from it"),
    "two tables": ("losses/pointwise", "def mine(policy_logps, win_rate, label) -> Tensor: ...",
        r"the loss mine names win_rate \(of WinRates\), label \(of Labels\), and no table has all of these"),
    "no result": ("losses/rl", "def mine(logps, advantages): ...", r"returns nothing by its annotation.*\[Tensor\]"),
    "no family": ("losses/other", "def mine(logps) -> Tensor: ...", r"is in tasks/losses/other/; losses belong in one of"),
    "another order": ("kl_controllers", "def mine(kl, coefficient, samples) -> float: ...",
        r"mine\.py:1:10: mine has the positional arguments \(kl, coefficient, samples\); .*\(coefficient, kl, samples\)"),
    "too few": ("kl_controllers", "def mine(coefficient, _kl) -> float: ...", r"has the positional arguments"),
    "one too many": ("oracles", "def mine(model) -> Oracle: ...", r"are \(none: its parameters are keyword-only\)"),
    "an oracle of texts": ("oracles", "def mine() -> str: ...", r"mine returns 'str' by its annotation"),
    "an engine of nothing": ("engines", "def mine(*, dtype: str = 'auto') -> Engine: ...", r"are \(policy\)"),
    "a rule of texts": ("responses", "def mine(text: str) -> None: ...", r"returns 'None' by its annotation.*\[str\]"),
    "a source of lists": ("sources", "def mine(*, path: str) -> list: ...", r"choose one of \[Source, World\]"),
    "a column that is not there": ("pair_rules", """
        def mine(pairs: pl.DataFrame) -> pl.DataFrame:
            gap = (pl.col("a_win_rate") - pairs["b_winrate"]).alias("gap")
            return pairs.with_columns(gap).filter(pl.col("gap") > 0)
        """, r"mine\.py:3:41: mine reads the column 'b_winrate', .*\(did you mean 'b_win_rate'\?\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_choice_that_does_not_fit_its_folder_is_refused_where_it_is_wrong(case: str, tmp_path: Path) -> None:
    folder, text, wanted = WRONG[case]
    assert re.search(wanted, refusal(tmp_path, folder, text.strip("\n") if "\n" not in text else text))


def test_check_refuses_a_misspelt_declaration_beside_its_task_and_no_other_name(tmp_path: Path) -> None:
    made(tmp_path, work=TREE["work.py"] + """
        def sample_cots(step): ...
        def sample_rows(step): ...
        sample_metrics = {}
    """)  # fmt: skip
    (tmp_path / "pipelines.yaml").write_text("pipelines: {}\n")
    [found] = check_pipelines(tmp_path / "pipelines.yaml", tasks_root=tmp_path / "tasks")
    assert found.pipeline == "tasks/work.py"
    wanted = (
        r"work\.py:39:1: nothing reads 'sample_cots', which is named as .* task sample .*did you mean 'sample_cost'"
    )
    assert re.search(wanted, found.error), found.error


def test_check_names_a_broken_loss_with_the_step_that_uses_it_and_unused_ones_by_their_file(tmp_path: Path) -> None:
    typo = TREE["losses/pairwise/dpo.py"].replace("ref_chosen_logps", "ref_chosen_logp")
    made(tmp_path, losses__pairwise__dpo=typo, losses__pairwise__unused="def unused(p) -> Tensor: ...")
    file = tmp_path / "pipelines.yaml"
    file.write_text(
        textwrap.dedent("""
        pipelines:
          p:
            steps:
              base: {task: load_policy, source: toy}
              pairs: {task: read_preferences, source: ./x}
              policy: {task: train, policy: base, ref: base, data: pairs, loss: dpo, lr: 0.1}
        """)
    )
    results = check_pipelines(file, tasks_root=tmp_path / "tasks")
    assert [v.pipeline for v in results] == ["p", "tasks/losses/pairwise/unused.py"]
    assert "did you mean 'ref_chosen_logps'?" in results[0].error
    assert re.search(r"dpo\.py:2:\d+: the loss dpo names .* step at .*pipelines\.yaml:7:7$", results[0].error)
    assert "names none of policy_chosen_logps" in results[1].error
