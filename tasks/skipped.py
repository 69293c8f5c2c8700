"""Rows that a step cannot use: counted by reason, listed beside its table, and an error above a stated share."""

from __future__ import annotations

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
    """A row that is not used: its number from 1, why, where it lies, and the ids that name it."""

    number: int
    reason: str
    where: str = ""
    ids: Mapping[str, JSON] = {}

    def as_json(self) -> dict[str, JSON]:
        return {"row": self.number, "reason": self.reason, **({"where": self.where} if self.where else {}), **self.ids}


@dataclass
class RowLog:
    """What a step says of the rows that it reads, whose table `saved` then stores."""

    work: Workspace
    max_skipped: float
    what: str = ""
    """The file or table that is read, for messages."""
    read: int = 0
    """Rows that the share is a share of."""
    skipped: list[SkippedRow] = field(default_factory=list)
    uncounted: int = 0
    """Skipped rows that do not count in the share, because no file is at fault for them."""

    def skip(self, number: int, reason: str, where: str = "", **ids: JSON) -> None:
        self.skipped.append(SkippedRow(number, reason, where, ids))

    @property
    def reasons(self) -> str:
        """The most frequent reasons with the number of rows that each holds for."""
        counted = Counter(row.reason for row in self.skipped).most_common()
        shown = ", ".join(f"{reason} ({n:,})" for reason, n in counted[:_REASONS_SHOWN])
        rest = len(counted) - _REASONS_SHOWN
        return f"{shown}, {rest} other reasons" if rest > 0 else shown

    def saved(self, table: AnyTable) -> AnyTable:
        """The table, with the skipped rows listed beside it. Raises DataError if too many were skipped."""
        faulty = len(self.skipped) - self.uncounted
        if faulty > self.max_skipped * self.read:
            raise DataError(
                f"{self._counted(faulty)} cannot be used, and max_skipped = {self.max_skipped:g} allows fewer: "
                f"{self.reasons}; the first: {'; '.join(self._first())}. Correct them, or raise max_skipped to go on "
                "without them"
            )
        if not len(table):
            raise DataError(f"{self.what}: no row can be used" + (f": {self.reasons}" if self.skipped else ""))
        if not self.skipped:
            return table
        self.work.count(rows_skipped=len(self.skipped))
        self.work.notice(
            f"{self._counted(len(self.skipped))} skipped: {self.reasons} (listed in {FILE} beside the table)"
        )
        table.save(self.work.output)
        lines = (json.dumps(row.as_json(), sort_keys=True) + "\n" for row in self.skipped)
        (self.work.output / FILE).write_text("".join(lines))
        return type(table)(self.work.output)

    def _counted(self, n: int) -> str:
        return f"{self.what}: {n:,} of {self.read:,} rows ({n / max(1, self.read):.1%})"

    def _first(self) -> Iterator[str]:
        for row in islice(self.skipped, _ROWS_SHOWN):
            yield f"{row.where or f'row {row.number}'} ({row.reason})"
