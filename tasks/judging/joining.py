"""Tables put together: ids that must not repeat, and tokens that must be of one template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.contract import DataError
from tasks.kinds import Completions, Demonstrations, Labels, Preferences, Prompts, Table, WinProbs

_IDS: tuple[tuple[type[Table], tuple[str, ...]], ...] = (
    (Completions, ("completion_id",)), (Demonstrations, ("completion_id",)), (Labels, ("completion_id",)),
    (Prompts, ("prompt_id",)), (Preferences, ("chosen_id", "rejected_id")), (WinProbs, ("a_id", "b_id", "first")),
)  # fmt: skip
"""What names a row; tables of other kinds may repeat their ids (one answer can belong to several rows)."""


def check_ids(tables: Sequence[Table]) -> None:
    """Refuse rows that two of the tables, or one of them twice, hold. Raises DataError."""
    columns = next((ids for kind, ids in _IDS if isinstance(tables[0], kind)), ())
    if not columns:
        return
    hashes = [_hashes(table, columns) for table in tables]
    total = sum(map(len, hashes))
    repeated = total - len(np.unique(np.concatenate(hashes)))
    if repeated:
        raise DataError(
            f"{repeated} of {total} rows have a {' + '.join(columns)} that another row has: the same rows cannot be "
            "put together (two samplings of the same prompts need a `stream` or `seed` each)"
        )


def _hashes(table: Table, columns: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    found = [np.empty(0, np.uint64)]
    for batch in table.batches():
        keys = pl.from_arrow(pa.Table.from_batches([batch.select(list(columns))]))
        assert isinstance(keys, pl.DataFrame)
        found.append(keys.hash_rows().to_numpy())
    return np.concatenate(found)


def common_metadata(tables: Sequence[Table]) -> tuple[dict[str, str], int]:
    """The metadata that all tables share, and the number of templates if there are several (else 0).

    Tables without a token are of no template: `tokenize` renders their rows, and those of the others keep their ids.
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


def plain_tokens(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches without token ids of prompts and answers."""
    for batch in batches:
        for i, field in enumerate(batch.schema):
            if field.nullable and field.name.endswith("_tokens"):
                batch = batch.set_column(i, field, pa.nulls(len(batch), field.type))
        yield batch
