"""Keys and tables for the tests of the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from flows.store import lineage
from flows.store.keys import Key, digest_of
from flows.store.records import Record
from flows.store.store import HowMade, Store
from flows.store.views import RecordViews
from flows.wiring.model import Node
from flows.wiring.where import Where
from tasks.contract import JSON
from tasks.kinds import Artifact, Completions, Preferences, Prompts


def key_of(task: str = "load", inputs: Mapping[str, Sequence[str]] | None = None, **params: JSON) -> Key:
    """A key as `Choices` makes it, for a task without code."""
    fed: dict[str, JSON] = {port: list(several) for port, several in (inputs or {}).items()}
    parts: dict[str, JSON] = {
        "task": task, "code": {}, "params": params, "inputs": fed, "packages": {}, "identities": {},
    }  # fmt: skip
    return Key(digest_of(parts), parts)


def put(
    store: Store,
    handle: Artifact,
    task: str = "load",
    parents: Mapping[str, Sequence[Record]] | None = None,
    made: HowMade | None = None,
    **params: JSON,
) -> Record:
    """Publish a handle as the result of a task with these parents and parameters."""
    key = key_of(task, {port: [r.content for r in several] for port, several in (parents or {}).items()}, **params)
    with store.lock(key.digest):
        return store.publish(key, handle, parents=parents, made=made)


def prompts(*ids: str) -> Prompts:
    """A table of prompts in memory."""
    said = [[{"role": "user", "content": f"what is {i}?"}] for i in ids]
    return Prompts.of(pa.table({"prompt_id": list(ids), "prompt": said}))


def completions(*ids: str) -> Completions:
    """One answer to each prompt, in memory."""
    n = len(ids)
    return Completions.of(pa.table({
        "prompt_id": list(ids), "prompt": [[{"role": "user", "content": "?"}]] * n,
        "completion_id": [f"c{i}" for i in ids], "completion": ["yes"] * n, "stream": [0] * n, "k": [0] * n,
        "token_logps": [[-1.0]] * n, "finish_reason": ["stop"] * n,
    }))  # fmt: skip


def pairs(*ids: str) -> Preferences:
    """One pair to each prompt, in memory."""
    n = len(ids)
    return Preferences.of(pa.table({
        "prompt_id": list(ids), "prompt": [[{"role": "user", "content": "?"}]] * n, "chosen_id": [f"c{i}" for i in ids],
        "rejected_id": [f"r{i}" for i in ids], "chosen": ["yes"] * n, "rejected": ["no"] * n,
    }))  # fmt: skip


def model(folder: Path, text: str) -> Path:
    """A directory that stands for a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(text)
    return folder


def refuse_seen(store: Store, inputs: Mapping[str, list[Record]], *, allow: bool) -> str:
    """What the evaluation with these inputs, which has not run, is told."""
    task = "measure" if "completions" in inputs else "agreement" if "logps" in inputs else "reward_accuracy"
    node = Node(
        "report", ("report",), task, "", "Report", {"allow_seen": allow}, {}, {}, frozenset(), True, None, Where("")
    )
    evaluation = RecordViews(store).of_step(node, inputs).evaluation
    assert evaluation
    return lineage.refuse_seen(store, evaluation)
