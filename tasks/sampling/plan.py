"""The plan of a sampling: rendered prompts, maximum lengths, seeds and ids of completions."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from tasks.chat import Refusal
from tasks.contract import Chosen, DataError, SpecError, Workspace
from tasks.ids import digest
from tasks.kinds import Policy, Prompts
from tasks.rendering import Template
from tasks.sampling.requests import Options, Request
from tasks.template import generation_config
from tasks.training.model import positions_of


@dataclass(frozen=True)
class Draws:
    """Which completions are sampled for every prompt."""

    k: int
    seed: int
    stream: int

    def seed_of(self, prompt_id: str, number: int) -> int:
        """The 63-bit seed of one completion."""
        return int(digest(str(self.seed), str(self.stream), prompt_id, str(number))[:16], 16) >> 1


@dataclass(frozen=True)
class SamplingPlan:
    """The prompts that leave room for an answer, in their order."""

    prompts: pa.Table
    """Columns of `Prompts`."""
    prompt_ids: list[str]
    prompt_tokens: list[list[int]]
    room: list[int]
    """Maximum length of an answer to each, in tokens."""

    def requests(self, part: slice, draws: Draws) -> list[Request]:
        """The requests for some prompts, consecutive for each prompt."""
        rows = zip(self.prompt_ids[part], self.prompt_tokens[part], self.room[part], strict=True)
        return [Request(t, draws.seed_of(i, n), room) for i, t, room in rows for n in range(draws.k)]


def sampling_plan(policy: Policy, prompts: Prompts, max_tokens: int | None, work: Workspace) -> SamplingPlan:
    """Render the prompts; those that the template rejects or that are too long are skipped, with a notice.

    Raises DataError if none is left or one occurs twice, SpecError if the length of answers is unbounded.
    """
    table = prompts.table.select(Prompts.SCHEMA.names)
    _check_distinct(table)
    rendered = Template(policy).prompts(cast(list[Any], table.column("prompt").to_pylist()))
    ids = cast(list[str], table.column("prompt_id").to_pylist())
    positions = positions_of(policy)
    longest = max_tokens or generation_config(policy.path).get("max_new_tokens")
    if longest is None and positions is None:
        raise SpecError(f"{policy.path} specifies neither positions nor max_new_tokens: set max_tokens")
    tokens = [[] if isinstance(t, Refusal) else t for t in rendered]
    room = [_room(len(t), positions, longest) for t in tokens]
    too_long = f"too long for the policy's {positions} positions"
    reasons = [
        t.reason if isinstance(t, Refusal) else (too_long if n <= 0 else None)
        for t, n in zip(rendered, room, strict=True)
    ]  # fmt: skip
    usable = [i for i, reason in enumerate(reasons) if reason is None]
    if len(usable) < len(room):
        _report_skipped(ids, reasons, work)
    return SamplingPlan(
        table.take(pa.array(usable, pa.int64())),
        [ids[i] for i in usable],
        [tokens[i] for i in usable],
        [room[i] for i in usable],
    )


def _room(prompt: int, positions: int | None, longest: int | None) -> int:
    left = positions - prompt if positions is not None else cast(int, longest)
    return left if longest is None else min(left, longest)


def _check_distinct(table: pa.Table) -> None:
    distinct = pc.count_distinct(table.column("prompt_id")).as_py()
    if distinct < table.num_rows:
        raise DataError(
            f"{table.num_rows - distinct} of {table.num_rows} prompts occur before in the same table: "
            "their completions would be copies; use a larger k instead"
        )


def _report_skipped(ids: list[str], reasons: list[str | None], work: Workspace) -> None:
    skipped = [(i, reason) for i, reason in zip(ids, reasons, strict=True) if reason is not None]
    counts = Counter(reason for _, reason in skipped)
    first = {reason: i for i, reason in reversed(skipped)}
    summary = "; ".join(f"{n} {reason} (first: {first[reason]})" for reason, n in counts.most_common())
    text = f"{len(skipped)} of {len(ids)} prompts skipped: {summary}"
    if len(skipped) == len(ids):
        raise DataError(text)
    work.count(rows_skipped=len(skipped))
    work.notice(text)


def completion_ids(
    plan: SamplingPlan, part: slice, policy: Policy, draws: Draws, options: Options, engine: Chosen
) -> list[str]:
    """completion_ids, consecutive for each prompt: they hash everything that can change a completion."""
    how = {**asdict(options), "stop_ids": sorted(options.stop_ids), "engine": engine.name, "with": dict(engine.params)}
    common = policy.digest or str(policy.path), json.dumps(how, sort_keys=True), str(draws.seed), str(draws.stream)
    rows = zip(plan.prompt_ids[part], plan.room[part], strict=True)
    return [digest(*common, prompt_id, str(room), str(n)) for prompt_id, room in rows for n in range(draws.k)]
