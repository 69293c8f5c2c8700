# ruff: noqa: E501
"""What choices are called with: compiler, trainer and the folders' docstrings say the same."""

from __future__ import annotations

import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from flows.wiring import check_pipelines
from flows.wiring.builder import PYTHON, Builder
from flows.wiring.contracts import check_contract
from flows.wiring.signatures import Catalogue
from tasks import kinds
from tasks.contract import Chosen, SpecError
from tasks.families import CALLS, LOSSES, PAIR_COLUMNS
from tasks.training.examples import check_kind
from tests.flows.codebases import catalogue_of
from tests.flows.wiring.conftest import TREE

TABLES = ("Preferences", "Demonstrations", "Completions", "WinRates", "Labels", "Rankings")


def made(root: Path, **files: str) -> Catalogue:
    """A catalogue of the small tree with other files in it; `__` in a name stands for a slash."""
    for name, text in {**TREE, **{f"{n.replace('__', '/')}.py": t for n, t in files.items()}}.items():
        (root / "tasks" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "tasks" / name).write_text(textwrap.dedent(text))
    return catalogue_of(root / "tasks")


def refusal(root: Path, folder: str, text: str) -> str:
    """How the choice `mine` of a folder is refused; empty if it is not."""
    catalogue = made(root, **{f"{folder.replace('/', '__')}__mine": text})
    try:
        check_contract(catalogue.choice(folder, "mine", PYTHON, "mine"))
    except SpecError as e:
        return str(e)
    return ""


@pytest.mark.parametrize("folder", [*LOSSES, *CALLS])
def test_the_docstring_of_a_folder_lists_the_names_of_its_contract(folder: str) -> None:
    doc = import_module(f"tasks.{folder.replace('/', '.')}").__doc__ or ""
    listed = [name for line in re.findall(r"^- ([\w, ]+):", doc, re.M) for name in line.split(", ")]
    if folder == "pair_rules":
        assert listed == [*CALLS[folder].arguments, *PAIR_COLUMNS]
    else:
        assert listed == [*(LOSSES[folder].arguments if folder in LOSSES else CALLS[folder].arguments)]
    for kind in CALLS[folder].returns if folder in CALLS and folder != "deviations" else ():
        assert kind in doc
    for table in LOSSES[folder].tables if folder in LOSSES else ():
        assert table in doc


def test_every_choice_of_the_project_fits_its_folder() -> None:
    catalogue = Catalogue()
    for folder in ("losses", *CALLS):
        for name in catalogue.choices(folder):
            check_contract(catalogue.choice(folder, name, PYTHON, name))


def argument_sets(folder: str) -> list[tuple[str, ...]]:
    """Every argument beside the model's own, typing errors, arguments of two tables at once, none of the model."""
    family = LOSSES[folder]
    own, others = family.of_model, [n for n in family.arguments if n not in family.of_model]
    special = tuple(names[0] for names in family.tables.values() if names)
    return [
        own, *((*own, name) for name in others), (*own, own[0][:-1]), (*own, "kl_reference"), tuple(others[:1]),
        (*own, *special), family.arguments,
    ]  # fmt: skip


@pytest.mark.parametrize("folder", [f for f in LOSSES if LOSSES[f].tables])
def test_compiler_and_trainer_agree_on_what_a_loss_may_name_and_train_on(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed = set()
    for number, names in enumerate(argument_sets(folder)):
        text = f"def mine({', '.join(names)}) -> 'Tensor': ...\n"
        catalogue = made(tmp_path / str(number), **{f"{folder.replace('/', '__')}__mine": text})
        loss = Chosen(folder, "mine", {})
        module = ModuleType(loss.module)
        exec(text, module.__dict__)
        monkeypatch.setitem(sys.modules, loss.module, module)
        for kind in TABLES:
            verdicts = compiles(catalogue, folder, kind), trains(loss, kind)
            assert verdicts[0] == verdicts[1], f"({', '.join(names)}) on {kind}: compiler, trainer = {verdicts}"
            agreed.add(verdicts)
    assert agreed == {(True, True), (False, False)}


def compiles(catalogue: Catalogue, folder: str, kind: str) -> bool:
    builder = Builder(catalogue, "p")
    policy, data = (builder.carry(k, k, k, PYTHON) for k in ("Policy", kind))
    task = "train_reward" if LOSSES[folder].trains == "RewardModel" else "fit"
    try:
        builder.add("step", task, {"policy": policy, "data": data, "loss": "mine", "lr": 0.1})
    except SpecError:
        return False
    return True


def trains(loss: Chosen, kind: str) -> bool:
    try:
        check_kind(getattr(kinds, kind), loss)
    except SpecError:
        return False
    return True


WRONG = {
    "a typing error in a loss": ("losses/pairwise", """
        def mine(policy_chosen_logps: Tensor, policy_rejected_logps: Tensor,
                 ref_chosen_logp: Tensor) -> Tensor: ...
        """, r"mine\.py:3:10: the loss mine names the argument 'ref_chosen_logp'.*\(did you mean 'ref_chosen_logps'\?\)"),
    "an argument of another family": ("losses/reward", "def mine(scores, target_scores, mask) -> Tensor: ...",
        r"mine\.py:1:10: the loss mine names the argument 'scores'; .*choose one of \[chosen_scores, margin, rejected_scores\]"),
    "nothing of the model": ("losses/pointwise", "def mine(lengths) -> Tensor: ...",
        r"the loss mine names none of policy_logps, so that nothing could be learnt from it"),
    "two tables": ("losses/pointwise", "def mine(policy_logps, win_rate, label) -> Tensor: ...",
        r"the loss mine names win_rate \(of WinRates\), label \(of Labels\), and no table has all of these"),
    "no result": ("losses/rl", "def mine(logps, advantages): ...", r"says that it returns nothing; .*\[Tensor\]"),
    "no family": ("losses/other", "def mine(logps) -> Tensor: ...", r"lies in tasks/losses/other/; losses lie in one of"),
    "another order": ("kl_controllers", "def mine(kl, coefficient, samples) -> float: ...",
        r"mine\.py:1:10: mine has the positional arguments \(kl, coefficient, samples\); .*\(coefficient, kl, samples\)"),
    "too few": ("kl_controllers", "def mine(coefficient, _kl) -> float: ...", r"has the positional arguments"),
    "one too many": ("oracles", "def mine(model) -> Oracle: ...", r"are \(none: its parameters are keyword-only\)"),
    "an oracle of texts": ("oracles", "def mine() -> str: ...", r"mine says that it returns 'str'"),
    "an engine of nothing": ("engines", "def mine(*, dtype: str = 'auto') -> Engine: ...", r"are \(policy\)"),
    "a rule of texts": ("deviations", "def mine(text: str) -> None: ...", r"returns 'None'; .*\[str\]"),
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
    verdicts = check_pipelines(file, tasks_root=tmp_path / "tasks")
    assert [v.pipeline for v in verdicts] == ["p", "tasks/losses/pairwise/unused.py"]
    assert "did you mean 'ref_chosen_logps'?" in verdicts[0].error
    assert re.search(r"dpo\.py:2:\d+: the loss dpo names .* step at .*pipelines\.yaml:7:7$", verdicts[0].error)
    assert "names none of policy_chosen_logps" in verdicts[1].error
