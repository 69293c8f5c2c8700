"""A workspace of two folders, for calling tasks by hand: `LocalWorkspace(folder)`."""

import shutil
from collections.abc import Mapping
from pathlib import Path


class LocalWorkspace:
    """One attempt of a step (a `tasks.contract.Workspace`). A second one on the same folder is the next attempt."""

    def __init__(self, folder: Path, answers: Path | None = None) -> None:
        """answers: folder of the answers of oracles that several steps share; default: one in `folder`."""
        self.path = folder / "work"
        self.output = folder / "output"
        self.answers = answers or folder / "answers"
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        self.progress_calls: list[tuple[float, float, str]] = []
        self.curves: list[tuple[int, dict[str, float]]] = []
        self.totals: dict[str, float] = {}
        self.notices: list[str] = []

    def progress(self, done: float, total: float, unit: str = "") -> None:
        self.progress_calls.append((done, total, unit))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.curves = [row for row in self.curves if row[0] < step or row[1].keys() != metrics.keys()]
        self.curves.append((step, dict(metrics)))

    def count(self, **metrics: float) -> None:
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0) + value

    def notice(self, text: str) -> None:
        self.notices.append(text)
