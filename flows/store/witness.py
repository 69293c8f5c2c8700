"""Whether files outside of the store were changed while a step read them.

A model that is referred to, or a file that a source reads, can be written over during a step and put back. Its content
is then the same, and its size and modification time can be too; its ctime or its inode differ. So a file counts as
touched where they differ from before the step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.store.content import Contents, files_of
from flows.system.json_files import read_json, write_json
from tasks.contract import JSON, DataError

Touch = list[int]
"""Inode, size, modification time and ctime (ns) of a file; of a folder or a link its inode and, unless an entry came or
went, its ctime. No device: its number may change with a restart."""


class Witness:
    """The state of `paths` (with the content digest that the key holds) before a step.

    Raises DataError where the content of one of them has another digest.
    """

    def __init__(self, paths: Mapping[Path, str], contents: Contents, step: str) -> None:
        self._paths, self._step = paths, step
        self.before = dict(_touches(paths))
        for path, digest in paths.items():
            if not os.path.exists(path) or contents.digest(path) != digest:
                raise DataError(f"'{step}' reads {path}, which is no longer what its key holds: run again")

    def check(self) -> None:
        """Raise DataError where anything was written, replaced or moved since."""
        touched = self._first_touched(dict(_touches(self._paths)))
        if touched:
            raise DataError(
                f"{touched} was written, replaced or moved during '{self._step}', which reads it, so its result is "
                "not kept. Finished steps are: see that nothing writes there and run again"
            )

    def _first_touched(self, now: dict[str, Touch]) -> str:
        return next((p for p in sorted(self.before | now) if _differ(self.before.get(p), now.get(p))), "")

    def same_as(self, file: Path) -> bool:
        """Whether an earlier attempt, which saved `file`, read the same files; true where there was none."""
        try:
            earlier: dict[str, Touch] = read_json(file)
            return not self._first_touched(earlier)
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False

    def save(self, file: Path) -> None:
        """Keep the state of the files, if there are any, for a later attempt at the same step."""
        state: dict[str, JSON] = {path: [*touch] for path, touch in self.before.items()}
        if state:
            write_json(file, state)


def _touches(paths: Mapping[Path, str]) -> Iterator[tuple[str, Touch]]:
    for path in paths:
        for one in (path, *(path / f for f in (files_of(path) if path.is_dir() else ()))):
            yield from _touch(one)
        for folder, folders, _ in os.walk(path) if path.is_dir() else ():
            folders[:] = [f for f in folders if not f.startswith(".")]
            yield from _touch(Path(folder))


def _touch(path: Path) -> Iterator[tuple[str, Touch]]:
    """Of a path and, where it is a link, of the link itself; nothing for a path that does not exist."""
    for name, follow in ((str(path), True), (f"{path} (link)", False)):
        if not follow and not path.is_symlink():
            continue
        try:
            s = os.stat(path, follow_symlinks=follow)
        except OSError:
            continue
        yield name, [s.st_ino, -1 if follow and path.is_dir() else s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def _differ(before: Touch | None, now: Touch | None) -> bool:
    if before is None or now is None:
        return True
    if before[1] == now[1] == -1 and before[2] != now[2]:  # a folder in which an entry came or went
        return before[0] != now[0]
    return before != now
