"""A store in a fresh folder, a tree of tasks to edit; clients know the password of the Prefect servers started here."""

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.run.prefect.password import password_of_this_process
from flows.store.store import Store

os.environ["PREFECT_API_AUTH_STRING"] = password_of_this_process()  # before Prefect is imported, which reads it then


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Write files below `tasks/`, named with `__` for folders (`losses__dpo="…"`); returns the root."""

    def write(**files: str) -> Path:
        for name, text in {"__init__": "", **files}.items():
            file = tmp_path / "tasks" / (name.replace("__", "/") if name != "__init__" else name)
            file = file.with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        return tmp_path

    return write
