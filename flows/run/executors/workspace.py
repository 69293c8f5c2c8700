"""The folder and the reports of one attempt at a step, as its task uses them (`tasks.contract.Workspace`)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRESS_SECONDS = 0.2
"""Reports that follow each other faster are left out."""


class StepWorkspace:
    """The workspace of a process alone, and of rank 0. Everything lies in `artifacts/partial/<key>`:
    `work/` and `curves.jsonl` survive a kill, `output/` is made anew.

    Every report is a sign of life, by which the executor tells long work from ranks that hang.
    """

    def __init__(self, folder: Path, send: Callable[..., None], answers: Path | None = None) -> None:
        """`answers`: folder of the store's answers of oracles; None: one in `folder`."""
        self.path = folder / "work"
        self.answers = answers or folder / "answers"
        self.output = folder / "output"
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        self.totals: dict[str, float] = {}
        self.notices: tuple[str, ...] = ()
        self._send = send
        self._reported = self._alive = 0.0
        self._file = folder / "curves.jsonl"
        self._earlier = self._read_rows()
        self._own: list[dict[str, float]] = []

    def progress(self, done: float, total: float, unit: str = "") -> None:
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS or done >= total:
            self._reported = now
            self._send("progress", float(done), float(total), unit)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if any(row["step"] >= step for row in self._earlier):
            self._earlier = [row for row in self._earlier if row["step"] < step]
            _write_rows(self._file, [*self._earlier, *self._own])
        self._show_life()
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        self._own.append(row)
        with self._file.open("ab") as file:
            file.write(_line(row))

    def count(self, **metrics: float) -> None:
        self._show_life()
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0) + value

    def notice(self, text: str) -> None:
        self.notices += (text,)
        self._send("notice", text)

    def _show_life(self) -> None:
        now = time.monotonic()
        if now - self._alive >= PROGRESS_SECONDS:
            self._alive = now
            self._send("alive")

    def curves(self) -> tuple[Mapping[str, float], ...]:
        """All rows, those of earlier attempts first."""
        return (*self._earlier, *self._own)

    def _read_rows(self) -> list[dict[str, float]]:
        """Rows of earlier attempts as they were written. A kill may have cut the last one, which no file needs."""
        from tasks.digests import without_digest

        lines = self._file.read_bytes().splitlines(keepends=True) if self._file.exists() else []
        rows: list[Any] = []
        for line in lines:
            with suppress(ValueError):
                rows.append(without_digest(line))
        if damaged := sum(line.endswith(b"\n") for line in lines) - len(rows):
            self.notice(f"{damaged} rows of the curves of an earlier attempt were damaged and are missing")
        if len(rows) < len(lines):
            _write_rows(self._file, rows)
        return rows


class RankWorkspace:
    """The workspace of rank 1 and up: the same folder, an output that is thrown away, and reports
    that only show that the rank lives."""

    def __init__(self, folder: Path, rank: int, send: Callable[..., None], answers: Path | None = None) -> None:
        self.answers = answers or folder / "answers"
        self.path, self.output = folder / "work", folder / f".output-{rank}"
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        self._send, self._alive = send, 0.0

    def progress(self, done: float, total: float, unit: str = "") -> None:
        self._show_life()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._show_life()

    def count(self, **metrics: float) -> None:
        self._show_life()

    def notice(self, text: str) -> None:
        self._show_life()

    def _show_life(self) -> None:
        now = time.monotonic()
        if now - self._alive >= PROGRESS_SECONDS:
            self._alive = now
            self._send("alive")


def _line(row: dict[str, float]) -> bytes:
    from tasks.digests import with_digest

    return with_digest(dict(row))


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    from tasks.files import atomic_replace

    with atomic_replace(path) as fresh:
        fresh.write_bytes(b"".join(map(_line, rows)))
