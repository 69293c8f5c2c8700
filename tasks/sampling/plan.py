"""What is to be drawn: prompts rendered once, room for each answer, seeds and names of the draws."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from tasks.contract import Chosen, DataError, SpecError, Workspace
from tasks.ids import digest
from tasks.kinds import Policy, Prompts
from tasks.sampling.requests import Options, Request
from tasks.template import generation_config, prompts_ids, tokenizer_of
from tasks.training.model import positions_of


@dataclass(frozen=True)
class Draws:
    """Which draws are made of every prompt."""

    k: int
    seed: int
    stream: int

    def seed_of(self, prompt_id: str, number: int) -> int:
        """63 bits for one completion."""
        return int(digest(str(self.seed), str(self.stream), prompt_id, str(number))[:16], 16) >> 1


@dataclass(frozen=True)
class Plan:
    """Prompts that leave room for an answer, in their order."""

    prompts: pa.Table
    """Columns of `Prompts`."""
    prompt_ids: list[str]
    prompt_tokens: list[list[int]]
    room: list[int]
    """Longest answer of each, in tokens."""

    def requests(self, part: slice, draws: Draws) -> list[Request]:
        """All draws of some prompts, those of one prompt side by side."""
        rows = zip(self.prompt_ids[part], self.prompt_tokens[part], self.room[part], strict=True)
        return [Request(t, draws.seed_of(i, n), room) for i, t, room in rows for n in range(draws.k)]


def plan_of(policy: Policy, prompts: Prompts, max_tokens: int | None, work: Workspace) -> Plan:
    """Render the prompts and skip those that are too long. Raises DataError and SpecError."""
    table = prompts.table.select(Prompts.SCHEMA.names)
    _refuse_repeats(table)
    tokens = prompts_ids(tokenizer_of(policy), cast(list[Any], table.column("prompt").to_pylist()))
    ids = cast(list[str], table.column("prompt_id").to_pylist())
    positions = positions_of(policy)
    longest = max_tokens or generation_config(policy.path).get("max_new_tokens")
    if longest is None and positions is None:
        raise SpecError(f"{policy.path} says neither its positions nor max_new_tokens: give max_tokens")
    room = [_room(len(t), positions, longest) for t in tokens]
    kept = [i for i, n in enumerate(room) if n > 0]
    if len(kept) < len(room):
        _tell_too_long(ids, room, positions, work)
    return Plan(
        table.take(pa.array(kept, pa.int64())),
        [ids[i] for i in kept],
        [tokens[i] for i in kept],
        [room[i] for i in kept],
    )


def _room(prompt: int, positions: int | None, longest: int | None) -> int:
    left = positions - prompt if positions is not None else cast(int, longest)
    return left if longest is None else min(left, longest)


def _refuse_repeats(table: pa.Table) -> None:
    distinct = pc.count_distinct(table.column("prompt_id")).as_py()
    if distinct < table.num_rows:
        raise DataError(
            f"{table.num_rows - distinct} of {table.num_rows} prompts occur before in the same table: "
            "their draws would be copies; ask for a larger k instead"
        )


def _tell_too_long(ids: list[str], room: list[int], positions: int | None, work: Workspace) -> None:
    out = [i for i, n in zip(ids, room, strict=True) if n <= 0]
    names = ", ".join(out[:3]) + ("" if len(out) <= 3 else ", …")
    text = f"{len(out)} of {len(room)} prompts fill the policy's {positions} positions and were skipped: {names}"
    if len(out) == len(room):
        raise DataError(text)
    work.count(rows_skipped=len(out))
    work.notice(text)


def names_of(plan: Plan, part: slice, policy: Policy, draws: Draws, options: Options, engine: Chosen) -> list[str]:
    """completion_ids, those of one prompt side by side: whatever could change a draw changes its name."""
    how = {**asdict(options), "stop_ids": sorted(options.stop_ids), "engine": engine.name, "with": dict(engine.params)}
    common = policy.digest or str(policy.path), json.dumps(how, sort_keys=True), str(draws.seed), str(draws.stream)
    rows = zip(plan.prompt_ids[part], plan.room[part], strict=True)
    return [digest(*common, prompt_id, str(room), str(n)) for prompt_id, room in rows for n in range(draws.k)]
