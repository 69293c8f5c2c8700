"""Rows that a step cannot use: counted by reason, listed beside its table, and an error above a maximum share."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from tasks.contract import JSON, DataError, Workspace
from tasks.kinds import AnyTable

FILE = "skipped.jsonl"
_REASONS_SHOWN = 5
_ROWS_SHOWN = 3


class SkippedRow(NamedTuple):
    """A skipped row: its number from 1, the reason, its location, and its ids."""

    number: int
    reason: str
    where: str = ""
    ids: Mapping[str, JSON] = {}

    def as_json(self) -> dict[str, JSON]:
        return {"row": self.number, "reason": self.reason, **({"where": self.where} if self.where else {}), **self.ids}


@dataclass
class RowLog:
    """The record of the rows that a step reads and skips; `save` stores the table with it."""

    work: Workspace
    max_skipped: float
    what: str = ""
    """Name of the file or table, for messages."""
    form: str = ""
    """Name of the row format, for messages."""
    read: int = 0
    sampled: int = 0
    """Rows among them that a policy sampled. They do not count in the share of unusable rows of the data."""
    sampled_skipped: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)

    def skip(self, number: int, reason: str, where: str = "", **ids: JSON) -> None:
        self.skipped.append(SkippedRow(number, reason, where, ids))

    @property
    def reasons(self) -> str:
        """The most frequent reasons, each with its number of rows."""
        counted = Counter(row.reason for row in self.skipped).most_common()
        shown = ", ".join(f"{reason} ({n:,})" for reason, n in counted[:_REASONS_SHOWN])
        rest = len(counted) - _REASONS_SHOWN
        return f"{shown}, {rest} other reasons" if rest > 0 else shown

    def save(self, table: AnyTable) -> AnyTable:
        """The checked table, saved with the list of skipped rows if there are any."""
        self.check(table, f" (listed in {FILE} beside the table)")
        if not self.skipped:
            return table
        table.save(self.work.output)
        lines = (json.dumps(row.as_json(), sort_keys=True) + "\n" for row in self.skipped)
        (self.work.output / FILE).write_text("".join(lines))
        return type(table)(self.work.output)

    def check(self, table: AnyTable, listed: str = "") -> AnyTable:
        """The table; a notice counts the skipped rows. Raises DataError if there are too many or no row is left."""
        faulty, read = len(self.skipped) - self.sampled_skipped, self.read - self.sampled
        if faulty > self.max_skipped * read:
            form = f" as {self.form}" if self.form else ""
            raise DataError(
                f"{self._share_text(faulty, read)} cannot be used{form}, and max_skipped = {self.max_skipped:g} allows "
                f"fewer: {self.reasons}; the first: {'; '.join(self._first())}. Correct them, or raise max_skipped to "
                "go on without them"
            )
        if not len(table):
            raise DataError(f"{self.what}: no row can be used" + (f": {self.reasons}" if self.skipped else ""))
        if self.skipped:
            self.work.count(rows_skipped=len(self.skipped))
            self.work.notice(f"{self._share_text(len(self.skipped), self.read)} skipped: {self.reasons}{listed}")
        return table

    def _share_text(self, n: int, read: int) -> str:
        return f"{self.what}: {n:,} of {read:,} rows ({n / max(1, read):.1%})"

    def _first(self) -> Iterator[str]:
        for row in islice(self.skipped, _ROWS_SHOWN):
            yield f"{row.where or f'row {row.number}'} ({row.reason})"
