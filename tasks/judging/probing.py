"""The rows of a probe, and their log-probabilities at several steps of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from tasks.contract import DataError
from tasks.ids import digest
from tasks.judging.intervals import interval


def probe_rows(
    demonstrations: pl.DataFrame, pairs: pl.DataFrame, kinds: Sequence[str], size: int, seed: int
) -> pl.DataFrame:
    """The columns of a prompt, completion_id, completion and group (one of the five `kinds`) of
    `tasks.probe.probe_answers`."""
    first = pairs.unique("prompt_id", keep="first", maintain_order=True)
    rejected = dict(first.select("prompt_id", "rejected").iter_rows())
    texts: dict[str, list[str]] = {}
    for prompt, text in demonstrations.select("prompt_id", "completion").iter_rows():
        several = texts.setdefault(prompt, [])
        if text not in several:
            several.append(text)
    prompts = [p for p, several in texts.items() if len(several) > 1 and p in rejected][:size]
    if len(prompts) < 2:
        raise DataError(
            "a probe needs two prompts that have two different demonstrations and a pair; of "
            f"{len(texts)} prompts with demonstrations and {len(rejected)} with pairs, {len(prompts)} have"
        )
    noise = np.random.default_rng(seed)
    golden = [texts[p][0] for p in prompts]
    words = [word for text in golden for word in text.split()]
    shift = int(noise.integers(1, len(prompts)))
    answers_by_kind = (
        golden, [texts[p][1] for p in prompts], [rejected[p] for p in prompts], [*golden[shift:], *golden[:shift]],
        [" ".join(noise.choice(words, len(text.split()))) for text in golden],
    )  # fmt: skip
    answers = pl.DataFrame([
        {"prompt_id": p, "completion_id": digest("probe", p, kind, text), "completion": text, "group": kind}
        for kind, several in zip(kinds, answers_by_kind, strict=True)
        for p, text in zip(prompts, several, strict=True)
    ])  # fmt: skip
    asked = demonstrations.unique("prompt_id", keep="first", maintain_order=True).select("prompt_id", "prompt", "truth")
    return asked.join(answers, on="prompt_id", how="inner", maintain_order="right")


def joined_logps(probes: pl.DataFrame, tables: Sequence[pl.DataFrame], steps: Sequence[int]) -> pl.DataFrame:
    """prompt_id, group, lengths, and for each step `logps_<step>`. Raises DataError where a table lacks a probe."""
    rows = probes.select("prompt_id", "completion_id", "group")
    for step, table in zip(steps, tables, strict=True):
        columns = ["lengths"] if step == 0 else []
        logps = table.select("completion_id", pl.col("logps").alias(f"logps_{step}"), *columns)
        rows = rows.join(logps, on="completion_id", how="left", maintain_order="left")
        if missing := rows[f"logps_{step}"].null_count():
            raise DataError(f"the table of step {step} lacks {missing} of {len(rows)} probes: it must be of `probes`")
    return rows


def levels(answers: pl.DataFrame, step: int, kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a Report: nats per token of each kind."""
    for kind in kinds:
        rows = answers.filter(pl.col("group") == kind)
        of_prompt = rows.group_by("prompt_id", maintain_order=True).agg(pl.col(f"logps_{step}", "lengths").sum())
        tokens = of_prompt["lengths"].to_numpy().astype(np.float64)
        mean = interval(of_prompt[f"logps_{step}"].to_numpy() / tokens, tokens, share=False)
        yield mean.report_row(f"probe/{step}/{kind}", "nats per token")


def changes(answers: pl.DataFrame, step: int, kinds: Sequence[str], name: str) -> Iterator[dict[str, Any]]:
    """Rows of a Report: nats that an answer of each kind gained since the start."""
    gained = answers.select("prompt_id", "group", gain=pl.col(f"logps_{step}") - pl.col("logps_0"))
    for kind in kinds:
        rows = gained.filter(pl.col("group") == kind)
        of_prompt = rows.group_by("prompt_id", maintain_order=True).agg(pl.col("gain").mean())
        yield interval(of_prompt["gain"].to_numpy(), share=False).report_row(f"{name}/{kind}", "nats")
