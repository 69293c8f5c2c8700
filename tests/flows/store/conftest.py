"""A store in a fresh folder, tables to put in it, and a tree of tasks to edit."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from flows.store.keys import Key, digest_of
from flows.store.records import Record
from flows.store.store import Store
from tasks.contract import JSON
from tasks.kinds import Artifact, Prompts


def key_of(task: str = "load", inputs: Mapping[str, Sequence[str]] | None = None, **params: JSON) -> Key:
    """A key as `step_key` makes it, for a task without code."""
    fed: dict[str, JSON] = {port: list(several) for port, several in (inputs or {}).items()}
    parts: dict[str, JSON] = {
        "task": task, "code": {}, "params": params, "inputs": fed, "packages": {}, "identities": {},
    }  # fmt: skip
    return Key(digest_of(parts), parts)


def prompts(*ids: str) -> Prompts:
    """A table of prompts in memory."""
    said = [[{"role": "user", "content": f"what is {i}?"}] for i in ids]
    return Prompts.of(pa.table({"prompt_id": list(ids), "prompt": said}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


Put = Callable[..., Record]


@pytest.fixture
def put(store: Store) -> Put:
    """Publish a handle as the result of a task with these parents; returns the record."""

    def publish(handle: Artifact, task: str = "load", parents: Mapping[str, Sequence[Record]] | None = None,
                **params: JSON) -> Record:  # fmt: skip
        contents = {port: [r.content for r in several] for port, several in (parents or {}).items()}
        key = key_of(task, contents, **params)
        with store.lock(key.digest):
            return store.publish(key, handle, parents=parents)

    return publish


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """A directory with a file of this text, outside the store."""

    def make(text: str) -> Path:
        folder = tmp_path / f"model-{text}"
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text(text)
        return folder

    return make


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
