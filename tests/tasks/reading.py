"""Reading a source as a step does, for tests: rows are written to a file, and what the step said is kept."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.kinds import Demonstrations, Preferences, Prompts, Table
from tasks.skipped import RowLog
from tasks.source import Source
from tests.workspace import Workspace


class Step:
    """A step that reads a source; `work` holds what it said."""

    def __init__(self, tmp_path: Path, max_skipped: float = 1.0) -> None:
        self.work = Workspace(tmp_path / "step")
        self._log = RowLog(self.work, max_skipped)

    def pairs(self, source: Source, split: str = "all") -> Preferences:
        return self._log.save(source.preferences(split, self._log))

    def demonstrations(self, source: Source, split: str = "all") -> Demonstrations:
        return self._log.save(source.demonstrations(split, "mixed", self._log))

    def prompts(self, source: Source, split: str = "all") -> Prompts:
        return self._log.save(source.prompts(split, self._log))


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The rows, messages without `extra` where there is none, as files write them."""
    rows = table.table.to_pylist()
    return [{**row, "prompt": [{k: v for k, v in m.items() if v is not None} for m in row["prompt"]]} for row in rows]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def bot(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def write(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file
