"""Arrow tables whose bytes are a function of their rows, and conversion of rows to a schema."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from tasks.contract import DataError

ROWS_PER_BATCH = 4096
"""Rows of every record batch except the last: equal content gives equal bytes."""


def conform(table: pa.Table, schema: pa.Schema, what: str, metadata: Mapping[str, str] | None = None) -> pa.Table:
    """`table` with exactly the columns, types and order of `schema`; `what`: its name in messages. Raises DataError."""
    unknown = [n for n in table.column_names if n not in schema.names]
    if unknown:
        raise DataError(f"{what} has unknown columns {unknown}; its columns are {schema.names}")
    columns = [_column(table, field, what) for field in schema]
    return pa.table(columns, schema=schema.with_metadata(dict(metadata or {}) or None))


def _column(table: pa.Table, field: pa.Field, what: str) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        if not field.nullable:
            raise DataError(f"{what} needs the column '{field.name}' ({field.metadata[b'about'].decode()})")
        return pa.nulls(table.num_rows, field.type)
    column = table.column(field.name)
    if not field.nullable and column.null_count:
        raise DataError(f"{what}.{field.name} has {column.null_count} nulls, but nulls are not allowed")
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        raise DataError(f"{what}.{field.name}: {column.type} cannot be converted to {field.type}: {e}") from None


@contextmanager
def open_table(path: Path) -> Iterator[pa.RecordBatchFileReader]:
    """A table on disk, memory-mapped. Raises DataError for a damaged file."""
    try:
        with pa.memory_map(str(path)) as source:
            yield pa.ipc.open_file(source)
    except pa.ArrowInvalid as e:
        why = str(e).splitlines()[0]
        raise DataError(f"{path} is damaged ({why}): run `alignflow verify`, then the next run recomputes it") from None


def write_table(path: Path, schema: pa.Schema, parts: Iterable[pa.Table]) -> None:
    """Write `parts` as uncompressed IPC in batches of `ROWS_PER_BATCH` rows: equal rows give equal bytes.

    `take` rebuilds every buffer, so the bytes do not depend on earlier slices or filters.
    """
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        rest = schema.empty_table()
        for part in parts:
            rest = pa.concat_tables([rest.replace_schema_metadata(None), part.replace_schema_metadata(None)])
            full = rest.num_rows // ROWS_PER_BATCH * ROWS_PER_BATCH
            for start in range(0, full, ROWS_PER_BATCH):
                writer.write_batch(_rebuild(rest.slice(start, ROWS_PER_BATCH), schema))
            rest = rest.slice(full)
        if rest.num_rows:
            writer.write_batch(_rebuild(rest, schema))


def _rebuild(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    dense = table.take(pa.array(range(table.num_rows), pa.int64())).combine_chunks()
    return pa.RecordBatch.from_arrays([_first_chunk(c) for c in dense.columns], schema=schema)


def _first_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
