"""Where two results first differ: the row and token of a table, the tensor and element of a model, else the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
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
    names = {root: set(files_of(root)) for root in (left, right)}
    for name in sorted(names[left] | names[right]):
        if name not in names[left] or name not in names[right]:
            present = ["absent" if name not in names[root] else "present" for root in (left, right)]
            return ContentDifference(name, "", *present)
        one, other = left / name, right / name
        if one.stat().st_size != other.stat().st_size or one.read_bytes() != other.read_bytes():
            return _within(name, one, other)
    return None


def _within(name: str, left: Path, right: Path) -> ContentDifference:
    compare = {".arrow": _in_tables, ".safetensors": _in_tensors}.get(left.suffix, _in_text)
    sizes: list[JSON] = [f"{file.stat().st_size:,} bytes" for file in (left, right)]
    place, values = compare(left, right) or ("", sizes)
    return ContentDifference(name, place, values[0], values[1])


Found = tuple[str, Sequence[JSON]] | None
"""A place, and what both sides have there."""


def _in_text(left: Path, right: Path) -> Found:
    """The first line that differs, or the first byte of what is no text."""
    one, other = left.read_bytes(), right.read_bytes()
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    try:
        lines = [data.decode().splitlines() for data in (one, other)]
    except UnicodeDecodeError:
        return f"byte {at}", [data[at] if at < len(data) else None for data in (one, other)]
    line = one[:at].count(b"\n")
    return f"line {line + 1}", [text[line] if line < len(text) else None for text in lines]


def _in_tables(left: Path, right: Path) -> Found:
    import pyarrow as pa

    one, other = (pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in (left, right))
    if one.schema.names != other.schema.names:
        return "columns", [list(one.schema.names), list(other.schema.names)]
    rows = [(r, name) for name in one.schema.names if (r := _row(one[name], other[name])) is not None]
    if not rows:
        return _in_metadata(one.schema, other.schema)
    row, name = min(rows, key=lambda found: (found[0], one.schema.names.index(found[1])))
    values = [table[name][row].as_py() if row < len(table) else None for table in (one, other)]
    inner, *values = _innermost(values[0], values[1])
    return f"row {row}, {name}{inner}", values


def _row(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int | None:
    """The first row in which two columns differ, by halving what is equal."""
    one, other = _bits(one), _bits(other)
    if one.equals(other):
        return None
    low, high = 0, max(len(one), len(other))
    while high - low > 1:
        middle = (low + high) // 2
        if one.slice(low, middle - low).equals(other.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low


def _bits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats as whole numbers of the same bits, so that nan is equal to itself."""
    import pyarrow as pa

    def of(array: pa.Array) -> pa.Array:
        if pa.types.is_floating(array.type):
            return array.view(f"int{array.type.bit_width}")
        if pa.types.is_list(array.type) and pa.types.is_floating(array.type.value_type):
            mask = array.is_null() if array.null_count else None
            return pa.ListArray.from_arrays(array.offsets, of(array.values), mask=mask)
        return array

    return pa.chunked_array([of(chunk) for chunk in column.chunks]) if column.num_chunks else column


def _same(left: object, right: object) -> bool:
    """Equal, where nan is equal to itself."""
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right


def _innermost(left: Any, right: Any, place: str = "") -> tuple[str, Any, Any]:
    """Into lists and mappings, to the first item that differs."""
    if isinstance(left, list) and isinstance(right, list):
        for i in range(max(len(left), len(right))):
            one, other = (side[i] if i < len(side) else None for side in (left, right))
            if not _same(one, other):
                return _innermost(one, other, f"{place}[{i}]")
    if isinstance(left, dict) and isinstance(right, dict):
        for name in left:
            if not _same(left[name], right.get(name)):
                return _innermost(left[name], right.get(name), f"{place}.{name}")
    return place, left, right


def _in_metadata(one: pa.Schema, other: pa.Schema) -> Found:
    sides = [{k.decode(): v.decode(errors="replace") for k, v in (s.metadata or {}).items()} for s in (one, other)]
    name = next((n for n in sorted(sides[0] | sides[1]) if sides[0].get(n) != sides[1].get(n)), "")
    return (f"metadata {name}", [side.get(name) for side in sides]) if name else None


def _in_tensors(left: Path, right: Path) -> Found:
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
        values = [_value(t[0], t[2][element * size : (element + 1) * size].tobytes()) for t in (one, other)]
        index = ", ".join(str(int(i)) for i in np.unravel_index(element, one[1])) if one[1] else ""
        return f"{name}[{index}]", values
    return None


def _tensors(file: Path) -> Iterator[tuple[str, tuple[str, list[int], Any]]]:
    """Name, and type, shape and bytes, of each tensor; only what is looked at is read."""
    import numpy as np

    data = np.memmap(file, dtype=np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    for name, told in json.loads(data[8 : 8 + length].tobytes()).items():
        if name != "__metadata__":
            first, last = told["data_offsets"]
            yield name, (told["dtype"], told["shape"], data[8 + length + first : 8 + length + last])


def _value(dtype: str, data: bytes) -> JSON:
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
