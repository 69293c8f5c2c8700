"""Several objectives in one policy: their weights are written into the prompt, and mix what the objectives prefer."""

from __future__ import annotations

from typing import Annotated

from tasks.contract import Bounds, DataError, Seed, SpecError, Workspace
from tasks.declarations import Size, StepView
from tasks.kinds import AnyTable, Completions, WinProbs


def write_weights_wiring(step: StepView) -> None:
    """Refuse objectives and weights that do not fit."""
    from tasks.judging.conditions import check_objectives, fixed_weights

    check_objectives(step.params["objectives"])
    fixed_weights(step.params["objectives"], step.params["weights"])


def write_weights(
    table: AnyTable,
    *,
    objectives: list[str],
    weights: list[float] | None = None,
    levels: Annotated[int, Bounds(min=1)] = 4,
    seed: Seed = 0,
) -> AnyTable:
    """Prompts, or demonstrations, whose last user message begins with a line that weighs the objectives.

    `quality 0.75, length 0.25` and a newline stand before the message. So one policy can be trained for several
    trade-offs, and follow the one that it is given. Weights add up to 1. The column `group` becomes the line, so that
    reports can group by it, and `prompt_id` is that of the new content.

    Raises DataError where a prompt has no user message, or answers were sampled to the prompts before.

    Source: Dong et al., SteerLM, arXiv 2310.05344, conditions answers on attribute values in the prompt; Guo et al.,
    controllable preference optimization, arXiv 2402.19085; here the weights of objectives are written.

    Args:
        objectives: names, of letters, digits, - and _.
        weights: one for each objective, in any unit: those of all prompts; default: every prompt draws its own.
        levels: drawn weights are multiples of 1/levels, all such combinations equally likely.
        seed: the draws, which belong to the prompt whatever the table's order.
    """
    import polars as pl

    from tasks.ids import prompt_id
    from tasks.judging.conditions import check_objectives, drawn_weights, fixed_weights, weights_line, with_line

    check_objectives(objectives)
    if isinstance(table, Completions):
        raise DataError("the answers of this table were sampled without the line: write it into their prompts before")
    fixed, rows = fixed_weights(objectives, weights), table.frame
    lines = [
        weights_line(objectives, fixed or drawn_weights(one, len(objectives), levels, seed))
        for one in rows["prompt_id"]
    ]
    prompts = [with_line(prompt, line) for prompt, line in zip(rows["prompt"].to_list(), lines, strict=True)]
    new = rows.with_columns(
        prompt_id=pl.Series([prompt_id(prompt) for prompt in prompts]),
        prompt=pl.Series(prompts, dtype=rows.schema["prompt"]), group=pl.Series(lines),
        **{n: pl.lit(None, dtype=t) for n, t in rows.schema.items() if n == "prompt_tokens"},
    )  # fmt: skip
    return type(table).of(new.to_arrow(), {n: v for n, v in table.metadata.items() if n != "template"})


def mix_win_probs_wiring(step: StepView) -> None:
    """Refuse another number of tables than objectives."""
    tables, objectives = len(step.inputs["tables"]), step.params["objectives"]
    if tables != len(objectives):
        raise SpecError(f"`tables` has {tables} tables for the {len(objectives)} objectives {objectives}: one each")


def mix_win_probs_size(step: StepView) -> Size:
    return Size(step.rows_of("tables"))


def mix_win_probs(
    tables: list[WinProbs], completions: Completions, work: Workspace, *, objectives: list[str]
) -> WinProbs:
    """What the objectives prefer together, by the weights that stand in each prompt: P = Σ w_i·P_i.

    Probabilities have no unit, so oracles of different scales can be mixed. P is null where an objective with a weight
    above 0 gave no answer. Raises DataError where a prompt has no such line, its objectives are others, or the tables'
    questions differ.

    Args:
        objectives: names in the order of the tables.
    """
    import numpy as np
    import polars as pl

    from tasks.judging.conditions import weights_in

    if len(tables) != len(objectives):
        raise SpecError(f"`tables` has {len(tables)} tables for {len(objectives)} objectives")
    first = tables[0].frame
    keys = ["prompt_id", "a_id", "b_id", "first"]
    for name, table in zip(objectives[1:], tables[1:], strict=True):
        if not table.frame.select(keys).equals(first.select(keys)):
            raise DataError(
                f"the questions to '{name}' are not those to '{objectives[0]}': compare the same completions"
            )
    prompts = completions.frame.select("prompt_id", "prompt").unique("prompt_id", maintain_order=True)
    weights = {
        one: weights_in(prompt, objectives)
        for one, prompt in zip(prompts["prompt_id"], prompts["prompt"].to_list(), strict=True)
    }
    if missing := set(first["prompt_id"]) - weights.keys():
        raise DataError(f"{len(missing)} prompts of `tables` are not among those of `completions`")
    by_row = np.array([weights[one] for one in first["prompt_id"]]).reshape(-1, len(objectives))
    p = np.stack([table.frame["p"].to_numpy() for table in tables], axis=1)
    mixed = np.where(by_row > 0, by_row * p, 0.0).sum(axis=1)
    work.count(unanswered=int(np.isnan(mixed).sum()))
    return WinProbs.of(first.with_columns(p=pl.Series(mixed).fill_nan(None)).to_arrow())
