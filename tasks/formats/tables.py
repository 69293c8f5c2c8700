"""Files, directories and hub datasets as splits of plain rows."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tasks.contract import DataError, SpecError

Reader = Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]
SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow", ".feather", ".csv", ".tsv")
"""Supported suffixes; text formats may also end with `.gz`."""


class RawRows(NamedTuple):
    """Rows of one split: each `read()` yields all (location for messages, row)."""

    read: Callable[[], Iterator[tuple[str, dict[str, Any]]]]


def suffix_of(path: Path) -> str:
    """The suffix of the format: `.jsonl` for `pairs.jsonl.gz`."""
    return Path(path.stem).suffix.lower() if _zipped(path) else path.suffix.lower()


def open_file(path: Path) -> RawRows:
    """The rows of one file. Raises SpecError for an unsupported format."""
    readers: Mapping[str, Reader] = {
        ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".arrow": _arrow, ".feather": _arrow,
        ".csv": lambda p: _csv(p, ","), ".tsv": lambda p: _csv(p, "\t"),
    }  # fmt: skip
    reader = readers.get(suffix_of(path))
    if reader is None:
        raise SpecError(f"{path}: unsupported format; use {', '.join(SUFFIXES)} (text formats also with .gz)")
    return RawRows(lambda: _read_file(path, reader))


def _read_file(path: Path, reader: Reader) -> Iterator[tuple[str, dict[str, Any]]]:
    """The reader's rows. Raises DataError where the content does not match the suffix."""
    import pyarrow as pa

    try:
        yield from reader(path)
    except DataError:
        raise
    except (pa.ArrowException, OSError, EOFError, zlib.error, ValueError, csv.Error) as e:
        kind = "UTF-8 text" if isinstance(e, UnicodeDecodeError) else suffix_of(path)
        raise DataError(f"{path} cannot be read as {kind}: {e}") from e


def open_directory(path: Path, subset: str | None) -> dict[str, RawRows]:
    """The splits of a directory: our table.arrow, a dataset saved by the `datasets` library, or its data files."""
    if (path / "table.arrow").exists():
        return {"train": open_file(path / "table.arrow")}
    import datasets

    saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    return _splits(str(path), lambda: datasets.load_from_disk(path) if saved else _load(str(path), subset, None))


def open_hub(repo: str, subset: str | None, revision: str | None) -> dict[str, RawRows]:
    """The splits of a hub dataset at a revision."""
    return _splits(repo, lambda: _load(repo, subset, revision))


def _load(path: str, subset: str | None, revision: str | None) -> Any:
    import datasets

    return datasets.load_dataset(path, name=subset, revision=revision)


def _splits(name: str, load: Callable[[], Any]) -> dict[str, RawRows]:
    try:
        loaded = load()
    except (OSError, ValueError, TypeError) as e:
        raise DataError(f"{name}: the datasets library cannot read it: {e}") from e
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {split: RawRows(partial(_numbered, f"{name} [{split}]", rows)) for split, rows in splits.items()}


def _text(path: Path) -> TextIO:
    """The file as UTF-8 text, with or without a byte-order mark."""
    return gzip.open(path, "rt", encoding="utf-8-sig") if _zipped(path) else path.open(encoding="utf-8-sig")


def _zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with _text(path) as lines:
        for i, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}:{i}", _object(f"{path}:{i}", line)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        raise DataError(f"{where}: invalid JSON: {e}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be a JSON object, not {type(row).__name__}")
    return row


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows as a list, by column (as pandas writes them), under `data`, or one per line as in .jsonl."""
    if _is_jsonl(path):
        yield from _jsonl(path)
        return
    with _text(path) as file:
        whole = json.load(file)
    for i, row in enumerate(_rows(path, whole), 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {i} must be a JSON object, not {type(row).__name__}")
        yield f"{path}: row {i}", row


def _is_jsonl(path: Path) -> bool:
    """Whether the first line is a JSON object and another line follows."""
    with _text(path) as file:
        first = next((line for line in file if line.strip()), "")
        more = any(line.strip() for line in file)
    try:
        return more and isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        return False


def _rows(path: Path, whole: Any) -> list[Any]:
    if isinstance(whole, list):
        return whole
    if not isinstance(whole, dict):
        raise DataError(f"{path} must contain a list of JSON objects, not {type(whole).__name__}")
    if {"columns", "data"} <= whole.keys():
        raise DataError(f"{path} has pandas' orient='split': write it with to_json(path, orient='records', lines=True)")
    for name in ("data", "rows", "examples"):
        if isinstance(whole.get(name), list) and all(isinstance(row, dict) for row in whole[name]):
            return list(whole[name])
    return _by_columns(path, whole) or [whole]


def _by_columns(path: Path, whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an object of columns: lists of values, or objects of values by index (pandas' default).

    Empty if the object is a single row, whose lists are conversations.
    """
    columns = list(whole.values())
    if not columns or not any(all(map(kind, columns)) for kind in (_is_column, _is_indexed)):
        return []
    keys = [list(c) if isinstance(c, dict) else list(range(len(c))) for c in columns]
    if any(k != keys[0] for k in keys):
        raise DataError(f"{path}: its columns {list(whole)} have {[len(k) for k in keys]} values: store one row a line")
    return [{name: column[key] for name, column in whole.items()} for key in keys[0]]


def _is_column(value: Any) -> bool:
    """Whether `value` is a list with one value per row; a list of messages is itself one value."""
    return isinstance(value, list) and not any(isinstance(v, dict) and {"role", "from"} & v.keys() for v in value)


def _is_indexed(value: Any) -> bool:
    return isinstance(value, dict) and not {"role", "from"} & value.keys()


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield from _numbered(f"{path}:", (row for batch in file.iter_batches(4096) for row in batch.to_pylist()))


def _arrow(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
        yield from _numbered(f"{path}:", (row for batch in table.to_batches(4096) for row in batch.to_pylist()))


def _numbered(where: str, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows with their locations, without null keys in structs: Arrow gives each struct the keys of all rows."""
    for i, row in enumerate(rows, 1):
        yield f"{where} row {i}", {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list) and isinstance(next((v for v in value if v is not None), None), (dict, list)):
        return [_without_nulls(item) for item in value]
    return value


def _csv(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    with _text(path) as file:
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        names = rows.fieldnames or []
        if len(names) == 1 and any(other in names[0] for other in ";\t,"):
            raise DataError(f"{path}: the header is one column, {names[0]!r}: separate columns by {delimiter!r}")
        for i, row in enumerate(rows, 1):
            if None in row:
                raise DataError(f"{path}: row {i} has more than {len(names)} fields; quote texts with {delimiter!r}")
            yield f"{path}: row {i}", row
