"""An old result stands for a new key after an edit of code, and after nothing else."""

from pathlib import Path

import pytest

from flows.commands.accept import accept_step
from flows.planning.plan import make_plan
from flows.store.keys import Choices
from flows.store.runs import Runs, RunStep
from flows.store.store import Store
from flows.wiring.model import Graph
from tasks.contract import SpecError
from tests.flows.store.made import prompts
from tests.flows.tiny import graph, node, tiny_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tiny_project(tmp_path)


def _graph(project: Path, suffix: str = "!") -> Graph:
    numbers = node("numbers", "numbers", count=2, seed=0)
    return graph(project, numbers, node("shout", "shout", inputs={"prompts": "numbers"}, suffix=suffix))


def _finish(project: Path, store: Store) -> None:
    """Publish a result for both steps, and a run that names them."""
    compiled, runs = _graph(project), Runs(store)
    choices = Choices(store.code(compiled.packages), store.contents, project)
    run = runs.begin("tiny", {})
    made = {}
    for step in compiled.nodes.values():
        fed = {port: [made[i] for i in ids] for port, ids in step.inputs.items()}
        key = choices.prepare(step).key({port: [r.content for r in several] for port, several in fed.items()})
        with store.lock(key.digest):
            made[step.id] = store.publish(key, prompts(step.id), parents=fed)
        content = made[step.id].content
        run.steps[step.id] = RunStep(step.id, step.addresses, step.task, step.title, None, "made", key.digest, content)
    runs.end(run, "done")


def _edit(project: Path) -> None:
    file = project / "tasks" / "tiny.py"
    file.write_text(file.read_text().replace("[i + suffix for i in", "[f'{i}{suffix}' for i in"))


def _states(project: Path, store: Store) -> dict[str, str]:
    return make_plan(_graph(project), store).states


def test_an_old_result_is_accepted_after_an_edit_and_recorded_as_such(project: Path) -> None:
    store = Store(project / "artifacts")
    _finish(project, store)
    old = Runs(store).find("last:shout").record
    _edit(project)
    assert _states(project, store) == {"numbers": "cached", "shout": "run"}
    lines = list(accept_step(_graph(project), store, "shout"))
    assert [line.split(":")[0] for line in lines] == ["shout"]
    assert _states(project, store) == {"numbers": "cached", "shout": "cached"}
    accepted = [r for r in store.records() if r.accepted]
    assert [(r.content, r.accepted["from"]) for r in accepted] == [(old.content, old.key)]


def test_what_is_cached_needs_no_accepting(project: Path) -> None:
    store = Store(project / "artifacts")
    _finish(project, store)
    assert list(accept_step(_graph(project), store, "shout")) == ["nothing to accept: 'shout' is cached"]


def test_a_changed_parameter_is_not_accepted(project: Path) -> None:
    store = Store(project / "artifacts")
    _finish(project, store)
    with pytest.raises(SpecError, match=r"'shout': only an edit of code can be accepted, but .*suffix"):
        list(accept_step(_graph(project, "?"), store, "shout"))
