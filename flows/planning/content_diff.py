"""Where two results first differ: the row and token of a table, the tensor and element of a model, else the file."""

from __future__ import annotations

import filecmp
import json
import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.store.content import files_of
from tasks.contract import JSON

if TYPE_CHECKING:
    import pyarrow as pa

_SIZES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip
"""Types of safetensors as NumPy writes them; others (BF16, F8) are shown as their bytes."""


class ContentDifference(NamedTuple):
    """The first difference of two results; `left` and `right` are the values there, where they can be read."""

    file: str
    place: str
    """`row 17, completion_tokens[3]`, `model.norm.weight[12]`; empty for a whole file."""
    left: JSON
    right: JSON

    def __str__(self) -> str:
        at = f"{self.file}: {self.place}" if self.place else self.file
        return f"{at} is {_short(self.left)} here and {_short(self.right)} there"


def first_difference(left: Path, right: Path) -> ContentDifference | None:
    """The first difference between two folders of results, by the names of their files; None if there is none."""
    names = [set(files_of(root)) for root in (left, right)]
    for name in sorted(names[0] | names[1]):
        present = ["present" if name in side else "absent" for side in names]
        if "absent" in present:
            return ContentDifference(name, "", *present)
        if not filecmp.cmp(left / name, right / name, shallow=False):
            return _within(name, left / name, right / name)
    return None


def _within(name: str, left: Path, right: Path) -> ContentDifference:
    compare = {".arrow": _in_tables, ".safetensors": _in_tensors}.get(left.suffix, _in_text)
    sizes: list[JSON] = [f"{file.stat().st_size:,} bytes" for file in (left, right)]
    place, values = compare(left, right) or ("", sizes)
    return ContentDifference(name, place, values[0], values[1])


PlaceAndValues = tuple[str, Sequence[Any]] | None
"""A place in a file, and the value there on both sides; None where all that can be read is equal."""


def _in_text(left: Path, right: Path) -> PlaceAndValues:
    """The first line that differs, or the first byte of what is not text."""
    sides: list[Sequence[Any]] = [file.read_bytes() for file in (left, right)]
    try:
        unit, first, sides = "line", 1, [data.decode().splitlines() for data in sides]  # type: ignore[attr-defined]
    except UnicodeDecodeError:
        unit, first = "byte", 0
    pairs = enumerate(zip_longest(*sides), first)
    return next(((f"{unit} {number}", values) for number, values in pairs if values[0] != values[1]), None)


def _in_tables(left: Path, right: Path) -> PlaceAndValues:
    import pyarrow as pa

    one, other = (pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in (left, right))
    names = one.schema.names
    if names != other.schema.names:
        return "columns", [names, other.schema.names]
    rows = {name: row for name in names if (row := _first_row(one[name], other[name])) is not None}
    if not rows:
        return _in_metadata(one.schema, other.schema)
    name = min(rows, key=lambda name: rows[name])
    row = rows[name]
    here, there = (table[name][row].as_py() if row < len(table) else None for table in (one, other))
    inner, *values = _innermost(here, there)
    return f"row {row}, {name}{inner}", values


def _first_row(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int | None:
    """The first row in which two columns differ; nan is equal to itself."""
    import polars as pl

    rows = min(len(one), len(other))
    left, right = (pl.Series("", column.slice(0, rows)) for column in (one, other))
    unequal = left.ne_missing(right).arg_true()
    if len(unequal):
        return int(unequal[0])
    return rows if len(one) != len(other) else None


def _innermost(left: Any, right: Any, place: str = "") -> tuple[str, Any, Any]:
    """The first item that differs in nested lists and mappings. Compared as written: nan is equal to itself."""
    pairs: dict[str, tuple[Any, Any]] = {}
    if isinstance(left, list) and isinstance(right, list):
        pairs = {f"[{i}]": pair for i, pair in enumerate(zip_longest(left, right))}
    elif isinstance(left, dict) and isinstance(right, dict):
        pairs = {f".{name}": (left[name], right.get(name)) for name in left}
    unequal = next((step for step, (one, other) in pairs.items() if repr(one) != repr(other)), None)
    return _innermost(*pairs[unequal], place + unequal) if unequal else (place, left, right)


def _in_metadata(one: pa.Schema, other: pa.Schema) -> PlaceAndValues:
    sides = [{k.decode(): v.decode(errors="replace") for k, v in (s.metadata or {}).items()} for s in (one, other)]
    name = next((n for n in sorted(sides[0] | sides[1]) if sides[0].get(n) != sides[1].get(n)), "")
    return (f"metadata {name}", [side.get(name) for side in sides]) if name else None


def _in_tensors(left: Path, right: Path) -> PlaceAndValues:
    import numpy as np

    sides = [dict(_tensors(file)) for file in (left, right)]
    for name in sorted(sides[0] | sides[1]):
        one, other = (side.get(name) for side in sides)
        if one is None or other is None or one[:2] != other[:2]:
            return name, [f"{t[0]} {t[1]}" if t else "absent" for t in (one, other)]
        if np.array_equal(one[2], other[2]):
            continue
        size = max(one[2].size // max(math.prod(one[1]), 1), 1)
        element = int(np.flatnonzero(one[2] != other[2])[0]) // size
        values = [_number(t[0], t[2][element * size : (element + 1) * size].tobytes()) for t in (one, other)]
        index = ", ".join(str(int(i)) for i in np.unravel_index(element, one[1])) if one[1] else ""
        return f"{name}[{index}]", values
    return None


def _tensors(file: Path) -> Iterator[tuple[str, tuple[str, list[int], Any]]]:
    """Name, and type, shape and bytes, of each tensor in a file of safetensors; bytes are read when they are used."""
    import numpy as np

    data = np.memmap(file, dtype=np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    for name, header in json.loads(data[8 : 8 + length].tobytes()).items():
        if name != "__metadata__":
            first, last = header["data_offsets"]
            yield name, (header["dtype"], header["shape"], data[8 + length + first : 8 + length + last])


def _number(dtype: str, data: bytes) -> JSON:
    import numpy as np

    if dtype == "BF16":
        return float(np.frombuffer(b"\0\0" + data, "<f4")[0])
    if dtype not in _SIZES:
        return f"0x{data.hex()}"
    value: JSON = np.frombuffer(data, np.dtype(_SIZES[dtype]).newbyteorder("<"))[0].item()
    return value


def _short(value: JSON) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 60 else f"{text[:57]}…"
