"""Single steps, without Prefect: what they read stays as it was, or their result is not kept."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from flows.python.codebase import Package
from flows.run.run import Execution
from flows.run.step import outside_paths
from flows.store.keys import Choices
from flows.store.store import Store
from flows.store.witness import Witness
from flows.wiring.model import ChoiceValue
from tasks.contract import DataError
from tasks.kinds import Oracle
from tests.flows.store.made import put
from tests.flows.tiny import graph, node, tiny_project


def test_a_model_written_over_and_put_back_during_a_step_spoils_that_step_and_no_later_one(tmp_path: Path) -> None:
    base = tmp_path / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("weights")
    at = ChoiceValue("models", "folder", {"path": str(base)})
    refer, disturbed = (
        node("policy", "refer", kind="Policy", at=at),
        node("answers", "disturbed", inputs={"policy": "policy"}),
    )
    project, store = tiny_project(tmp_path), Store(tmp_path / "artifacts")
    with Execution(graph(project, refer, disturbed), store, threads=1) as run:
        policy = run.steps.run(refer, {}).record
        assert policy.location == str(base)
        with pytest.raises(
            DataError, match=r"base/config\.json was written, replaced or moved during 'answers', which"
        ):
            run.steps.run(disturbed, {"policy": [policy]})
        assert [r.task for r in store.records()] == ["refer"]
        again = run.steps.run(disturbed, {"policy": [policy]})
    [aside] = (store.root / "damaged").glob("partial-*")
    assert (aside / "work" / "part").read_text() == "WEIGHTS"
    assert len(store.open(again.record)) == 1  # type: ignore[arg-type]


def test_an_oracle_whose_file_is_no_longer_what_its_specification_says_is_not_asked(tmp_path: Path) -> None:
    project, store = tiny_project(tmp_path), Store(tmp_path / "artifacts")
    (tmp_path / "taste.txt").write_text("short answers")
    choices = Choices(store.code(graph(project).packages), store.contents, project)
    choice = ChoiceValue("models", "folder", {"path": "taste.txt"})
    oracle = put(store, Oracle.of(compare=lambda *_: []).with_choice(choices.chosen(choice)))
    judged = node("judged", "join", inputs={"tables": ["oracle"]})
    [(path, digest)] = outside_paths(judged, {"oracle": [oracle]}, store, choices).items()
    assert (path, digest) == (tmp_path / "taste.txt", store.contents.digest(path))
    path.write_text("long answers")
    later = Choices(store.code(graph(project).packages), store.contents, project)
    assert outside_paths(judged, {"oracle": [oracle]}, store, later) == {path: digest}
    with pytest.raises(DataError, match=r"'judged' reads .*/taste\.txt, which is no longer what its key holds"):
        Witness({path: digest}, store.contents, "judged")


LAB = {
    "data/words.txt": "hello world",
    "models/worded.py": """
        from tasks.contract import data_file
        identity = None
        def worded():
            return data_file("words.txt").read_text().split()
        """,
    "names.py": """
        def shouted(words):
            return [word.upper() for word in words]
        """,
    "work.py": """
        import pyarrow as pa
        from mylab.names import shouted
        from tasks.kinds import Prompts
        def words(*, source) -> Prompts:
            found = shouted(source())
            prompts = [[{"role": "user", "content": word}] for word in found]
            return Prompts.of(pa.table({"prompt_id": found, "prompt": prompts}))
        """,
}


def test_a_step_of_a_users_package_runs_from_a_copy_of_all_of_it(tmp_path: Path) -> None:
    lab = tmp_path / "mylab"
    for name, text in LAB.items():
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        (lab / name).write_text(textwrap.dedent(text))
    source = ChoiceValue("models", "worded", {}, package="mylab")
    words = replace(node("words", "words", source=source), module="mylab.work")
    wanted = graph(tiny_project(tmp_path), words)
    wanted = replace(wanted, packages=(*wanted.packages, Package("mylab", lab, "mylab")))
    store = Store(tmp_path / "artifacts")
    with Execution(wanted, store, threads=1) as run:
        (lab / "names.py").write_text("an edit during the run")
        record = run.steps.run(words, {}).record
    assert store.open(record).table.column("prompt_id").to_pylist() == ["HELLO", "WORLD"]  # type: ignore[attr-defined]
    assert {"mylab/names.py::shouted", "mylab/data/words.txt"} <= record.code.keys()
