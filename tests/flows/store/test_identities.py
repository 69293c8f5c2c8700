"""What a step reads of the outside world is in its key, or it is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.commands.check import code_check_results
from flows.planning.plan import make_plan
from flows.store.content import Contents
from flows.store.identities import READS_OUTSIDE
from flows.store.keys import Choices, Key
from flows.store.store import Store
from flows.wiring.model import ChoiceValue, Graph, Node
from tasks.contract import SpecError
from tests.flows.codebases import code_index
from tests.flows.store.made import prompts
from tests.flows.tiny import graph, node

Tree = Callable[..., Path]

TEXTS = '''
    """Own prompts: every text of a folder is one."""

    from __future__ import annotations

    from pathlib import Path

    def texts(*, folder: str, suffix: str = "txt") -> Source:
        """Prompts of a folder."""
        return sorted(p.read_text() for p in Path(folder).glob(f"*.{suffix}"))

    def identity(*, online, base, folder, suffix="txt"):
        return {"texts": base / folder}
'''
SOURCES = '"""Sources."""\n\nREADS_OUTSIDE = True\n'
LOAD = '''
    def load_prompts(*, source: Annotated[Chosen, Choice("sources")], split: str = "train") -> Prompts:
        """Prompts."""
        return source()

    def log(*, note: str, seen: Execution[str] = "", log_dir: Execution[str] = "") -> Prompts:
        """Prompts."""
        return []
'''
KINDS = "class Artifact:\n    pass\n\nclass Prompts(Artifact):\n    pass\n"


def project(tree: Tree, **files: str) -> Path:
    root = tree(**{"load": LOAD, "kinds": KINDS, "sources__texts": TEXTS, **files})
    (root / "tasks" / "sources" / "__init__.py").write_text(SOURCES)
    (root / "texts").mkdir(exist_ok=True)
    (root / "texts" / "one.txt").write_text("What do otters eat?")
    return root


def load(root: Path, folder: str = "texts", **params: Any) -> Graph:
    source = ChoiceValue("sources", "texts", {"folder": folder, "suffix": "txt"})
    return graph(root, loads(source=source, split="train", **params))


def loads(**params: Any) -> Node:
    made = node("prompts", "load_prompts", **params)
    return Node(**{**vars(made), "module": "tasks.load"})


def key(root: Path, compiled: Graph) -> Key:
    return Choices(code_index(root), Contents(), root).prepare(compiled.nodes["prompts"]).key({})


def verdicts(root: Path) -> list[str]:
    return [v.error for v in code_check_results(code_index(root))]


def test_a_step_over_a_folder_of_texts_is_not_cached_once_a_text_changed(tree: Tree, store: Store) -> None:
    root = project(tree)
    compiled = load(root)
    store.publish(key(root, compiled), prompts("otters"))
    assert make_plan(compiled, store).states == {"prompts": "cached"}
    (root / "texts" / "one.txt").write_text("What do badgers eat?")
    assert make_plan(compiled, store).states == {"prompts": "run"}
    (root / "texts" / "one.txt").write_text("What do otters eat?")
    assert make_plan(compiled, store).states == {"prompts": "cached"}
    (root / "texts" / "two.txt").write_text("Where do otters live?")
    assert make_plan(compiled, store).states == {"prompts": "run"}


SILENT = re.sub(r"    def identity.*", "", TEXTS, flags=re.S)


def test_a_source_that_does_not_say_what_it_reads_is_refused_with_its_line(tree: Tree) -> None:
    root = project(tree, sources__texts=SILENT)
    message = r"^tasks/sources/texts\.py:8: 'texts' does not declare what it reads .* or write `identity = None`"
    with pytest.raises(SpecError, match=message):
        key(root, load(root))
    [error] = verdicts(root)
    assert re.match(message, error)


def test_a_source_that_reads_nothing_says_so_in_one_line(tree: Tree) -> None:
    made = "identity = None\n\ndef made(*, size: int = 3) -> Source:\n    return list(range(size))\n"
    root = project(tree, sources__made=made)
    assert verdicts(root) == []
    choice = ChoiceValue("sources", "made", {"size": 3})
    assert key(root, graph(root, loads(source=choice))).parts["identities"] == {}


@pytest.mark.parametrize(
    "text",
    [SILENT + "\n    identity = None\n", TEXTS.replace('base / folder}', '"all"}'),
     TEXTS.replace("base, folder, suffix", "base, suffix").replace("base / folder}", 'base / "texts"}')],
    ids=["none", "not used", "not taken"],
)  # fmt: skip
def test_a_parameter_that_names_a_path_is_refused_where_no_identity_covers_it(tree: Tree, text: str) -> None:
    [error] = verdicts(project(tree, sources__texts=text))
    assert error.startswith("tasks/sources/texts.py:8: texts(folder) names a path whose content is in no key: define i")


def test_a_task_that_takes_a_path_is_refused_unless_it_changes_no_result(tree: Tree) -> None:
    assert verdicts(project(tree)) == []
    [error] = verdicts(project(tree, load=LOAD.replace("note: str", "words_file: str")))
    assert error.startswith("tasks/load.py:6: log(words_file) names a path whose content is in no key: a task reads")
    [error] = verdicts(project(tree, load=LOAD.replace("note: str", "paths: list[str]")))
    assert error.startswith("tasks/load.py:6: log(paths) names a path")


def test_a_value_that_is_a_path_which_exists_is_refused_where_it_is_given(tree: Tree) -> None:
    root = project(tree)
    for split in ("train", "texts", "what is 1/2?", "./elsewhere", "a" * 5000):
        key(root, graph(root, loads(source=ChoiceValue("sources", "texts", {"folder": "texts"}), split=split)))
    for split in ("./texts", "texts/one.txt", str(root / "texts"), ["train", "texts/one.txt"]):
        with pytest.raises(SpecError, match=r"pipelines\.yaml: prompts\.split = .* is a path whose content is in no k"):
            key(root, graph(root, loads(source=ChoiceValue("sources", "texts", {"folder": "texts"}), split=split)))
    project(tree, sources__texts=TEXTS.replace('suffix="txt"):', "**others):"))
    odd = ChoiceValue("sources", "texts", {"folder": "texts", "suffix": "texts/one.txt"})
    with pytest.raises(SpecError, match=r"prompts\.source\.texts\.suffix = 'texts/one\.txt' is a path"):
        key(root, graph(root, loads(source=odd)))


def test_an_identity_that_lacks_a_parameter_is_refused_by_name(tree: Tree) -> None:
    root = project(tree, sources__texts=TEXTS.replace(', suffix="txt"):', "):"))
    with pytest.raises(
        SpecError, match=r"tasks/sources/texts\.py: identity\(\) must take \['suffix'\], as 'texts' does"
    ):
        key(root, load(root))


@pytest.mark.parametrize("wrong", ["import nothing_of_that_name", "1 / 0", "raise KeyError('x')"])
def test_an_identity_that_fails_is_one_line(tree: Tree, wrong: str) -> None:
    for text in (TEXTS.replace("from pathlib import Path", f"from pathlib import Path; {wrong}"),
                 TEXTS.replace("return {", f"{wrong}; return {{")):  # fmt: skip
        root = project(tree, sources__texts=text)
        with pytest.raises(SpecError, match=r"^tasks/sources/texts\.py: identity\(\) of 'texts' failed: \w+Error"):
            key(root, load(root))


def test_sources_and_oracles_of_this_project_say_what_they_read() -> None:
    root = Path(__file__).parents[3]
    code = code_index(root)
    assert [f for f in ("sources", "oracles") if not code.defines(f"tasks.{f}", READS_OUTSIDE)] == []
    assert verdicts(root) == []
