"""Answers that were sampled and scored, and not yet learnt from, as a file in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tasks.rollouts.answers import Answers, Feedback
from tasks.sampling.requests import Request, SampledAnswer

FILE = "pending.arrow"
OWN = "sampled."
"""Beginning of the names of columns beside those of the table that an oracle reads."""
COUNTS = ("unanswered", "queries", "discarded", "tokens")


def save_feedback(feedback: Feedback, folder: Path) -> None:
    """Write the answers with their ids, log-probabilities and scores, bit for bit."""
    requests, sampled = feedback.answers.requests, feedback.answers.sampled
    ids, numbers = pa.list_(pa.int64()), pa.list_(pa.float64())
    columns = {
        "prompt_tokens": pa.array([list(r.prompt_tokens) for r in requests], ids),
        "seed": pa.array([r.seed for r in requests], pa.int64()),
        "max_tokens": pa.array([r.max_tokens for r in requests], pa.int64()),
        "text": pa.array([a.text for a in sampled], pa.string()),
        "tokens": pa.array([a.tokens for a in sampled], ids),
        "token_logps": pa.array([a.token_logps for a in sampled], numbers),
        "finish_reason": pa.array([a.finish_reason for a in sampled], pa.string()),
        "group": pa.array(feedback.answers.groups, pa.int64()),
        "by_opponent": pa.array(feedback.answers.by_opponent, pa.bool_()),
    }
    table = feedback.answers.table
    for name, column in columns.items():
        table = table.append_column(f"{OWN}{name}", column)
    scores = {} if feedback.scores is None else {"scores": feedback.scores}
    for name, values in (scores | {f"member.{name}": x for name, x in feedback.members.items()}).items():
        table = table.append_column(f"{OWN}{name}", pa.array(values.numpy(), pa.float64()))
    counts = {name: getattr(feedback, name) for name in COUNTS}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"counts": json.dumps(counts).encode()})
    with pa.OSFile(str(folder / FILE), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def load_feedback(folder: Path) -> Feedback | None:
    """What `save_feedback` wrote; None where the checkpoint has none."""
    if not (folder / FILE).exists():
        return None
    with pa.OSFile(str(folder / FILE), "rb") as file:
        table = pa.ipc.open_file(file).read_all()
    own = [name for name in table.column_names if name.startswith(OWN)]
    read = {name.removeprefix(OWN): table.column(name) for name in own}
    metadata = dict(table.schema.metadata)
    counts = json.loads(metadata.pop(b"counts"))
    places = ("prompt_tokens", "seed", "max_tokens"), ("text", "tokens", "token_logps", "finish_reason")
    requests, sampled = (zip(*(read[name].to_pylist() for name in names), strict=True) for names in places)
    answers = Answers(
        [Request(*one) for one in requests], [SampledAnswer(*one) for one in sampled],
        table.drop_columns(own).replace_schema_metadata(metadata), read["group"].to_numpy().astype(np.int64),
        np.array(read["by_opponent"].to_pylist(), bool),
    )  # fmt: skip
    members = {
        name.removeprefix("member."): _floats(column) for name, column in read.items() if name.startswith("member.")
    }
    return Feedback(answers, _floats(read["scores"]) if "scores" in read else None, members=members, **counts)


def _floats(column: pa.ChunkedArray) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())
