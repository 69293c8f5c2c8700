"""Filling a loss's arguments by name: what a table and its reference log-probabilities say of every row.

What a loss may name says its family (`tasks.families`). What comes from the model is filled in at each step;
everything else is fixed and lies here, one entry per row.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.contract import Chosen, DataError, SpecError
from tasks.families import LOSSES, LossFamily
from tasks.kinds import Completions, Labels, Logps, Preferences, Rankings, Table, WinRates
from tasks.training.rows import Rows

PAIR = ("chosen", "rejected")


@dataclass(frozen=True)
class Examples:
    """N rows with what the loss is filled from. Everything is float64 but `label`."""

    rows: Rows
    names: tuple[str, ...]
    """What the loss's positional arguments are called."""
    columns: Mapping[str, Tensor]
    """`(N,)` or `(N, K)` each: whatever the loss names, less the policy's own.

    Of rankings: K is the longest; a place without an answer has log-probability 0, length 1, score 0 and mask False.
    """
    weights: Tensor
    """`(N,)`."""
    ref_logps: Tensor | None
    """`(A,)`, for the metrics."""
    better: Tensor | None
    """`(A,)` bool: which answers ought to rise; None where the table does not say."""


def examples_of(table: Table, rows: Rows, loss: Chosen, ref_logps: Logps | None) -> Examples:
    """Raises SpecError where the loss does not fit the table, DataError where its values are missing."""
    names = arguments_of(loss)
    check_kind(type(table), loss)
    _check_classes(table, loss, names)
    answers = None if ref_logps is None else _join(rows, ref_logps)
    if answers is None and any(n.startswith("ref_") for n in names):
        raise SpecError(f"the loss '{loss.name}' needs a reference: give `train` a `ref`")
    columns = {n: _column(n, table, rows, answers) for n in names if n not in family_of(loss).of_model}
    weights = _numbers(table, "weight", 1.0)
    examples = Examples(rows, tuple(names), columns, weights, answers, _preferred_mask(table, rows))
    _check_values(examples, loss)
    return examples


def family_of(loss: Chosen) -> LossFamily:
    """The loss's family. Raises SpecError where no such losses are trained on tables."""
    family = LOSSES.get(loss.folder)
    if family is None or not family.tables:
        known = [folder for folder, other in LOSSES.items() if other.tables]
        raise SpecError(f"losses in '{loss.folder}' are not trained on tables; those in {known} are")
    return family


def arguments_of(loss: Chosen) -> list[str]:
    """Names of the loss's positional arguments. Raises SpecError where they do not fit its family."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [n for n, p in inspect.signature(loss.function).parameters.items() if p.kind in kinds]
    family = family_of(loss)
    error, _ = family.error(names)
    if error:
        raise SpecError(f"{loss.module}: the loss {error}; a loss of that folder may name {sorted(family.arguments)}")
    return names


def loss_on_batch(examples: Examples, loss: Chosen, batch: Tensor, logps: Tensor) -> Tensor:
    """Loss of the rows `batch`, `(B,)`, with what the model says of their answers `(S,)`, in order."""
    own = _policy_columns(examples.rows, loss, batch, logps)
    inputs = {n: own[n] if n in own else examples.columns[n][batch] for n in examples.names}
    losses = loss(**inputs)
    if losses.shape != batch.shape:
        raise SpecError(f"{loss.module} returned {tuple(losses.shape)} for {len(batch)} rows; it must return one each")
    return losses


def _policy_columns(rows: Rows, loss: Chosen, batch: Tensor, logps: Tensor) -> dict[str, Tensor]:
    family = family_of(loss)
    if family.answers == "list":
        return {name: _ranked(rows, batch, logps, 0.0) for name in family.of_model}
    if family.answers == "pair":
        return dict(zip(family.of_model, logps.reshape(-1, 2).T, strict=True))
    return dict.fromkeys(family.of_model, logps)


def check_kind(kind: type[Table], loss: Chosen) -> None:
    """Raise SpecError unless the loss works on tables of that kind."""
    wanted = family_of(loss).table_of(arguments_of(loss))
    served = {above.__name__ for above in kind.__mro__}
    if wanted not in served and not (wanted == "Demonstrations" and issubclass(kind, Completions)):
        raise SpecError(f"the loss '{loss.name}' trains on {wanted}, not on {kind.__name__}")


def _check_classes(table: Table, loss: Chosen, names: list[str]) -> None:
    """Refuse a table that has nothing to tell apart. Raises DataError."""
    if isinstance(table, Labels) and "label" in names:
        found: Any = table.table.column("label").unique().to_pylist()
        if len(found) == 1:
            said = "desirable" if found[0] else "undesirable"
            raise DataError(f"all {len(table)} labels say {said}: the loss '{loss.name}' tells two classes apart, and "
                            "answers of the other one are missing")  # fmt: skip
    if isinstance(table, Rankings) and "target_scores" in names:
        lists: Any = table.table.column("scores").to_pylist()
        if not np.isfinite(np.concatenate([[0.0], *lists])).all():
            raise DataError("the rankings hold scores that are not finite: an answer without a score must be left out")
        if lists and all(len(set(scores)) < 2 for scores in lists):
            raise DataError(f"none of {len(table)} rankings has two answers of different scores: there is no order "
                            f"for the loss '{loss.name}' to learn")  # fmt: skip


def _ranked(rows: Rows, batch: Tensor, values: Tensor, empty: float) -> Tensor:
    """`(S,)` values of the answers of the rows `batch`, in order → `(B, K)`, `empty` where there is no answer."""
    counts = torch.from_numpy(np.diff(rows.starts))
    own = counts[batch]
    row = torch.repeat_interleave(torch.arange(len(batch)), own)
    place = torch.arange(len(row)) - (own.cumsum(0) - own)[row]
    return values.new_full((len(batch), int(counts.max())), empty).index_put((row, place), values)


def _ranking_column(name: str, table: Table, rows: Rows, ref_logps: Tensor | None) -> Tensor:
    every = torch.arange(len(rows))
    if name == "mask":
        return _ranked(rows, every, torch.ones(len(rows.answer_ids)), 0.0).bool()
    if name == "lengths":
        return _ranked(rows, every, torch.from_numpy(rows.answers.lengths).double(), 1.0)
    if name == "ref_logps":
        return _ranked(rows, every, _given(ref_logps), 0.0)
    return _ranked(rows, every, _target_scores(table), 0.0)


def _target_scores(table: Table) -> Tensor:
    """`(A,)`: the score of every ranked answer."""
    lists: Any = table.table.column("scores").combine_chunks()
    return torch.from_numpy(np.array(lists.flatten().to_numpy(), np.float64))


def _column(name: str, table: Table, rows: Rows, ref_logps: Tensor | None) -> Tensor:
    if isinstance(table, Rankings):
        return _ranking_column(name, table, rows, ref_logps)
    lengths = torch.from_numpy(rows.answers.lengths).double()
    if name in ("lengths", "ref_logps"):
        return lengths if name == "lengths" else _given(ref_logps)
    for side, which in enumerate(PAIR):
        if name == f"{which}_lengths":
            return lengths[side::2]
        if name == f"ref_{which}_logps":
            return _given(ref_logps)[side::2]
    if name == "prompt_win_rates":
        lists: Any = table.table.column(name).to_pylist()
        return _padded(lists)
    if name == "label":
        return torch.from_numpy(np.array(table.table.column(name).to_pylist(), bool))
    return _numbers(table, name, 0.0 if name == "margin" else np.nan)


def _given(ref_logps: Tensor | None) -> Tensor:
    assert ref_logps is not None
    return ref_logps


def _numbers(table: Table, name: str, null: float) -> Tensor:
    column: Any = table.table.column(name)
    values = column.fill_null(null) if column.null_count else column
    return torch.from_numpy(np.array(values.to_numpy(), np.float64))


def _padded(lists: list[list[float]]) -> Tensor:
    out = np.full((len(lists), max(map(len, lists), default=0)), np.nan)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)


def _join(rows: Rows, logps: Logps) -> Tensor:
    """The reference's log-probability of every answer, by ids, never by position."""
    table = logps.table
    keys = zip(table.column("prompt_id").to_pylist(), table.column("completion_id").to_pylist(), strict=True)
    values = zip(table.column("logps").to_pylist(), table.column("lengths").to_pylist(), strict=True)
    known = dict(zip(keys, values, strict=True))
    missing = [key for key in rows.keys if key not in known]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(rows.answer_ids)} answers have no reference log-probability, first: prompt "
            f"{missing[0][0]}, completion {missing[0][1]}; compute `logps` on the table that is trained on"
        )
    found = [known[key] for key in rows.keys]
    other = sum(length != own for (_, length), own in zip(found, rows.answers.lengths.tolist(), strict=True))
    if other:
        raise DataError(
            f"{other} answers have another number of tokens in the reference's table: other ids were scored"
        )
    return torch.tensor([value for value, _ in found], dtype=torch.float64)


def _preferred_mask(table: Table, rows: Rows) -> Tensor | None:
    if isinstance(table, Preferences):
        return torch.arange(len(rows.answer_ids)) % 2 == 0
    if isinstance(table, WinRates):
        return _numbers(table, "win_rate", np.nan) > 0.5
    if isinstance(table, Labels):
        return torch.from_numpy(np.array(table.table.column("label").to_pylist(), bool))
    if isinstance(table, Rankings):
        scores = _ranked(rows, torch.arange(len(rows)), _target_scores(table), -torch.inf)
        return (scores == scores.amax(dim=1, keepdim=True))[scores > -torch.inf]
    return None


def _check_values(examples: Examples, loss: Chosen) -> None:
    """A loss that reads a missing value gives NaN there: try it once on every row, with the policy's at -1."""
    batch = torch.arange(len(examples.rows))
    tried = loss_on_batch(
        examples, loss, batch, torch.full((len(examples.rows.answer_ids),), -1.0, dtype=torch.float64)
    )
    bad = ~tried.isfinite()
    if not bad.any():
        return
    nulls = [n for n, c in examples.columns.items() if c.is_floating_point() and _row_nan(c)[bad].any()]
    raise DataError(
        f"the loss '{loss.name}' is not finite on {int(bad.sum())} of {len(bad)} rows, first row "
        f"{int(bad.nonzero()[0])}" + (f": {' and '.join(nulls)} missing there" if nulls else "")
    )


def _row_nan(column: Tensor) -> Tensor:
    nan = column.isnan()
    return nan if nan.ndim == 1 else nan.all(dim=1)


def reward_scale(params: Mapping[str, Any]) -> float:
    """What turns a log-ratio into an implicit reward: beta, or 1/eta where the loss has that."""
    if "beta" in params:
        return float(params["beta"])
    return 1.0 / float(params["eta"]) if "eta" in params else 1.0
