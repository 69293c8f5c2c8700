"""A second world, of two new files: another base policy, other splits and oracles, under the shipped wirings."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.python.codebase import TASKS
from flows.wiring.graph import compile_pipeline
from flows.wiring.model import Graph
from tasks.contract import SpecError

FILE = TASKS.folder.parent / "pipelines.yaml"
MINI = """
from __future__ import annotations
from tasks.contract import WorldSpec

identity = None

def mini(*, size: int = 3) -> World:
    '''Sums.'''

def base_policy(add: Add, source: ChoiceSpec) -> Policy:
    answers = add("load_demonstrations", source=source, split="practice")
    return add("init_policy", demonstrations=answers, layers=source.params["size"])

world = WorldSpec(base_policy, {"practice": 9, "people": 10, "heldout": 5}, "people", "mini_taste", ("mini_taste",), ())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The tasks with the world `mini`."""
    root = tmp_path / "tasks"
    shutil.copytree(TASKS.folder, root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "sources/mini.py").write_text(MINI)
    (root / "oracles/mini_taste.py").write_text("identity = None\ndef mini_taste() -> Scorer: ...\n")
    return root


def compiled(root: Path, name: str, **overrides: Any) -> Graph:
    return compile_pipeline(FILE, name, overrides, tasks_root=root, cache=root.parent / "python.json")


def test_a_world_says_what_its_base_policy_is_who_labels_and_what_measures(root: Path) -> None:
    nodes = compiled(root, "offline-dpo", world="{mini: {size: 4}}", lr=1e-3, num_pairs=60).nodes
    assert nodes["base"].task == "init_policy"
    assert nodes["base"].params["layers"] == 4
    assert nodes["base/load_demonstrations"].params["split"] == "practice"
    assert nodes["pairs/load_prompts"].params["split"] == "people"
    assert nodes["pairs/sample"].params["k"] == 4  # 10 prompts · 6 pairs
    assert {n.params["oracle"].name for n in nodes.values() if n.task == "load_oracle"} == {"mini_taste"}  # type: ignore[union-attr]


def test_what_was_chosen_for_one_world_is_refused_for_another(root: Path) -> None:
    text = "world = 'mini' is not the world 'toy', which these values were chosen for; give lr=… as well"
    with pytest.raises(SpecError, match=text):
        compiled(root, "offline-dpo", world="mini")
    with pytest.raises(SpecError, match=r"'toy_judge' judges the prompts of the world 'toy' only.* 'mini'"):
        compiled(root, "sppo", world="mini", lr=1e-3)
    own = {"lr": 1e-3, "oracle": "mini_taste", "gold": "mini_taste"}
    with pytest.raises(SpecError, match=r"has no split 'policy'; choose one of \['practice', 'people', 'heldout'\]"):
        compiled(root, "sppo", world="mini", **own)
    assert compiled(root, "sppo", world="mini", split="people", **own).rounds == 3
    assert compiled(root, "sppo", model="mini", lr=1e-3).nodes["prompts"].params["source"].name == "toy"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def mini() -> World: ...\n", "must define `world`, a WorldSpec"),
        ("import nothing_there\ndef mini() -> World: ...\n", "No module named 'nothing_there'"),
    ],
)
def test_a_world_that_says_nothing_of_itself_is_refused(root: Path, text: str, message: str) -> None:
    (root / "sources/mini.py").write_text("from __future__ import annotations\n" + text)
    with pytest.raises(SpecError, match=message):
        compiled(root, "offline-dpo")
