"""Single steps, without Prefect: what they read stays as it was, or their result is not kept."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    with Execution(graph(project, refer, disturbed), store, project=project, threads=1) as run:
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
    choices = Choices(store.code(project), store.contents, project)
    choice = ChoiceValue("models", "folder", {"path": "taste.txt"})
    oracle = put(store, Oracle.of(compare=lambda *_: []).with_choice(choices.chosen(choice)))
    judged = node("judged", "join", inputs={"tables": ["oracle"]})
    [(path, digest)] = outside_paths(judged, {"oracle": [oracle]}, store, choices).items()
    assert (path, digest) == (tmp_path / "taste.txt", store.contents.digest(path))
    path.write_text("long answers")
    later = Choices(store.code(project), store.contents, project)
    assert outside_paths(judged, {"oracle": [oracle]}, store, later) == {path: digest}
    with pytest.raises(DataError, match=r"'judged' reads .*/taste\.txt, which is no longer what its key holds"):
        Witness({path: digest}, store.contents, "judged")
