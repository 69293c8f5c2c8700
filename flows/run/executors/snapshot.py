"""The copy of `tasks/` that a run executes: an edit during a long run changes neither its keys nor its work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from flows.system.locks import locked, try_lock
from tasks.files import temporary


@contextmanager
def snapshot(project: Path, artifacts: Path) -> Iterator[Path]:
    """A folder that holds a copy of `project/tasks`, the same for equal content, kept while somebody uses it.

    Copies that nobody uses any more are removed. A use is a shared `flock`, so a killed run holds nothing.
    """
    files = _files(project / "tasks")
    digest = blake3()
    for name, source in files.items():
        content = source.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    name = digest.hexdigest(16)
    folder = artifacts / "snapshots" / name
    with locked(_lock(artifacts, name), shared=True):
        if not folder.exists():
            _copy(files, folder)
        _sweep(artifacts)
        yield folder


def _files(tasks: Path) -> dict[str, Path]:
    found = (p for p in sorted(tasks.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(tasks.parent).as_posix(): p for p in found}


def _copy(files: dict[str, Path], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = temporary(folder)
    for name, source in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, fresh / name)
    try:
        fresh.rename(folder)
    except OSError:  # another run was quicker
        shutil.rmtree(fresh)


def _lock(artifacts: Path, name: str) -> Path:
    return artifacts / "locks" / f"snapshot-{name}.lock"


def _sweep(artifacts: Path) -> None:
    for folder in (artifacts / "snapshots").iterdir():
        if held := try_lock(_lock(artifacts, folder.name.strip(".").split(".")[0])):
            shutil.rmtree(folder, ignore_errors=True)
            held.release()
