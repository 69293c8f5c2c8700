"""The workspace of tests, which they look into."""

from pathlib import Path

from tasks.workspace import LocalWorkspace as Workspace

__all__ = ["Killed", "Mortal", "Workspace"]


class Killed(Exception):
    pass


class Mortal(Workspace):
    """A workspace whose process dies behind the logging of a step, or where so much is done."""

    def __init__(self, folder: Path, step: int = 0, *, done: float = 0) -> None:
        super().__init__(folder)
        self._step, self._done = step, done

    def log(self, step: int, metrics: dict[str, float]) -> None:  # type: ignore[override]
        super().log(step, metrics)
        if step == self._step:
            raise Killed

    def progress(self, done: float, total: float, unit: str = "") -> None:
        super().progress(done, total, unit)
        if 0 < self._done <= done:
            raise Killed
