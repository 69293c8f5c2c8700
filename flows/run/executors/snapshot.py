"""The copy of the code that a run executes: an edit during a long run changes neither its keys nor its work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from flows.python.codebase import Package
from flows.python.linking import DATA
from flows.system.locks import locked, try_lock
from tasks.files import temporary


@contextmanager
def snapshot(packages: Sequence[Package], artifacts: Path) -> Iterator[Path]:
    """A folder with a copy of each package, the same folder for equal content, within the block.

    Copies that no run uses are removed. A use is a shared `flock`, so a killed run holds none.
    """
    files = {name: file for package in packages for name, file in _files(package)}
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


def copied(packages: Sequence[Package], folder: Path) -> tuple[Package, ...]:
    """The packages as they lie in a snapshot."""
    return tuple(replace(package, folder=folder / package.name) for package in packages)


def _files(package: Package) -> Iterator[tuple[str, Path]]:
    """The code, and the data files that code may name."""
    for file in sorted([*package.folder.rglob("*.py"), *(package.folder / DATA).rglob("*")]):
        if file.is_file():
            yield f"{package.name}/{file.relative_to(package.folder).as_posix()}", file


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
