"""Concatenation of tables: ids must be unique, and tokens must come from one template."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.contract import DataError
from tasks.kinds import Completions, Demonstrations, Labels, Preferences, Prompts, Table, WinProbs

_IDS: tuple[tuple[type[Table], tuple[str, ...]], ...] = (
    (Completions, ("completion_id",)), (Demonstrations, ("completion_id",)), (Labels, ("completion_id",)),
    (Prompts, ("prompt_id",)), (Preferences, ("chosen_id", "rejected_id")),
    (WinProbs, ("a_id", "b_id", "first", "annotator")),
)  # fmt: skip
"""The columns that identify a row; tables of other kinds may repeat ids (one answer can occur in several rows)."""


def check_ids(tables: Sequence[Table]) -> None:
    """Raises DataError if the tables contain the same row twice."""
    columns = next((ids for kind, ids in _IDS if isinstance(tables[0], kind)), ())
    if not columns:
        return
    hashes = [_hashes(table, columns) for table in tables]
    total = sum(map(len, hashes))
    repeated = total - len(np.unique(np.concatenate(hashes)))
    if repeated:
        raise DataError(
            f"{repeated} of {total} rows have the same {' + '.join(columns)} as another row: equal rows cannot be "
            "concatenated (two samplings of the same prompts need different `stream` or `seed`)"
        )


def _hashes(table: Table, columns: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    hashes = [np.empty(0, np.uint64)]
    for batch in table.batches():
        keys = pl.from_arrow(pa.Table.from_batches([batch.select(list(columns))]))
        assert isinstance(keys, pl.DataFrame)
        hashes.append(keys.hash_rows().to_numpy())
    return np.concatenate(hashes)


def common_metadata(tables: Sequence[Table]) -> tuple[dict[str, str], int]:
    """The metadata common to all tables, and the number of templates if there are several (else 0).

    Tables without tokens do not count: `tokenize` renders their rows, and the rows of the others keep their tokens.
    """
    shared = set(tables[0].metadata.items()).intersection(*(t.metadata.items() for t in tables))
    templates = {t.metadata.get("template") for t in tables if _has_tokens(t)}
    metadata = dict(sorted(shared))
    if len(templates) == 1 and (template := templates.pop()) is not None:
        return {**metadata, "template": template}, 0
    return metadata, len(templates) if len(templates) > 1 else 0


def _has_tokens(table: Table) -> bool:
    columns = [table.table.column(name) for name in table.table.column_names if name.endswith("_tokens")]
    return any(column.null_count < len(column) for column in columns)


def without_tokens(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches with all token columns null."""
    for batch in batches:
        for i, field in enumerate(batch.schema):
            if field.nullable and field.name.endswith("_tokens"):
                batch = batch.set_column(i, field, pa.nulls(len(batch), field.type))
        yield batch
