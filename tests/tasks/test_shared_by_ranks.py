"""Sampling and judging that several ranks share: their results are those of one process."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from tasks.contract import Chosen
from tasks.ids import prompt_id
from tasks.judge import compare, score
from tasks.judging import journal as journal_module
from tasks.kinds import Completions, Policy, Prompts, RewardModel, Scores
from tasks.parts import is_intact
from tasks.ranks import Ranks
from tasks.sample import sample
from tasks.training.reward import open_reward_model, save_reward_model
from tests.answers import completions, rows, saved, scorer
from tests.models import tiny_policy
from tests.ranks import as_rank, run_ranks
from tests.workspace import Workspace

QUESTIONS = [f"where does the {a} {v} ?" for a in ("swan", "fox", "bear") for v in ("live", "eat", "go")]
TEXTS = {f"p{i}": [f"t{i}{j}" for j in range(4)] for i in range(80)}
SCORES = {t: (i * 7 % 11) / 3 for i, t in enumerate(t for ts in TEXTS.values() for t in ts)}


def prompts() -> Prompts:
    messages = [[{"role": "user", "content": text}] for text in QUESTIONS]
    nothing: list[None] = [None] * len(messages)
    columns = {"prompt_id": [prompt_id(m) for m in messages], "prompt": messages}
    return Prompts.of(pa.table(columns | {"truth": nothing, "group": nothing, "weight": nothing}))


def workspace(folder: Path, rank: int = 0) -> Workspace:
    """That of a rank: the folder which survives is common to all."""
    work = Workspace(folder / f"rank{rank}")
    work.path = folder / "work"
    work.path.mkdir(exist_ok=True)
    return work


def sampled(policy: Policy, work: Workspace) -> Completions:
    """18 answers in 5 shards."""
    return sample(policy, prompts(), work, k=2, shard=2, max_tokens=6, engine=Chosen("engines", "transformers", {}))


def content(handle: Any, folder: Path) -> bytes:
    return bytes((saved(handle, folder).path / "table.arrow").read_bytes())


def shards(folder: Path) -> list[int]:
    return sorted(int(f.name[-5:]) for f in (folder / "work").glob("shard-*"))


def test_two_ranks_sample_every_shard_once_and_the_first_returns_the_table_of_one_process(
    policy: Policy, tmp_path: Path
) -> None:
    alone = workspace(tmp_path)
    expected = content(sampled(policy, alone), tmp_path / "expected")
    two = tmp_path / "two"
    with as_rank(1, 2):
        nothing = sampled(policy, workspace(two, 1))
    assert len(nothing) == 0
    assert shards(two) == [1, 3]
    written = [f.stat().st_mtime_ns for f in sorted((two / "work").glob("shard-*"))]
    with as_rank(0, 2):
        first = workspace(two)
        assert content(sampled(policy, first), tmp_path / "found") == expected
    assert shards(two) == [0, 1, 2, 3, 4]
    assert [(two / "work" / f"shard-0000{i}").stat().st_mtime_ns for i in (1, 3)] == written
    assert first.totals == alone.totals
    assert first.progress_calls[-1] == (18, 18, "samples")
    assert all(0 <= done <= 18 for done, _, _ in first.progress_calls)


def test_what_two_ranks_left_is_taken_up_by_three_and_by_one(policy: Policy, tmp_path: Path) -> None:
    expected = content(sampled(policy, workspace(tmp_path)), tmp_path / "expected")
    other = tmp_path / "other"
    with as_rank(1, 2):
        sampled(policy, workspace(other, 1))
    damaged = other / "work" / "shard-00003" / "table.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (other / "work" / ".shard-00000.x.tmp").mkdir()  # what another rank is writing
    with as_rank(2, 3):
        sampled(policy, workspace(other, 2))
    assert shards(other) == [1, 2, 3]
    assert (other / "work" / ".shard-00000.x.tmp").exists()
    work = workspace(other)
    assert content(sampled(policy, work), tmp_path / "found") == expected
    assert work.notices == ["shard-00003 of an earlier attempt is damaged; its completions are sampled again"]
    assert all(map(is_intact, (other / "work").glob("shard-*")))


def test_shards_that_never_come_end_the_wait(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNFLOW_RANK_TIMEOUT", "0.2")
    with as_rank(0, 2), pytest.raises(RuntimeError, match=r"2 shards did not come from the other ranks.*shard-00001"):
        sampled(policy, workspace(tmp_path))


class Threads:
    """Ranks that are threads of this process: what they call of `tasks.ranks` meets here."""

    def __init__(self, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mine, self._world = threading.local(), world
        self._barrier, self._values = threading.Barrier(world, timeout=60), [b""] * world
        monkeypatch.setattr(journal_module, "this_rank", lambda: self._mine.rank)
        monkeypatch.setattr(journal_module, "gather_all", self._gather_all)
        monkeypatch.setattr(journal_module, "broadcast", lambda value: self._gather_all(value)[0])

    def _gather_all(self, value: Any) -> list[Any]:
        self._values[self._mine.rank.rank] = pickle.dumps(value)
        self._barrier.wait()
        values = [pickle.loads(v) for v in self._values]
        self._barrier.wait()
        return values

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        """What the ranks returned, or the exception that ended one."""
        found: list[Any] = [None] * self._world

        def rank(number: int) -> None:
            self._mine.rank = Ranks(number, self._world)
            try:
                found[number] = function(number)
            except BaseException as e:
                self._barrier.abort()
                found[number] = e

        threads = [threading.Thread(target=rank, args=(number,)) for number in range(self._world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


@pytest.mark.parametrize("task", [score, compare])
def test_two_ranks_ask_every_question_once_and_have_the_tables_of_one_process(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, alone = completions(TEXTS), workspace(tmp_path)
    expected = rows(task(table, scorer(SCORES), alone))
    oracles, works = [scorer(SCORES), scorer(SCORES)], [workspace(tmp_path / "two", r) for r in range(2)]
    found = Threads(2, monkeypatch).run(lambda r: task(table, oracles[r], works[r]))
    assert [rows(table) for table in found] == [expected, expected]
    asked = [question for oracle in oracles for question in oracle.questions]
    assert len(asked) == len(set(asked)) == 320
    assert [len(oracle.questions) for oracle in oracles] == [192, 128]  # shards of 64: three and two
    assert works[0].totals == alone.totals
    assert {"queries": 320, "unanswered": 0}.items() <= alone.totals.items()


def test_two_ranks_share_the_store_of_answers_and_the_first_counts_what_both_asked(tmp_path: Path) -> None:
    table, oracles = completions(TEXTS), [scorer(SCORES) for _ in range(3)]
    works = [workspace(tmp_path / "two", r) for r in range(2)] + [workspace(tmp_path / "later")]
    for oracle, work in zip(oracles, works, strict=True):
        oracle.stored_as, work.answers = "by a table", tmp_path / "answers"
    with pytest.MonkeyPatch.context() as patched:
        Threads(2, patched).run(lambda r: score(table, oracles[r], works[r]))
    score(table, oracles[2], works[2])
    assert [len(oracle.questions) for oracle in oracles] == [192, 128, 0]
    assert {"queries": 320, "queries_asked": 320, "queries_reused": 0}.items() <= works[0].totals.items()
    assert {"queries": 320, "queries_asked": 0, "queries_reused": 320}.items() <= works[2].totals.items()


def test_answers_of_killed_ranks_are_not_asked_again_by_other_numbers_of_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = completions(TEXTS)
    expected = rows(score(table, scorer(SCORES), workspace(tmp_path)))
    killed = tmp_path / "killed"
    first = [scorer(SCORES, fail_after=128), scorer(SCORES)]
    works = [workspace(killed, r) for r in range(2)]
    with pytest.MonkeyPatch.context() as patched:
        errors = Threads(2, patched).run(lambda r: score(table, first[r], works[r]))
    assert [type(e) for e in errors] == [KeyboardInterrupt, threading.BrokenBarrierError]
    assert [len(oracle.questions) for oracle in first] == [128, 128]
    own = killed / "work" / "scores.jsonl.rank1"
    lines = own.read_bytes().splitlines(keepends=True)
    own.write_bytes(lines[0].replace(b"answers", b"answerz") + lines[1])
    again = [scorer(SCORES) for _ in range(3)]
    works = [workspace(killed, r) for r in range(3)]
    with pytest.MonkeyPatch.context() as patched:
        found = Threads(3, patched).run(lambda r: score(table, again[r], works[r]))
    assert rows(found[0]) == expected
    assert [len(oracle.questions) for oracle in again] == [64, 64, 0]  # the third shard of rank 0, and the damaged one
    assert works[0].notices == ["a stored answer of the oracle is damaged; its questions are queried again"]
    one = scorer(SCORES)
    assert rows(score(table, one, workspace(killed))) == expected
    assert one.questions == []
    assert [f.name for f in (killed / "work").iterdir()] == ["scores.jsonl"]


def sample_and_judge(folder: Path, rank: int) -> None:
    """What the ranks of the next test run, each step in a workspace of its own."""
    policy, model = Policy(folder / "policy", "tiny"), RewardModel(folder / "model")
    where = folder / "one" if not (folder / "both").exists() else folder / "two"
    found = sampled(policy, workspace(where / "sample", rank))
    if rank == 0:
        saved(found, where / "completions")
    answers = Completions(folder / "one" / "completions")
    scored = score(answers, model, workspace(where / "score", rank))
    compared = compare(answers, model, workspace(where / "compare", rank))
    if rank == 0:
        (where / "paths").write_text(f"{scored.path}\n{compared.path}")


@pytest.mark.slow
def test_real_ranks_have_the_tables_of_one_process(tmp_path: Path) -> None:
    tiny_policy(tmp_path / "policy")
    source = Policy(tmp_path / "policy", "tiny")
    (tmp_path / "model").mkdir()
    save_reward_model(open_reward_model(source, torch.float32), source, tmp_path / "model")
    for world, folder in ((1, "one"), (2, "two")):
        (tmp_path / folder).mkdir()
        run_ranks(sample_and_judge, world, tmp_path)
        (tmp_path / "both").mkdir(exist_ok=True)
    tables = [
        [(tmp_path / where / "completions/table.arrow").read_bytes()]
        + [(Path(p) / "table.arrow").read_bytes() for p in (tmp_path / where / "paths").read_text().splitlines()]
        for where in ("one", "two")
    ]
    assert tables[0] == tables[1]
    assert Scores(Path((tmp_path / "two" / "paths").read_text().splitlines()[0])).table.column("score").null_count == 0
