"""Handles of directories of data, and of tables in them: what every kind of artifact is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import pyarrow as pa

from tasks.arrow import ROWS_PER_BATCH, conform, open_table, write_table
from tasks.contract import DataError


class Member(NamedTuple):
    """An artifact that another one cannot be opened without, as the files of that one name it."""

    content: str
    """Its content digest; empty where it was not in a store."""
    kind: str = ""
    """Empty: a model of any kind."""


class Artifact:
    """A handle of a directory of data. `digest` is that of its content once it is in the store."""

    noun = ""
    """What messages call it, with its article; empty: by its kind."""

    def __init__(self, path: Path | None = None, digest: str = "") -> None:
        self._path = path
        self.digest = digest

    @property
    def path(self) -> Path:
        if self._path is None:
            raise DataError(f"this {type(self).__name__} has not been saved yet, so it has no path")
        return self._path

    @property
    def refers_to(self) -> Mapping[str, Sequence[Member]]:
        """Role → the artifacts that its files name by content, without which it cannot be opened; for most kinds none.

        Whoever opens it from a store gives it their handles (`attach`).
        """
        return {}

    def attach(self, members: Mapping[str, Sequence[Artifact]]) -> None:
        """Take the handles of what it refers to, by role."""

    def save(self, directory: Path) -> None:
        """Write the data into `directory`, which exists and is empty. Only called for handles without a path."""
        raise DataError(f"{type(self).__name__} cannot be saved from memory; return one with a path")


class Table(Artifact):
    """Rows of one schema in `table.arrow`; some kinds add further tables."""

    SCHEMA: ClassVar[pa.Schema]
    _table: pa.Table | None = None
    _batches: Iterable[pa.RecordBatch] | None = None
    _metadata: Mapping[str, str] | None = None

    @classmethod
    def of(cls, data: Any, metadata: Mapping[str, str] | None = None) -> Self:
        """A handle of rows in memory: a pyarrow Table, a polars frame, or an iterable of record batches.

        An iterable is consumed when the handle is saved, so memory stays flat. Missing nullable columns become null.
        Raises DataError where the rows do not conform.
        """
        handle = cls()
        handle._metadata = metadata
        if hasattr(data, "to_arrow"):
            data = data.to_arrow()
        if isinstance(data, pa.Table):
            handle._table = cls.conform(data, handle._metadata)
        else:
            handle._batches = data
        return handle

    @classmethod
    def conform(cls, table: pa.Table, metadata: Mapping[str, str] | None = None) -> pa.Table:
        """`table` with exactly the columns, types and order of the schema. Raises DataError."""
        return conform(table, cls.SCHEMA, cls.__name__, metadata)

    @property
    def table(self) -> pa.Table:
        """All rows, memory-mapped if they are on disk."""
        if self._table is None:
            if self._batches is not None:
                raise DataError("a streamed table can be read only after it is saved")
            with open_table(self.path / "table.arrow") as reader:
                self._table = reader.read_all()
            self._check()
        return self._table

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows batch by batch, for tables that do not fit in memory."""
        if self._path is None:
            yield from self.table.to_batches(max_chunksize=ROWS_PER_BATCH)
            return
        with open_table(self.path / "table.arrow") as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)

    @property
    def frame(self) -> Any:
        """All rows as a polars DataFrame (no copy where Arrow's layout allows)."""
        import polars as pl

        return pl.from_arrow(self.table)

    @property
    def metadata(self) -> dict[str, str]:
        """The schema's metadata, e.g. `template`: digest of tokenizer and chat template that made the tokens."""
        if self._path is None:
            return dict(self._metadata or {})
        return {k.decode(): v.decode() for k, v in (self.table.schema.metadata or {}).items()}

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def _check(self) -> None:
        schema = cast(pa.Table, self._table).schema.remove_metadata()
        if not schema.equals(self.SCHEMA.remove_metadata()):
            raise DataError(f"{self.path / 'table.arrow'} is not a {type(self).__name__}: it has {schema.names}")

    def save(self, directory: Path) -> None:
        schema = self.SCHEMA.with_metadata(dict(sorted((self._metadata or {}).items())) or None)
        write_table(directory / "table.arrow", schema, self._conformed())

    def _conformed(self) -> Iterator[pa.Table]:
        if self._batches is None:
            yield self.table
            return
        for batch in self._batches:
            yield type(self).conform(pa.Table.from_batches([batch]))
