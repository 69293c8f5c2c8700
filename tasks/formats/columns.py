"""Statistics of a file's columns over all rows, from which its format is detected."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.formats.messages import is_conversation, is_dialogue, is_message

Row = Mapping[str, Any]

_LABELS = frozenset([
    "id", "idx", "index", "uid", "source", "dataset", "category", "subset", "type", "kind", "note", "notes", "model",
    "language", "lang", "split", "group", "truth", "license", "licence", "url", "tag", "tags", "task", "topic",
    "domain", "created_at", "timestamp", "annotator", "tools",
])  # fmt: skip
"""Columns that describe a row and are never its prompt."""
_GROUPS = ("subset", "category", "topic", "domain")
"""Columns that say which group a row belongs to, where there is no `group`."""
_ABOUT_ANSWERS = ("chosen", "rejected", "score", "margin", "answer", "response", "completion")
_LABEL_ENDINGS = ("_id", "_ids", "_idx", "_model", "_score", "_rating", "_source", "_name", "_type", "_hash")


@dataclass
class Column:
    """How many rows have a value in a column, and of which type."""

    filled: int = 0
    plain: int = 0
    """Strings that are not HH-RLHF dialogues."""
    texts: int = 0
    """Strings of several words, and messages: possible prompts."""
    numbers: int = 0
    """Numbers, also as the text of a CSV file, whose empty fields have no value."""
    empty: int = 0
    """Empty strings."""

    def add(self, value: Any) -> None:
        self.filled += 1
        self.plain += isinstance(value, str) and not is_dialogue(value)
        self.texts += _is_text(value)
        self.numbers += _is_number(value)
        self.empty += value == ""


Columns = Mapping[str, Column]


def columns_of(rows: Iterable[Row]) -> Columns:
    """Every column that has a value in at least one row."""
    columns: dict[str, Column] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and isinstance(name, str):
                columns.setdefault(name, Column()).add(value)
    return columns


def group_column(columns: Columns) -> str | None:
    """The column of each row's group: `group`, else the only one of texts whose name says as much; None where there is
    none, or several."""
    named = [name for name in _GROUPS if name in columns and columns[name].plain == columns[name].filled]
    return "group" if "group" in columns else named[0] if len(named) == 1 else None


def possible_prompts(columns: Columns) -> list[str]:
    """Columns of texts whose names do not exclude them as the prompt."""
    return sorted(n for n, c in columns.items() if c.texts and not _is_label(n.lower()))


def possible_scores(columns: Columns) -> list[str]:
    """Columns that hold numbers and nothing else, in their order, unless their names say that they are no scores."""
    numbers = [n for n, c in columns.items() if c.numbers and c.numbers + c.empty == c.filled]
    return [n for n in numbers if n not in (*_LABELS, "weight") and not n.lower().endswith(("_id", "_ids", "_idx"))]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_text(value: Any) -> bool:
    if isinstance(value, str):
        return len(value.split(None, 1)) > 1
    return is_conversation(value) or is_message(value)


def _is_label(name: str) -> bool:
    return name in _LABELS or name.startswith(_ABOUT_ANSWERS) or name.endswith(_LABEL_ENDINGS)
