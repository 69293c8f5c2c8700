"""Permissions of what is in a store, locks of other users, and stores that are read-only."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flows import cli
from flows.commands.project import Project
from flows.python.codebase import tasks_in
from flows.run.executors.snapshot import snapshot
from flows.store.maintenance import verify_store
from flows.store.runs import Runs
from flows.store.store import Store
from flows.system.locks import holder, is_free, try_lock
from flows.system.modes import own_umask, umask_of
from tasks.kinds import Policy
from tests.flows.fabricated import fabricate
from tests.flows.store.made import model, prompts, put


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    with own_umask():
        yield


@pytest.mark.parametrize(
    ("mode", "umask"), [(0o700, 0o077), (0o755, 0o077), (0o775, 0o002), (0o2770, 0o007), (0o777, 0o000)]
)
@pytest.mark.parametrize("before", [0o022, 0o077, 0o000])
def test_a_folder_that_others_may_write_to_decides_for_all_in_it(
    tmp_path: Path, mode: int, umask: int, before: int
) -> None:
    root = tmp_path / "artifacts"
    root.mkdir()
    root.chmod(mode)
    os.umask(before)
    store = Project(artifacts=root).store
    lock = try_lock(root / "locks" / "a.lock")
    put(store, prompts("a"))
    work = store.partial("b" * 32) / "output"
    work.mkdir(parents=True)
    model(work, "weights")
    (work / "model.safetensors").chmod(0o640)  # as it was copied from somewhere
    put(store, Policy(work), "fit")
    store.contents.save()
    assert store.index.entries()
    Runs(store).begin("sppo", {})
    (tmp_path / "tasks").mkdir(mode=0o755)
    (tmp_path / "tasks" / "a.py").touch(0o644)
    with snapshot([tasks_in(tmp_path / "tasks")], root):
        pass
    assert lock
    for path in root.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_new_store_is_its_owners_alone_and_what_is_exported_is_not(tmp_path: Path) -> None:
    assert umask_of(tmp_path / "none") == 0o077
    os.umask(0o022)
    record = put(Project(artifacts=tmp_path / "artifacts").store, prompts("a"))
    assert (tmp_path / "artifacts").stat().st_mode & 0o777 == 0o700
    os.umask(0o022)
    cli.export(Project(artifacts=tmp_path / "artifacts"), record.content[:8], tmp_path / "exported")
    assert (tmp_path / "exported" / "table.parquet").stat().st_mode & 0o777 == 0o644


def test_the_lock_of_another_user_is_taken_though_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "a.lock", os.open
    path.write_text("theirs")

    def theirs(name: Any, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR and Path(name) == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return real(name, flags, *mode)

    monkeypatch.setattr(os, "open", theirs)
    assert is_free(path)
    held = try_lock(path, "mine")
    assert held
    assert holder(path) == "theirs"
    assert not is_free(path)
    assert try_lock(path) is None
    held.release()
    assert not path.exists()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a finished run whose disk is made read-only, where this process may do that."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        made = fabricate(disk)
        (made.store.root / made.records["base_check/logps"].path / "table.arrow").write_bytes(b"noise")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_store_can_be_looked_at(read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = read_only / "artifacts"
    file = Path(__file__).parents[3] / "pipelines.yaml"
    project = Project(file, artifacts)
    cli.list_(project)
    with pytest.raises(typer.Exit) as ended:
        cli.check(project, "sppo")
    assert ended.value.exit_code == 0
    cli.plan(project, "sppo")
    cli.show(project, "last")
    cli.show(project, "last:policy@2")
    output = capsys.readouterr().out
    assert "never run" in output
    assert "policy@2" in output
    (logps,) = (s for s in Runs(Store(artifacts)).find_run("last").steps.values() if s.id == "base_check/logps")
    assert Store(artifacts).lookup(logps.key).reason == f"its content Logps/{logps.content} was damaged"
    (artifact,) = verify_store(Store(artifacts))
    assert artifact.trouble.endswith("was damaged")
