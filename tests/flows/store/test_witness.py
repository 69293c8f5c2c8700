"""A file outside of the store that is changed during a step shows, also when it was put back."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.store.content import Contents
from flows.store.witness import Witness
from tasks.contract import DataError
from tests.flows.store.made import model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model(tmp_path / "models" / "base", "weights")
    (tmp_path / "models" / "base" / "config.json").write_text("{}")
    return tmp_path / "models" / "base"


def witness(path: Path) -> Witness:
    """Taken once the file system's clock, which is coarse, has gone on since the files were written."""
    contents, probe = Contents(), path.parent / "probe"
    made = max(p.lstat().st_ctime_ns for p in path.parent.rglob("*"))
    while not probe.exists() or probe.stat().st_ctime_ns <= made:
        probe.write_text("")
    return Witness({path: contents.digest(path)}, contents, "fit")


def overwrite_and_put_back(path: Path) -> None:
    """Other bytes in place, then the old ones, with the old times."""
    file = path / "model.safetensors"
    before, stat = file.read_bytes(), file.stat()
    for data in (b"WEIGHTS", before):
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def swap_a_file(path: Path) -> None:
    (path / "model.safetensors").rename(path / ".aside")
    (path / "model.safetensors").write_text("WEIGHTS")
    (path / ".aside").replace(path / "model.safetensors")


def swap_the_folder(path: Path) -> None:
    other = shutil.copytree(path, path.with_name("other"))
    path.rename(path.with_name("aside"))
    other.rename(path)
    path.rename(other)
    path.with_name("aside").rename(path)


def remove(path: Path) -> None:
    (path / "config.json").unlink()


def add(path: Path) -> None:
    (path / "adapter.json").write_text("{}")


@pytest.mark.parametrize("change", [overwrite_and_put_back, swap_a_file, swap_the_folder, remove, add])
def test_a_model_that_was_changed_during_a_step_is_refused_by_name(base: Path, change: Callable[[Path], None]) -> None:
    seen = witness(base)
    seen.check()
    change(base)
    with pytest.raises(DataError, match=r"models/base.* was written, replaced or moved during 'fit', which reads it"):
        seen.check()


def test_a_link_that_led_elsewhere_for_a_while_is_refused(base: Path) -> None:
    link, other = base.with_name("latest"), base.with_name("other")
    shutil.copytree(base, other)
    link.symlink_to(base)
    seen = witness(link)
    seen.check()
    for target in (other, base):
        link.unlink()
        link.symlink_to(target)
    with pytest.raises(DataError, match=r"latest \(link\) was written, replaced or moved"):
        seen.check()


def test_reading_and_what_is_no_content_are_no_change(base: Path) -> None:
    seen = witness(base)
    (base / "model.safetensors").read_bytes()
    (base / ".cache").mkdir()
    (base / ".cache" / "lock").write_text("")
    (base.parent / "another").mkdir()
    seen.check()


def test_what_is_no_longer_what_the_key_holds_is_refused_before_any_work(base: Path) -> None:
    contents = Contents()
    before = contents.digest(base)
    (base / "config.json").write_text('{"layers": 3}')
    with pytest.raises(DataError, match=r"'fit' reads .*/models/base, which is no longer what its key holds"):
        Witness({base: before}, contents, "fit")
    with pytest.raises(DataError, match="no longer what its key holds"):
        Witness({base.with_name("gone"): before}, contents, "fit")


def test_a_later_attempt_knows_whether_an_earlier_one_saw_the_same(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    assert witness(base).same_as(file)  # there was no earlier attempt
    witness(base).save(file)
    assert witness(base).same_as(file)
    overwrite_and_put_back(base)
    assert not witness(base).same_as(file)
    file.write_text("[1, 2")
    assert not witness(base).same_as(file)
