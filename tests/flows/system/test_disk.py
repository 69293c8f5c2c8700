"""A full disk is blamed in one line, and what stands in the way of nothing does not stop the run."""

import errno
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.commands.errors import with_plain_errors
from flows.reporting.tracker import Tracker
from flows.run.run import Execution, run_pipeline
from flows.store.store import Store
from flows.system.disk import blaming_the_disk
from tasks.contract import DataError
from tests.flows.fabricated import fabricate
from tests.flows.tiny import graph, node, tiny_project


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_blamed_and_another_error_stays_what_it_is(tmp_path: Path, number: int) -> None:
    with pytest.raises(DataError, match=f"^the disk of {tmp_path} is full: make room"), blaming_the_disk(tmp_path):
        raise OSError(number, "text", "a file that is not to blame")
    with pytest.raises(FileNotFoundError), blaming_the_disk(tmp_path):
        (tmp_path / "none").read_text()


def test_any_command_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        with_plain_errors(no_space)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "alignflow: a disk is full: make room, then run the same again\n"


def test_what_mlflow_did_not_take_is_told_as_lost_where_it_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fabricate(tmp_path, rounds=1)
    monkeypatch.setattr("flows.reporting.sinks.servers.MlflowServer", no_space)
    monkeypatch.setattr("flows.reporting.delivery.PendingRuns.add", no_space)
    tracker = Tracker(made.store)
    tracker.run_started(made.run, made.graph, tmp_path)
    assert tracker.close(10).endswith("the next run cannot know of it (No space left on device)")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 24 MB, where this process may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)], check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 300_000, 1_000_000, 1_500_000])
def test_a_run_on_a_full_disk_blames_it_and_the_next_one_goes_on(
    small: Path, free: int, capfd: pytest.CaptureFixture[str]
) -> None:
    project = tiny_project(small)
    store = Store(project / "artifacts")
    wanted = graph(project, node("a", "numbers", count=2), node("b", "shout", inputs={"prompts": "a"}))
    (small / "fill").write_bytes(b"x" * (24 * 2**20 - 2**18 - free))
    tracker, done = Tracker(store), False
    try:  # the disk ends the run, a step of it, or only what Prefect wanted to write about a run that is done
        stopped = run_pipeline(Execution(wanted, store, threads=1, listeners=[tracker]))
        reasons, done = [str(e) for e in stopped.errors.values()], stopped.run.status == "done"
    except DataError as e:
        reasons = [str(e)]
    tracker.close()
    assert reasons or done
    assert all(re.match(r"the disk of .* is full", reason) for reason in reasons), reasons
    assert "Traceback" not in capfd.readouterr().err
    (small / "fill").unlink()
    assert run_pipeline(Execution(wanted, store, threads=1)).run.status == "done"
