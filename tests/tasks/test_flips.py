"""A bit of unfinished work changes on the disk: the next attempt makes that part again, says so, and ends the same."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.run.executors.workspace import StepWorkspace
from tasks.judge import score
from tasks.kinds import Policy, Scorer
from tasks.parts import is_intact, new_part
from tasks.sample import sample
from tests.answers import completions
from tests.flat import fit
from tests.models import tiny_policy
from tests.tasks.rollouts.small import TRANSFORMERS, files_of, prompts, run, value_from
from tests.tasks.training.tables import SFT, demonstrations, tokenized
from tests.workspace import Killed, Mortal, Workspace


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return tiny_policy(tmp_path_factory.mktemp("policy"), generation={"max_new_tokens": 9}, ending=3.5)


def flip(file: Path, chance: random.Random) -> None:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def ends_the_same(
    folder: Path, attempt: Callable[[Workspace], Any], killed: Callable[[Path], Mortal], *, flips: int = 1,
    files: tuple[str, ...] = ("",),
) -> list[str]:  # fmt: skip
    """Kill an attempt, flip a bit of each file that it left, in a copy of its own, and compare the ends. Notices."""
    whole, cut = Workspace(folder / "whole"), killed(folder / "cut")
    expected = files_of(_saved(attempt(whole), folder / "expected"))
    with pytest.raises(Killed):
        attempt(cut)
    left = [p.relative_to(cut.path) for p in sorted(cut.path.rglob("*")) if p.is_file() and p.name.endswith(files)]
    assert left
    notices = []
    for n, name in enumerate(left * flips):
        shutil.copytree(cut.path, folder / f"{n}" / "work")
        work = Workspace(folder / f"{n}")
        flip(work.path / name, random.Random(n))
        found = files_of(_saved(attempt(work), folder / f"made{n}"))
        assert found == expected, name
        notices += work.notices
        shutil.rmtree(work.path)
    return notices


def _saved(result: Any, folder: Path) -> Path:
    if result._path is None:
        folder.mkdir()
        result.save(folder)
        return folder
    return Path(result.path)


def test_answers_of_an_oracle(tmp_path: Path) -> None:
    table = completions({f"p{i}": [f"t{i}{j}" for j in range(4)] for i in range(50)})
    oracle = Scorer.scoring(lambda prompts, texts, truths: [len(t) / 3 for t in texts])
    asked: list[int] = []

    def mortal(prompts: Any, texts: list[str], truths: Any) -> list[float]:
        asked.append(len(texts))
        if len(asked) == 3:
            raise Killed
        return [len(t) / 3 for t in texts]

    def attempt(work: Workspace) -> Any:
        return score(table, Scorer.scoring(mortal) if work.path.parent.name == "cut" else oracle, work)

    notices = ends_the_same(tmp_path, attempt, Mortal, flips=60)
    assert 55 <= len(notices) <= 60  # a newline that is another letter looks like a line that a kill cut
    assert all("queried again" in n for n in notices)


def test_shards_of_samples(policy: Policy, tmp_path: Path) -> None:
    notices = ends_the_same(
        tmp_path, lambda work: sample(policy, prompts(6), work, k=2, shard=2, max_tokens=5, engine=TRANSFORMERS),
        lambda folder: Mortal(folder, done=9),
    )  # fmt: skip
    assert len(notices) == 4  # tables and digests of two shards
    assert all("sampled again" in n for n in notices)


def test_checkpoints_of_a_training(policy: Policy, tmp_path: Path) -> None:
    data = tokenized(demonstrations(), policy, tmp_path)
    notices = ends_the_same(
        tmp_path, lambda work: fit(policy, data, work, loss=SFT, lr=1e-3, steps=4, batch=8, checkpoint_every=2),
        lambda folder: Mortal(folder, step=3),
    )  # fmt: skip
    assert len(notices) == 5  # weights, optimizer, random numbers, state, digests
    assert all("step-2 is damaged" in n for n in notices)


def test_checkpoints_kept_policies_and_scores_of_a_reinforcement(policy: Policy, tmp_path: Path) -> None:
    value = value_from(policy, tmp_path / "value")
    notices = ends_the_same(
        tmp_path,
        lambda work: run(policy, value, work, iterations=4, checkpoints=[1], checkpoint_every=2, max_tokens=4),
        lambda folder: Mortal(folder, step=3),
        files=("model.safetensors", "model-00001-of-00001.safetensors", ".jsonl"),
    )  # fmt: skip
    assert len(notices) == 3
    for said in ("the checkpoint of step-2", "a policy that an earlier attempt kept", "a stored answer of the oracle"):
        assert any(said in n for n in notices), said


def test_rows_of_curves(tmp_path: Path) -> None:
    first = StepWorkspace(tmp_path / "a", lambda *_: None)
    for step in range(5):
        first.log(step, {"loss": step / 3})
    for n in range(40):
        shutil.copytree(tmp_path / "a", tmp_path / f"{n}")
        flip(tmp_path / f"{n}" / "curves.jsonl", random.Random(n))
        work = StepWorkspace(tmp_path / f"{n}", lambda *_: None)
        assert len(work.curves()) in {3, 4}
        assert all(row in first.curves() for row in work.curves())
        assert StepWorkspace(tmp_path / f"{n}", lambda *_: None).curves() == work.curves()


def test_a_part_with_a_file_more_or_less_is_not_what_was_written(tmp_path: Path) -> None:
    with new_part(tmp_path / "part") as part:
        (part / "a").write_text("a")
        (part / "empty").touch()
    assert is_intact(tmp_path / "part")
    assert not is_intact(tmp_path / "none")
    (tmp_path / "part" / "b").touch()
    assert not is_intact(tmp_path / "part")
    (tmp_path / "part" / "b").unlink()
    (tmp_path / "part" / "empty").unlink()
    assert not is_intact(tmp_path / "part")


def test_a_part_that_fails_leaves_the_old_one_and_the_next_removes_what_a_kill_left(tmp_path: Path) -> None:
    (tmp_path / ".part.x.tmp").mkdir()
    with new_part(tmp_path / "part") as part:
        (part / "a").write_text("old")
    assert [p.name for p in tmp_path.iterdir()] == ["part"]
    with pytest.raises(IsADirectoryError), new_part(tmp_path / "part") as part:
        part.write_text("a file where a folder is")
    assert (tmp_path / "part" / "a").read_text() == "old"
    assert is_intact(tmp_path / "part")
