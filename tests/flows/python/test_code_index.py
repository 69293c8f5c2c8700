from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.python.packages import installed_versions, version
from flows.python.reached import Reached
from tasks.contract import SpecError
from tests.flows.codebases import code_index

Tree = Callable[..., Path]

TASK = """
    from tasks.tools import helper

    SCALE = 2

    def task(x: int) -> int:
        '''What it does.'''
        return helper(x) * SCALE

    def other():
        return 7
"""
TOOLS = """
    def helper(x):
        return x + 1

    def unused(x):
        return x + 2
"""


def reach(root: Path, module: str = "tasks.a", function: str = "task") -> Reached:
    return code_index(root).reach(module, function)


def reach_and_save(root: Path, cache: Path) -> Reached:
    index = code_index(root, cache)
    found = index.reach("tasks.a", "task")
    index.codebase.save()
    return found


def test_a_task_reaches_the_functions_and_constants_it_uses_and_nothing_else(tree: Tree) -> None:
    units = reach(tree(a=TASK, tools=TOOLS)).units
    assert list(units) == ["tasks/a.py::SCALE", "tasks/a.py::task", "tasks/tools.py::helper"]


def test_imports_inside_functions_and_attributes_of_modules_are_followed(tree: Tree) -> None:
    root = tree(
        a="""
            import tasks.deep.leaf
            import tasks.tools as t
            from tasks.deep import leaf as renamed

            def task():
                from tasks.inner import inside
                return inside() + t.helper(1) + tasks.deep.leaf.one() + renamed.two()
        """,
        tools=TOOLS,
        inner="def inside():\n    return 1\n",
        deep__leaf="def one():\n    return 1\n\ndef two():\n    return three()\n\ndef three():\n    return 3\n",
        deep____init__="",
    )
    assert set(reach(root).units) == {
        "tasks/a.py::task", "tasks/inner.py::inside", "tasks/tools.py::helper", "tasks/deep/leaf.py::one",
        "tasks/deep/leaf.py::two", "tasks/deep/leaf.py::three",
    }  # fmt: skip


def test_names_passed_on_by_another_module_lead_to_where_they_are_made(tree: Tree) -> None:
    root = tree(a="from tasks.middle import helper as h\n\ndef task():\n    return h(1)\n",
                middle="from tasks.tools import helper\n", tools=TOOLS)  # fmt: skip
    assert set(reach(root).units) == {"tasks/a.py::task", "tasks/tools.py::helper", "tasks/middle.py::<module>"}


def test_a_module_passed_as_a_value_counts_whole(tree: Tree) -> None:
    root = tree(a="import tasks.tools as t\n\ndef task():\n    return dir(t)\n", tools=TOOLS)
    assert {"tasks/tools.py::helper", "tasks/tools.py::unused"} <= set(reach(root).units)


def test_top_level_code_without_a_name_counts_wherever_its_file_counts(tree: Tree) -> None:
    root = tree(a="TABLE = {}\n\ndef task():\n    return TABLE\n\nTABLE['x'] = 1\nfor i in 'ab':\n    print(i)\n")
    before = reach(root).units
    assert set(before) == {"tasks/a.py::TABLE", "tasks/a.py::task", "tasks/a.py::<module>", "tasks/a.py::i"}
    tree(a="TABLE = {}\n\ndef task():\n    return TABLE\n\nTABLE['x'] = 2\nfor i in 'abc':\n    print(i)\n")
    after = reach(root).units
    assert [u for u in after if after[u] != before[u]] == ["tasks/a.py::<module>", "tasks/a.py::TABLE", "tasks/a.py::i"]


def test_a_fallback_for_a_missing_import_is_followed_and_type_checking_is_not(tree: Tree) -> None:
    root = tree(
        a="""
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            import torch

        try:
            import numpy as np
        except ImportError:
            np = None

        def task(x: torch.Tensor):
            return np.sum(x)
    """
    )
    found = reach(root)
    assert found.packages == {"numpy"}
    assert set(found.units) == {"tasks/a.py::<module>", "tasks/a.py::task"}


def test_kinds_are_followed_by_class_where_code_uses_them_and_not_where_annotations_name_them(tree: Tree) -> None:
    root = tree(
        a="from tasks.kinds import Labels, Prompts\n\ndef task(x: Labels):\n    return Prompts.of([])\n",
        kinds="import pyarrow\n\nclass Prompts:\n    of = pyarrow.table\n\nclass Labels:\n    of = pyarrow.table\n",
    )
    found = reach(root)
    assert set(found.units) == {"tasks/a.py::task", "tasks/kinds.py::Prompts"}
    assert found.packages == {"pyarrow"}


def test_packages_are_those_that_reached_code_uses_with_what_computes_behind_them(tree: Tree) -> None:
    root = tree(
        a="""
        import json
        import scipy.stats
        import polars as pl
        import yaml

        def task():
            import transformers as tf
            return tf.pipeline(pl.col("x"), json.dumps(1), yaml.dump(1))

        def other():
            return scipy.stats.norm()
    """
    )
    found = reach(root)
    assert found.packages == {"polars", "transformers", "torch", "tokenizers", "jinja2"}


def test_a_version_is_the_public_one_whatever_the_build() -> None:
    assert version("torch") == "2.13.0"
    assert version("vllm") == "0.32.0"
    assert version("deepspeed") == "absent"
    assert installed_versions(["python", "vllm"])["python"] == platform.python_version()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from tasks.tools import *\n\ndef task():\n    return helper(1)\n", "tasks/a.py:1: 'from tasks.tools imp"),
        ("from .tools import helper\n\ndef task():\n    return helper(1)\n", "tasks/a.py:1: relative imports"),
        ("from tasks.tools import helpr\n\ndef task():\n    return helpr(1)\n", "'tasks.tools.helpr' does not"),
        ("def task(:\n", "tasks/a.py:1:10"),
        ("def tusk():\n    return 1\n", "tasks/a.py has no top-level 'task'"),
        ("class C:\n    def m(self):\n        from tasks.p import f\n        return f()\n"
         "    def n(self):\n        from tasks.q import f\n        return f()\n",
         "tasks/a.py:6: 'f' is imported from two places"),
    ],
    ids=["star", "relative", "missing name", "syntax", "no task", "two places"],
)  # fmt: skip
def test_code_that_cannot_be_followed_is_refused(tree: Tree, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=r"tasks/a\.py") as refused:
        reach(tree(a=text, tools=TOOLS))
    assert message in str(refused.value)


def test_getattr_on_an_object_that_has_a_modules_name_is_allowed(tree: Tree) -> None:
    root = tree(
        a="import tasks.tools as tools\n\ndef task(tools, name):\n    return getattr(tools, name)\n", tools=TOOLS
    )
    assert "tasks/a.py::task" in reach(root).units


def test_a_warm_index_says_the_same_as_a_cold_one_and_sees_an_edit(tree: Tree, tmp_path: Path) -> None:
    root, cache = tree(a=TASK, tools=TOOLS), tmp_path / "code.json"
    cold = reach_and_save(root, cache)
    assert reach_and_save(root, cache) == cold
    tree(tools=TOOLS.replace("x + 1", "x + 9"))
    warm = reach_and_save(root, cache)
    assert [u for u in cold.units if cold.units[u] != warm.units[u]] == ["tasks/tools.py::helper"]


def test_every_file_of_this_project_can_be_followed() -> None:
    assert code_index(Path(__file__).parents[3]).faults() == {}
