"""Edits of a small tree in ways that `tasks/` has no use of: registries, hooks of classes, state set on import.

The proof in `store/proof` edits the real tree.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tasks.contract import SpecError
from tests.flows.codebases import code_index

Tree = Callable[..., Path]

FILES = {
    "a": """
        import functools
        from dataclasses import dataclass
        from typing import ClassVar

        import numpy as np
        from numpy import mean as average

        import tasks.plugins
        from tasks.base import Rule
        from tasks.contract import DataError, data_file
        from tasks.registry import RULES, TABLE, register
        from tasks.tools import helper as first, other as second, scale

        LIMIT = 3
        STATE = {}
        STATE["seen"] = 1
        WORDS = ["yes", "no"]

        @dataclass(frozen=True)
        class Options:
            '''What may be chosen.'''

            size: int = 2
            names: ClassVar[int] = 4
            flag: bool = False

            def doubled(self) -> int:
                return self.size * 2

        class Mine(Rule, weight=2):
            factor = 5

        @functools.lru_cache(maxsize=16)
        @scale(by=3)
        def cached(x: int) -> int:
            return x + LIMIT

        def task(x: int, *, start: int = 1) -> float:
            '''What it does.'''
            from tasks.inner import inside

            for rule in RULES.values():
                x = rule(x)
            text = data_file("words.txt").read_text()
            if x > 10_000_000:
                raise DataError("too large")
            total = first(x) - second(x) + inside(start) + len(text) + Options().doubled() + TABLE["a"]
            return average([total, cached(x), np.log(2.0)]) + STATE["seen"] + Rule.known["Mine"].factor + len(WORDS)

        def unrelated():
            return "nothing uses this"
    """,
    "contract": """
        from pathlib import Path

        UNKEYED = {"__file__": "data files count by their content"}

        class DataError(ValueError):
            pass

        def data_file(name):
            return Path(__file__).with_name("data") / name
    """,
    "tools": """
        STEP = 1

        def helper(x):
            return x + STEP

        def other(x):
            return x * 2

        def scale(by):
            def decorate(function):
                return lambda x: function(x) * by
            return decorate
    """,
    "inner": """
        FACTOR = 7

        def inside(x):
            return x * FACTOR
    """,
    "registry": """
        RULES = {}
        TABLE = {"a": 0}

        def register(name):
            def keep(function):
                RULES[name] = function
                return function
            return keep
    """,
    "plugins": """
        import tasks.deeper
        import tasks.registry
        from tasks.registry import TABLE, register

        TABLE["a"] = 2
        GAIN = 3

        @register("gain")
        def gain(x):
            return x * GAIN
    """,
    "deeper": """
        from tasks.registry import register

        def shift(x):
            return x + 1

        _ = register("shift")(shift)
    """,
    "base": """
        class Rule:
            known = {}

            def __init_subclass__(cls, weight=1):
                cls.known[cls.__name__] = cls
                cls.weight = weight
    """,
}


def write(tree: Tree, **changes: str) -> Path:
    root = tree(**{**FILES, **changes})
    (root / "tasks" / "data").mkdir(exist_ok=True)
    (root / "tasks" / "data" / "words.txt").write_text("one two")
    return root


def digest(root: Path) -> str:
    return code_index(root).reach("tasks.a", "task").digest


def edited(file: str, old: str, new: str) -> Mapping[str, str]:
    assert FILES[file].count(old) == 1, f"{old!r} is in {file} {FILES[file].count(old)} times"
    return {file: FILES[file].replace(old, new)}


COUNTS = [
    ("a", "helper as first, other as second", "helper as second, other as first"),
    ("a", "from numpy import mean as average", "from numpy import median as average"),
    ("a", "import numpy as np", "import jax.numpy as np"), ("a", "@scale(by=3)", "@scale(by=4)"),
    ("a", "        @scale(by=3)\n", ""), ("a", "lru_cache(maxsize=16)", "lru_cache(maxsize=17)"),
    ("a", 'STATE["seen"] = 1', 'STATE["seen"] = 2'), ("a", "STATE = {}", "STATE = {}\n        WORDS.append('maybe')"),
    ("a", "STATE = {}", "STATE = {}\n        for word in 'ab':\n            WORDS.append(word)"),
    ("a", "names: ClassVar[int] = 4", "names: int = 4"), ("a", "frozen=True", "frozen=False"),
    ("a", "weight=2", "weight=3"),
    ("a", "class Mine(Rule,", "class Other(Rule):\n            factor = 1\n\n        class Mine(Rule,"),
    ("a", "        import tasks.plugins\n", ""), ("registry", 'TABLE = {"a": 0}', 'TABLE = {"a": 1}'),
    ("registry", "RULES[name] = function", "RULES[name[::-1]] = function"),
    ("plugins", 'TABLE["a"] = 2', 'TABLE["a"] = 3'), ("plugins", '@register("gain")', '@register("a gain")'),
    ("plugins", '        @register("gain")\n', ""), ("plugins", "return x * GAIN", "return x / GAIN"),
    ("plugins", "        import tasks.deeper\n", ""), ("deeper", 'register("shift")(shift)', 'register("z")(shift)'),
    ("base", "cls.known[cls.__name__] = cls", "cls.known.setdefault(cls.__name__, cls)"),
    ("base", "weight=1", "weight=0"),
]  # fmt: skip

DOES_NOT_COUNT = [
    ("a", "            '''What may be chosen.'''\n", ""), ("a", "size: int = 2", "size: float = 2"),
    ("a", "LIMIT = 3", "LIMIT: int = 3"), ("a", "def unrelated():", "def unrelated(x=1):"),
    ("tools", "def helper(x):", "def unused():\n            return STEP\n\n        def helper(x):"),
]  # fmt: skip

REFUSED = [
    ("globals()['helper'](x)", "globals is refused"), ("locals()['x']", "locals is refused"),
    ("vars()['x']", "vars() of a module or of all local names is refused"),
    ("vars(tools)['helper'](x)", "vars() of a module"), ("tools.__dict__['helper'](x)", "vars() of a module"),
    ("eval('helper(x)')", "eval is refused"), ("exec('x = 2')", "exec is refused"),
    ("compile('x', 'f', 'eval')", "compile is refused"), ("__import__('tasks.tools')", "__import__ is refused"),
    ("builtins.eval('x')", "builtins.eval is refused"),
    ("importlib.import_module(x)", "importlib.import_module is refused"),
    ("getattr(tools, x)(1)", "getattr on the module 'tools' is refused"),
    ("getattr(np, x)(1)", "getattr on the module 'np' is refused"),
    ("setattr(tools, 'STEP', 3)", "setattr on the module 'tools' is refused"),
    ("sys.modules['tasks.tools'].helper(x)", "sys.modules is refused"),
    ("getattr(sys.modules[x], 'helper')", "sys.modules is refused"),
    ("helper.__globals__['STEP']", "__globals__ is refused"), ("helper.__doc__", "__doc__ is refused"),
    ("open(__file__)", "__file__ is refused"),
    ("importlib.resources.files('tasks')", "importlib.resources is refused"),
    ("os.environ['X']", "os.environ is refused"), ("os.environ.get('X')", "os.environ is refused"),
    ("os.getenv('X')", "os.getenv is refused"), ("environ['X']", "os.environ is refused"),
    ("open('words.txt').read()", "the file 'words.txt' is refused"),
    ("Path('data/words.txt').read_text()", "the file 'data/words.txt' is refused"),
    ("Path(x, 'data/words.txt')", "the file 'data/words.txt' is refused"),
    ("Path(x) / 'tasks/data/words.txt'", "the file 'tasks/data/words.txt' is refused"),
    ("data_file(x)", "data_file with a computed name is refused"),
    ("data_file('none.txt')", "there is no file tasks/data/none.txt"),
    ("Chosen('losses', x, {})()", "a Chosen that a task makes is refused"),
    ("type(x).__subclasses__()", "__subclasses__ is refused"),
    ("inspect.getsource(helper)", "inspect.getsource is refused"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new"), [*COUNTS, *DOES_NOT_COUNT])
def test_the_key_changes_where_an_edit_can_change_a_result_and_nowhere_else(
    tree: Tree, file: str, old: str, new: str
) -> None:
    before = digest(write(tree))
    assert (digest(write(tree, **edited(file, old, new))) != before) == ((file, old, new) in COUNTS)


IMPORTS = """
        import builtins
        import importlib
        import importlib.resources
        import inspect
        import os
        import sys
        from os import environ
        from pathlib import Path

        import numpy as np

        from tasks import tools
        from tasks.contract import Chosen, data_file
        from tasks.tools import helper

        def task(x):
            return {}
"""


@pytest.mark.parametrize(("code", "message"), REFUSED, ids=[code for code, _ in REFUSED])
def test_what_no_key_can_follow_is_refused_with_its_line(tree: Tree, code: str, message: str) -> None:
    contract = f"{FILES['contract']}\n        class Chosen:\n            pass\n"
    root = write(tree, b=IMPORTS.format(code), contract=contract)
    with pytest.raises(SpecError, match=rf"^tasks/b\.py:18: .*{re.escape(message)}"):
        code_index(root).reach("tasks.b", "task")
    code_index(write(tree, b=IMPORTS.format("helper(x)"), contract=contract)).reach("tasks.b", "task")


def test_what_is_set_in_another_file_is_refused_and_items_of_its_tables_count(tree: Tree) -> None:
    for text in ("from tasks import tools\n\ntools.STEP = 3\n\ndef task():\n    return 1\n",
                 "import tasks.tools as t\n\ndef task():\n    t.helper.limit = 3\n"):  # fmt: skip
        with pytest.raises(SpecError, match=r"tasks/b\.py:\d: setting 't.*', which another file defines, is refused"):
            code_index(write(tree, b=text)).reach("tasks.b", "task")


def test_a_use_that_is_declared_with_its_reason_is_followed(tree: Tree) -> None:
    code = "import os\n\n{}\ndef task():\n    return os.environ.get('THREADS')\n"
    with pytest.raises(SpecError, match=r"os\.environ is refused.*or declare in UNKEYED why it changes no result"):
        code_index(write(tree, b=code.format(""))).reach("tasks.b", "task")
    declared = code.format("UNKEYED = {'os.environ': 'threads change the speed alone'}\n")
    code_index(write(tree, b=declared)).reach("tasks.b", "task")
    for wrong in ("UNKEYED = {'os.environ': ''}\n", "UNKEYED = dict()\n"):
        with pytest.raises(SpecError, match=r"tasks/b\.py:3: UNKEYED must be written out"):
            code_index(write(tree, b=code.format(wrong))).reach("tasks.b", "task")


def test_two_functions_of_one_name_and_one_text_are_told_apart_by_what_they_use(tree: Tree) -> None:
    def files(one: str, two: str) -> Mapping[str, str]:
        return {
            "a": f"from tasks.{one} import f as g\nfrom tasks.{two} import f as h\n\ndef task(): return g() - h()\n",
            "p": "SCALE = 1\n\ndef f():\n    return SCALE\n", "q": "SCALE = 2\n\ndef f():\n    return SCALE\n",
        }  # fmt: skip

    forth, back = (code_index(tree(**files(*order))).reach("tasks.a", "task") for order in (("p", "q"), ("q", "p")))
    assert forth.listed == back.listed
    assert forth.digest != back.digest


def test_a_metaclass_and_a_base_from_outside_see_what_a_class_says(tree: Tree) -> None:
    text = """
        from pydantic import BaseModel

        class Meta(type):
            known = []

            def __init__(cls, *args):
                cls.known.append(cls)

        class Base(metaclass=Meta):
            pass

        class One(Base):
            size = 1

        class Row(BaseModel):
            length: int = 1

        def task():
            return Meta.known, Row(length="2")
    """
    before = digest(tree(a=text))
    assert digest(tree(a=text.replace("size = 1", "size = 2"))) != before
    assert digest(tree(a=text.replace("length: int", "length: str"))) != before
