"""The store of results: data by content, records by key. A result exists once its record does, which is written last.

<kind>/<content>/    data only
keys/<key>.json      the record of a step
runs/<id>.json       a run (flows.store.runs)
partial/<key>/       work of a step that has not finished
answers/             answers of oracles, which all steps share (tasks.answers)
damaged/             content that no longer had its digest
ledger/records/      records of what ledgers name, kept whatever becomes of their keys (flows.store.retained)
locks/ logs/ ledger/ figures/ .cache/
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flows.python.code_index import CodeIndex
from flows.python.codebase import CACHE, Codebase, Package
from flows.python.declared import Declarations
from flows.python.importing import active_packages
from flows.store.content import LARGE, Contents
from flows.store.index import RecordIndex
from flows.store.keys import Key
from flows.store.records import HowMade, Record, new_record, read_record, write_record
from flows.store.references import Reference, References
from flows.system.json_files import make_durable
from flows.system.locks import WaitingCallback, is_free, locked
from flows.system.modes import umask_of
from tasks.contract import DataError, SpecError
from tasks.files import atomic_replace, sync

if TYPE_CHECKING:
    from tasks.kinds import Artifact

ANSWERS = "answers"
"""Where the answers of oracles are, below the store (`tasks.answers`)."""
KEPT = "ledger/records"
"""Where the records of what ledgers name are, below the store."""


class Lookup(NamedTuple):
    """The record of a key with intact content, or why there is none."""

    record: Record | None
    reason: str


class Store:
    """A folder of results. Safe to use from several threads and processes at once."""

    def __init__(self, root: Path, packages: Callable[[], Sequence[Package]] = active_packages) -> None:
        self.root = root.resolve()
        self._packages = packages
        self.contents = Contents(self.root / ".cache" / "contents.json")
        self.index = RecordIndex(self.root)
        self.kept = RecordIndex(self.root, KEPT, "kept")
        self.references = References(self.root, self.contents, (self.index, self.kept))

    @cached_property
    def declared(self) -> Declarations:
        """What the tasks that made its results declare about themselves."""
        return Declarations(Codebase(self._packages()))

    def code(self, packages: Sequence[Package]) -> CodeIndex:
        """An index of the code in these packages, whose parses this store remembers."""
        return CodeIndex(Codebase(packages, self.python_cache))

    @property
    def python_cache(self) -> Path:
        """The file of what was parsed before."""
        return self.root / CACHE

    # Records

    def record(self, key: str) -> Record | None:
        """The record of a key, whatever state its content is in."""
        return read_record(self.root / "keys" / f"{key}.json")

    def record_of(self, key: str) -> Record | None:
        """The record of a key, if its content, and what that refers to, is intact. Damaged content is set aside."""
        return self.lookup(key).record

    def lookup(self, key: str) -> Lookup:
        """Like `record_of`, with the reason of a miss."""
        file = self.root / "keys" / f"{key}.json"
        record = read_record(file)
        if record is None or record.key != key:
            if not file.exists():
                return Lookup(None, "never run")
            self.put_aside(file, f"record-{key}")
            return Lookup(None, "its record was damaged")
        if trouble := self.check(record) or self.references.error(record):
            return Lookup(None, trouble)
        return Lookup(record, f"made {record.made[:16].replace('T', ' ')}")

    def check(self, record: Record) -> str:
        """What is wrong with a record's content, which is set aside then; empty if nothing."""
        trouble = self.integrity_error(record)
        return f"{trouble}{self._set_aside(record)}" if trouble else ""

    def usability_error(self, record: Record) -> str:
        """What is wrong with a record's content, or with what that refers to; empty if nothing."""
        return self.integrity_error(record) or self.references.error(record)

    def integrity_error(self, record: Record, *, trusted: int = LARGE) -> str:
        """What is wrong with a record's content; empty if nothing. `trusted`: see `Contents.digest`."""
        path = self.root / record.path
        if path.is_dir():
            if self.contents.digest(path, trusted=trusted) == record.content:
                return ""
            return f"{record.location} has changed" if record.location else f"its content {record.path} was damaged"
        if record.absent:
            return f"its content was {record.absent}"
        if record.location:
            return f"{record.location} is gone"
        if aside := sorted(self.root.glob(f"damaged/{record.kind}-{record.content}-*")):
            return f"its content was damaged; set aside in damaged/{aside[-1].name}"
        return f"its content {record.path} is missing"

    def _set_aside(self, record: Record) -> str:
        """Move content out of the way, unless another process has made it again meanwhile. Returns where it is now."""
        path = self.root / record.path
        try:
            with self.lock(f"content-{record.content}"):
                if not os.path.lexists(path) or not self.integrity_error(record):
                    return ""
                if path.is_symlink():
                    path.unlink(missing_ok=True)
                    return ""
                return self.put_aside(path, f"{record.kind}-{record.content}")
        except OSError:  # of the lock: the store is read-only
            return ""

    def put_aside(self, path: Path, name: str) -> str:
        """Move what was damaged to `damaged/`. Returns where it is now; empty where the store is read-only."""
        to = self.root / "damaged" / f"{name}-{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)
        except OSError:
            return ""
        return f"; set aside in {to.relative_to(self.root).as_posix()}"

    def open(self, record: Record) -> Artifact:
        """A handle on a record's data, by its kind. Raises DataError, also where what it refers to is gone."""
        from tasks.kinds import KINDS

        if record.kind not in KINDS:
            raise DataError(f"the record {record.key} is of kind '{record.kind}'; known are {sorted(KINDS)}")
        if not (self.root / record.path).is_dir():
            error = self.integrity_error(record)
            raise DataError(f"{record.kind} {record.content[:12]} ({record.task}) cannot be read: {error}")
        members = self.references.of(record)
        return Reference(record.kind, record.content, self.root / record.path, members=members).handle

    # Publishing

    def publish(
        self, key: Key, handle: Artifact, *, parents: Mapping[str, Sequence[Record]] | None = None,
        made: HowMade | None = None, fresh: bool = False,
    ) -> Record:  # fmt: skip
        """File a step's result under its key, and return the record. The caller holds `lock(key.digest)`.

        A handle without a path is saved; one in the step's partial folder is moved; one on another artifact of this
        store is linked; one outside is referred to, its location in the record. A kill before the end leaves no record.
        A key keeps its first content: if it has an intact one, that one is returned, unless `fresh`. Raises DataError
        where there is no data, or what it refers to is not in the store.
        """
        directory, location = self._directory_of(key.digest, handle)
        content = self.contents.digest(directory, trusted=LARGE if location else -1)
        rows = _rows(directory)
        with locked(self.root / "locks" / "gc", shared=True):
            refers_to = self.references.of_artifact(type(handle)(directory))
            first = self.record(key.digest)
            if first and first.content != content and not fresh and not self.usability_error(first):
                shutil.rmtree(self.partial(key.digest), ignore_errors=True)
                return first
            record = new_record(
                key, type(handle).__name__, content, parents or {}, made or HowMade(),
                location=location, refers_to=refers_to, rows=rows, remade=_remade(first, content),
            )  # fmt: skip
            self._place(directory, record)
            write_record(self.root / "keys" / f"{key.digest}.json", record)
        shutil.rmtree(self.partial(key.digest), ignore_errors=True)
        return record

    def adopt(self, record: Record, directory: Path | None) -> None:
        """File a record that another store made, with its content: a directory, which is moved here, or the folder of a
        user's that the record names. None: its content is here, or stays absent. The caller holds `lock(record.key)`.
        """
        with locked(self.root / "locks" / "gc", shared=True):
            if directory is not None:
                self._place(directory, record)
            write_record(self.root / "keys" / f"{record.key}.json", record)

    def _directory_of(self, key: str, handle: Artifact) -> tuple[Path, str]:
        """The directory to be published, and its location if it lies outside."""
        partial = self.partial(key)
        if handle._path is None:
            directory = _new_folder(partial / ".publish")
            handle.save(directory)
            return directory, ""
        path = handle.path.resolve()
        if not path.is_dir():
            raise DataError(f"the step returned a {type(handle).__name__} at {path}, where there is no directory")
        if partial in path.parents:
            return path, ""
        if path == partial:
            raise DataError("a step returns a folder inside its workspace (`work.output`), not the workspace itself")
        if self.root in path.parents:
            directory = _new_folder(partial / ".publish")
            shutil.copytree(path, directory, copy_function=os.link, dirs_exist_ok=True)
            return directory, ""
        return path, str(path)

    def _place(self, directory: Path, record: Record) -> None:
        """Move, or refer to, a directory under its content's name; keep what is already there and intact."""
        target = self.root / record.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            if not self.integrity_error(record):
                return
            self._set_aside(record)
        with self.lock(f"content-{record.content}"):
            if target.is_dir():  # equal content, published under another key meanwhile
                return
            if record.location:
                with atomic_replace(target, durable=False) as fresh:
                    fresh.symlink_to(record.location, target_is_directory=True)
            else:
                make_durable(directory, umask_of(self.root))
                directory.rename(target)
            sync(target.parent)

    # Work in progress

    def partial(self, key: str) -> Path:
        """The folder of a step that has not finished. It need not exist."""
        return self.root / "partial" / key

    def begun(self, key: str) -> bool:
        """Whether an earlier attempt left work to go on from."""
        partial = self.partial(key)
        left = (p.relative_to(partial) for p in partial.rglob("*") if p.is_file())
        return any(p.parts[0] != "output" and not p.parts[0].startswith(".") for p in left)

    def lock(self, name: str, who: str = "", *, waiting: WaitingCallback | None = None) -> AbstractContextManager[None]:
        """Hold the lock of a key, or of another name. The kernel frees it when its holder dies."""
        return locked(self.root / "locks" / f"{name}.lock", who, waiting=waiting)

    def is_locked(self, name: str) -> bool:
        return not is_free(self.root / "locks" / f"{name}.lock")

    def records(self, folder: str = "keys") -> Iterator[Record]:
        """Every record, unverified; with `KEPT` those that are kept beside the ledgers."""
        records = (read_record(file) for file in sorted((self.root / folder).glob("*.json")))
        return (record for record in records if record)

    def inside(self, *parts: str) -> Path:
        """A path below the store. Raises SpecError for one that would leave it."""
        path = self.root.joinpath(*parts)
        if not os.path.normpath(path).startswith(f"{self.root}{os.sep}"):
            raise SpecError(f"{'/'.join(parts)} leaves the store {self.root}")
        return path


def _remade(first: Record | None, content: str) -> str:
    if first is None:
        return ""
    return first.content if first.content != content else first.remade


def _new_folder(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _rows(directory: Path) -> int | None:
    """Rows of a table on disk; None for other kinds."""
    from tasks.arrow import open_table

    file = directory / "table.arrow"
    if not file.exists():
        return None
    with open_table(file) as reader:
        return sum(int(reader.get_batch(i).num_rows) for i in range(reader.num_record_batches))
