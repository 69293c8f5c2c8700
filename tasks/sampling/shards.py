"""Sampling shard by shard: finished shards are files, which a later attempt reads instead of sampling again.

Of several ranks, rank r samples the missing shards among r, r + world, r + 2·world, … with an engine of its own; rank 0
returns the table of all.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.arrow import write_table
from tasks.contract import Chosen, Workspace, chunks
from tasks.kinds import Completions, Policy
from tasks.parts import is_intact, new_part
from tasks.ranks import this_rank, timeout_seconds
from tasks.sampling.plan import Draws, SamplingPlan, completion_ids
from tasks.sampling.requests import Engine, Options, SampledAnswer
from tasks.template import template_digest

TABLE = "table.arrow"
WAITING = 0.1
"""Seconds between two looks for the shards of other ranks."""


def completions_of(
    policy: Policy,
    plan: SamplingPlan,
    draws: Draws,
    options: Options,
    engine: Chosen | str,
    shard: int,
    work: Workspace,
) -> Completions:
    """Sample the missing shards, then return all as one streamed table; on other ranks than the first an empty one."""
    chosen, ranks = chosen_engine(engine), this_rank()
    parts = list(chunks(len(plan.prompt_tokens), shard))
    folders = [work.path / f"shard-{i:05d}" for i in range(len(parts))]
    total = draws.k * len(plan.prompt_tokens)
    seen = range(len(parts)) if ranks.is_first else range(ranks.rank, len(parts), ranks.world)
    missing = [i for i in seen if not is_intact(folders[i])]
    for i in missing:
        if folders[i].exists():
            work.notice(f"{folders[i].name} of an earlier attempt is damaged; its completions are sampled again")
    mine = [i for i in missing if i % ranks.world == ranks.rank]
    if mine:
        loaded: Engine = chosen(policy)
        to_come, own = (draws.k * sum(parts[i].stop - parts[i].start for i in some) for some in (missing, mine))
        answered = loaded.generate_parts(
            (plan.requests(parts[i], draws) for i in mine), options,
            lambda n: work.progress(total - to_come + n * to_come // own, total, "samples"),
        )  # fmt: skip
        for i, answers in zip(mine, answered, strict=True):
            ids = completion_ids(plan, parts[i], policy, draws, options, chosen)
            _write(folders[i], _table(plan, parts[i], draws, answers, ids))
    if not ranks.is_first:
        return Completions.of(Completions.SCHEMA.empty_table())
    if others := [folders[i] for i in missing if i not in mine]:
        _wait_for(others)
    _count(folders, work)
    work.progress(total, total, "samples")
    return Completions.of(_batches(folders), {"template": template_digest(policy)})


UNKEYED = {
    "tasks.contract.Chosen": "in a wiring the engine is a choice; only Python callers pass a name",
    "importlib.util.find_spec": "only Python callers pass `auto`: a wiring resolves it before the key is computed",
}


def chosen_engine(engine: Chosen | str) -> Chosen:
    """The engine as a choice; `auto` is resolved here for Python callers."""
    if isinstance(engine, Chosen):
        return engine
    if engine == "auto":
        engine = "vllm" if os.path.exists("/dev/nvidiactl") and importlib.util.find_spec("vllm") else "transformers"
    return Chosen("engines", engine, {})


def _table(plan: SamplingPlan, part: slice, draws: Draws, answers: list[SampledAnswer], names: list[str]) -> pa.Table:
    """Completions of the prompts in `part`, consecutive for each prompt."""
    each = pa.array([i for i in range(part.start, part.stop) for _ in range(draws.k)], pa.int64())
    columns: dict[str, Any] = dict(zip(plan.prompts.column_names, plan.prompts.take(each).columns, strict=True))
    tokens = [t for t in plan.prompt_tokens[part] for _ in range(draws.k)]
    numbers = [n for _ in plan.prompt_tokens[part] for n in range(draws.k)]
    columns |= {
        "completion_id": pa.array(names),
        "completion": pa.array([a.text for a in answers]),
        "prompt_tokens": _typed("prompt_tokens", tokens),
        "completion_tokens": _typed("completion_tokens", [a.tokens for a in answers]),
        "stream": pa.array([draws.stream] * len(answers), pa.int64()),
        "k": pa.array(numbers, pa.int32()),
        "token_logps": _typed("token_logps", [a.token_logps for a in answers]),
        "finish_reason": pa.array([a.finish_reason for a in answers]),
    }
    return Completions.conform(pa.table(columns))


def _typed(name: str, values: list[list[int]] | list[list[float]]) -> Any:
    return pa.array(values, Completions.SCHEMA.field(name).type)


def _write(folder: Path, table: pa.Table) -> None:
    with new_part(folder, shared=True) as part:
        write_table(part / TABLE, Completions.SCHEMA, [table])


def _batches(folders: list[Path]) -> Iterator[pa.RecordBatch]:
    for folder in folders:
        with pa.memory_map(str(folder / TABLE)) as source:
            reader = pa.ipc.open_file(source)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)


def _wait_for(folders: list[Path]) -> None:
    """Wait for the shards of the other ranks, by looking for their files: vLLM may hold torch's only process group.

    Raises RuntimeError where none came for as long as ranks wait for each other.
    """
    begun = time.monotonic()
    while left := [folder for folder in folders if not is_intact(folder)]:
        if len(left) < len(folders):
            folders, begun = left, time.monotonic()
        elif time.monotonic() > begun + timeout_seconds():
            raise RuntimeError(f"{len(left)} shards did not come from the other ranks; the first is {left[0]}")
        time.sleep(WAITING)


def _count(folders: list[Path], work: Workspace) -> None:
    """Count totals over all shards, including earlier attempts', so that a resumed step has the same record."""
    for batch in _batches(folders):
        tokens = pc.sum(pc.list_value_length(batch.column("completion_tokens"))).as_py()
        work.count(samples=batch.num_rows, tokens=tokens)
