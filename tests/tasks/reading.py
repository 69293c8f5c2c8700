"""Reading a source as a step does, for tests: rows are written to a file; notices and totals stay in `work`."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.kinds import Demonstrations, Labels, Preferences, Prompts, Table
from tasks.skipped import RowLog
from tasks.source import Source
from tasks.sources.path import path
from tests.workspace import Workspace

Rows = Source | Path | Iterable[Mapping[str, Any]]
"""A source, a file, or the rows of a file that is written first."""


class Step:
    """A step that reads a source, or a file of the given rows."""

    def __init__(self, tmp_path: Path, max_skipped: float = 1.0) -> None:
        self._folder = tmp_path
        self.work = Workspace(tmp_path / "step")
        self._log = RowLog(self.work, max_skipped)

    def pairs(self, source: Rows, split: str = "all", **params: Any) -> Preferences:
        return self._log.save(self._opened(source, params).preferences(split, self._log))

    def demonstrations(self, source: Rows, split: str = "all", **params: Any) -> Demonstrations:
        return self._log.save(self._opened(source, params).demonstrations(split, "mixed", self._log))

    def prompts(self, source: Rows, split: str = "all", **params: Any) -> Prompts:
        return self._log.save(self._opened(source, params).prompts(split, self._log))

    def labels(self, source: Rows, split: str = "all", **params: Any) -> Labels:
        return self._log.save(self._opened(source, params).labels(split, self._log))

    def _opened(self, source: Rows, params: Mapping[str, Any]) -> Source:
        if isinstance(source, Source):
            return source
        file = source if isinstance(source, Path) else write(self._folder / "rows.jsonl", source)
        return path(path=str(file), **params)

    @property
    def reasons(self) -> list[str]:
        """Why rows were skipped, in order."""
        file = self.work.output / "skipped.jsonl"
        return [json.loads(line)["reason"] for line in file.read_text().splitlines()] if file.exists() else []


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
