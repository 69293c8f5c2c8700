"""Sampling shard by shard: finished shards are files, which a later attempt reads instead of sampling again.

Several ranks share the missing shards, each with an engine of its own; rank 0 returns the table of all.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.arrow import write_table
from tasks.contract import Chosen, Workspace, chunks
from tasks.kinds import Completions, Policy
from tasks.parts import is_intact, new_part
from tasks.ranks import barrier, broadcast, this_rank
from tasks.sampling.plan import Draws, SamplingPlan, completion_ids
from tasks.sampling.requests import Answer, Engine, Options
from tasks.template import template_digest

TABLE = "table.arrow"


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
    chosen = chosen_engine(engine)
    parts = list(chunks(len(plan.prompt_tokens), shard))
    folders = [work.path / f"shard-{i:05d}" for i in range(len(parts))]
    total = draws.k * len(plan.prompt_tokens)
    missing = broadcast(_missing(folders, work))
    mine = [(parts[i], folders[i]) for i in missing[this_rank().rank :: this_rank().world]]
    if mine:
        loaded: Engine = chosen(policy)
        before = total - draws.k * sum(parts[i].stop - parts[i].start for i in missing)
        share = (total - before) / (draws.k * sum(part.stop - part.start for part, _ in mine))
        answered = loaded.generate_parts(
            (plan.requests(part, draws) for part, _ in mine), options,
            lambda n: work.progress(before + int(n * share), total, "samples"),
        )  # fmt: skip
        for (part, folder), answers in zip(mine, answered, strict=True):
            ids = completion_ids(plan, part, policy, draws, options, chosen)
            _write(folder, _table(plan, part, draws, answers, ids))
    barrier()
    if not this_rank().is_first:
        return Completions.of(Completions.SCHEMA.empty_table())
    _count(folders, work)
    work.progress(total, total, "samples")
    return Completions.of(_batches(folders), {"template": template_digest(policy)})


def _missing(folders: list[Path], work: Workspace) -> list[int]:
    """Numbers of the shards to be sampled, as rank 0 sees them: ranks begin at different times. Empty on others."""
    if not this_rank().is_first:
        return []
    missing = [i for i, folder in enumerate(folders) if not is_intact(folder)]
    for i in missing:
        if folders[i].exists():
            work.notice(f"{folders[i].name} of an earlier attempt is damaged; its completions are sampled again")
    return missing


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


def _table(plan: SamplingPlan, part: slice, draws: Draws, answers: list[Answer], names: list[str]) -> pa.Table:
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


def _count(folders: list[Path], work: Workspace) -> None:
    """Count totals over all shards, including earlier attempts', so that a resumed step has the same record."""
    for batch in _batches(folders):
        tokens = pc.sum(pc.list_value_length(batch.column("completion_tokens"))).as_py()
        work.count(samples=batch.num_rows, tokens=tokens)
