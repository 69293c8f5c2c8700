"""Keys and tables for the tests of the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.store import lineage
from flows.store.keys import Key, digest_of
from flows.store.records import HowMade, Record
from flows.store.runs import RunStep
from flows.store.store import Store
from flows.store.views import RecordViews
from tasks.contract import JSON
from tasks.kinds import Artifact, Completions, Preferences, Prompts
from tests.flows.tiny import node


def key_of(task: str = "load", inputs: Mapping[str, Sequence[str]] | None = None, **params: JSON) -> Key:
    """A key as `Choices` makes it, for a task without code."""
    fed: dict[str, JSON] = {port: list(several) for port, several in (inputs or {}).items()}
    parts: dict[str, JSON] = {
        "task": task, "code": {}, "params": params, "inputs": fed, "packages": {}, "identities": {},
    }  # fmt: skip
    return Key(digest_of(parts), parts)


def put(
    store: Store, handle: Artifact, task: str = "load", parents: Mapping[str, Sequence[Record]] | None = None,
    made: HowMade | None = None, **params: JSON,
) -> Record:  # fmt: skip
    """Publish a handle as the result of a task with these parents and parameters."""
    key = key_of(task, {port: [r.content for r in several] for port, several in (parents or {}).items()}, **params)
    return publish(store, key, handle, parents=parents, made=made)


def publish(store: Store, key: Key, handle: Artifact, **options: Any) -> Record:
    """Publish a handle under a key, as a step does."""
    with store.lock(key.digest):
        return store.publish(key, handle, **options)


def run_step(id: str, record: Record, state: str = "made") -> RunStep:
    """The step of a run that has this result."""
    of = node(id, record.task)
    return RunStep(
        id, (id,), record.task, of.title, of.round, state, record.key, record.content, record.kind, record.seconds,
        "never run",
    )  # fmt: skip


def prompts(*ids: str) -> Prompts:
    """A table of prompts in memory."""
    texts = [[{"role": "user", "content": f"what is {i}?"}] for i in ids]
    return Prompts.of(pa.table({"prompt_id": list(ids), "prompt": texts}))


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
    """The notice about the evaluation with these inputs, which has not run."""
    task = "measure" if "completions" in inputs else "implicit_accuracy" if "logps" in inputs else "reward_accuracy"
    evaluation = RecordViews(store).of_step(node("report", task, "Report", allow_seen=allow), inputs).evaluation
    assert evaluation
    return lineage.refuse_seen(store, evaluation)
