"""Single steps, without Prefect: what they read stays as it was, or their result is not kept."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from flows.python.codebase import Package
from flows.run.run import Execution
from flows.run.step import outside_paths
from flows.store.keys import Choices
from flows.store.records import Record
from flows.store.store import Store
from flows.store.witness import Witness
from flows.wiring.model import ChoiceValue, Node
from tasks.contract import DataError
from tasks.kinds import Oracle, Policy
from tests.flows.store.made import key_of, publish, put
from tests.flows.tiny import graph, node, tiny_project


def test_a_model_written_over_and_put_back_during_a_step_spoils_that_step_and_no_later_one(tmp_path: Path) -> None:
    base = _folder(tmp_path / "models" / "base")
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


def test_an_oracle_is_opened_with_its_execution_parameters_in_this_run_which_no_file_of_it_has(tmp_path: Path) -> None:
    (tmp_path / "taste").mkdir()
    at = ChoiceValue("models", "folder", {"path": str(tmp_path / "taste")}, {"max_cost": 2.5})
    judge, look = (node("judge", "specify", "Oracle", at=at), node("look", "execution_of", inputs={"oracle": "judge"}))
    project, store = tiny_project(tmp_path), Store(tmp_path / "artifacts")
    with Execution(graph(project, judge, look), store, threads=1) as run:
        oracle = run.steps.run(judge, {}).record
        seen = run.steps.run(look, {"oracle": [oracle]}).record
    assert _ids(store, seen) == ['{"max_cost": 2.5}']
    assert seen.execution["oracle.max_cost"] == 2.5
    assert "max_cost" not in (store.root / oracle.path / "oracle.json").read_text()


def test_an_adapter_is_opened_with_its_base_and_samples_in_the_warm_process_of_its_base(tmp_path: Path) -> None:
    engine = ChoiceValue("engines", "plain", {"factor": 1})
    numbers, model = node("a", "numbers", count=1), node("m", "model", "Policy", inputs={"prompts": "a"})
    first, second = (node(f"p{n}", "adapted", "Policy", inputs={"policy": "m"}, n=n) for n in (1, 2))
    look = node("look", "opened", inputs={"policy": "p2"})
    samples = [node(f"s{n}", "warm", inputs={"policy": "m"}, engine=engine, n=n) for n in range(3)]
    project, store = tiny_project(tmp_path), Store(tmp_path / "artifacts")
    with Execution(graph(project, numbers, model, first, second, look, *samples), store, threads=1) as run:

        def result(step: Node, **inputs: Record) -> Record:
            return run.steps.run(step, {port: [record] for port, record in inputs.items()}).record

        base = result(model, prompts=result(numbers))
        one = result(first, policy=base)
        two = result(second, policy=one)
        assert (one.refers_to, two.refers_to) == ((base.content,), (base.content,))
        seen = result(look, policy=two)
        answers = [result(step, policy=policy) for step, policy in zip(samples, (base, one, two), strict=True)]
    assert _ids(store, seen) == [str(store.root / two.path), str(store.root / base.path), base.content]
    assert len({_ids(store, answer)[0].split(":")[0] for answer in answers}) == 1


def test_a_step_on_an_adapter_whose_base_is_gone_is_refused_before_it_starts(tmp_path: Path) -> None:
    project, store = tiny_project(tmp_path), Store(tmp_path / "artifacts")
    base = put(store, Policy(_folder(tmp_path / "models" / "base")), "read")
    key = key_of("fit", {"policy": [base.content]})
    made = _folder(store.partial(key.digest) / "output")
    (made / "adapter.json").write_text(f'{{"base": "{base.content}"}}')
    policy = publish(store, key, Policy(made), parents={"policy": [base]})
    look = node("look", "opened", inputs={"policy": "p"})
    choices = Choices(store.code(graph(project).packages), store.contents, project)
    assert outside_paths(look, {"policy": [policy]}, store, choices) == {tmp_path / "models" / "base": base.content}
    (tmp_path / "models" / "base" / "config.json").write_text("other weights")
    with (
        Execution(graph(project, look), store, threads=1) as run,
        pytest.raises(
            DataError, match=r"\(fit\) cannot be used: its base is .*/models/base, and that folder has changed"
        ),
    ):
        run.steps.run(look, {"policy": [policy]})
    assert not (store.root / "logs" / run.run.id / "look.log").exists()


def _ids(store: Store, record: Record) -> list[str]:
    return store.open(record).table.column("prompt_id").to_pylist()  # type: ignore[attr-defined, no-any-return]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("weights")
    return path


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
