"""Files of a store that several threads, processes and disks have to do with at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.python.codebase import tasks_in
from flows.run.executors.snapshot import snapshot
from flows.run.prefect import server
from flows.store.content import Contents
from flows.store.store import Store
from flows.system.json_files import read_json, write_json
from tasks.files import atomic_replace
from tests.flows.codebases import code_index
from tests.flows.store.made import prompts, put

THREADS = 16
Tree = Callable[..., Path]


def at_once(work: Callable[[int], object], rounds: int = 5) -> None:
    """Call `work` in 16 threads that start together, several times; raises what any of them raises."""
    barrier = threading.Barrier(THREADS)

    def started_together(i: int) -> None:
        for n in range(rounds):
            barrier.wait(120)
            work(i * rounds + n)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(started_together, range(THREADS)))


def left(folder: Path) -> list[str]:
    """Temporary files below a folder."""
    return [p.name for p in folder.rglob(".*") if p.is_file()]


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_replace(file) as fresh:
        fresh.with_name("folder").joinpath("b").write_text("new")
    assert file.read_text() == "old"
    assert left(tmp_path) == []


def test_sixteen_threads_that_write_one_file_leave_one_of_their_values_whole(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    at_once(lambda i: write_json(file, {"value": [i] * 1000}, durable=False))
    value = read_json(file)["value"]
    assert len(value) == 1000
    assert len(set(value)) == 1
    assert left(tmp_path) == []


def test_sixteen_threads_that_save_the_caches_of_one_store_all_go_on(tree: Tree, tmp_path: Path) -> None:
    helpers = "".join(f"def helper{n}():\n    return {n}\n\n" for n in range(300))
    root = tree(a=f"def task():\n    return helper1()\n\n{helpers}")
    store, cache = Store(tmp_path / "artifacts"), tmp_path / "artifacts" / ".cache"

    def work(i: int) -> None:
        index = code_index(root, cache / f"python{i % 3}.json")
        index.reach("tasks.a", "task")
        index.codebase.save()
        contents = Contents(cache / "contents.json")
        contents.file(root / "tasks" / "a.py", trusted=0)
        contents.save()
        put(store, prompts("a"), seed=i % 20)
        assert Store(store.root).index.entries()
        with snapshot([tasks_in(root / "tasks")], store.root) as copy:
            assert (copy / "tasks" / "a.py").exists()

    at_once(work, rounds=3)
    assert len(store.index.entries()) == 20
    assert left(store.root) == []


def test_sixteen_threads_that_begin_with_the_migrated_database_all_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "template.db").write_bytes(b"migrated" * 10_000)
    monkeypatch.setattr(server, "template", lambda: tmp_path / "template.db")
    for n in range(3):
        home = tmp_path / f"home{n}"
        at_once(lambda _, home=home: server.use_template(home), rounds=1)
        assert (home / "prefect.db").read_bytes() == b"migrated" * 10_000
        assert left(home) == []


@pytest.mark.parametrize("why", ["no folder can be made there", "the disk is full"])
def test_a_cache_that_cannot_be_written_stops_nobody(
    tree: Tree, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(a="def task():\n    return 1\n")
    store = Store(tmp_path / "artifacts")
    record = put(store, prompts("a"))
    if why == "the disk is full":
        monkeypatch.setattr("tasks.files.sync", _full)
        monkeypatch.setattr(Path, "replace", _full)
    else:
        (store.root / ".cache").write_text("a file where a folder should be")
    index = store.code([tasks_in(root / "tasks")])
    assert index.reach("tasks.a", "task").units
    index.codebase.save()
    assert list(store.index.entries()) == [record.key]
    store.contents.file(root / "tasks" / "a.py", trusted=0)
    store.contents.save()


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")
