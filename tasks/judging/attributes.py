"""Answers scored by several attributes: their columns, their weights, and tables of scores brought together."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.contract import DataError, SpecError
from tasks.kinds import Completions, Oracle, Scorer, Scores

Floats = npt.NDArray[np.float64]


def weighted(oracle: Oracle, weights: Mapping[str, float] | None) -> Oracle:
    """The live oracle with weights of its attributes. Raises SpecError where it has none of these."""
    if isinstance(oracle, Scorer):
        return oracle.weighted(weights)
    if weights is not None:
        raise SpecError(f"`weights` are of a scorer's attributes; {type(oracle).__name__} only compares")
    return oracle


def with_attributes(block: pa.Table, values: Floats, weights: Sequence[float]) -> pa.Table:
    """`block` with the columns `score` and `attributes` of `(R, M)` values, NaN where one is missing.

    The score is Σ weight · value, null where a value with a weight is missing.
    """
    weight = np.array(weights, np.float64)
    score = np.where(weight == 0, 0.0, values * weight).sum(axis=1)
    known = [None if all(map(math.isnan, row)) else [*map(_or_none, row)] for row in values.tolist()]
    kind = Scores.SCHEMA.field("attributes").type
    with_score = block.append_column("score", pa.array(score, mask=np.isnan(score)))
    return with_score.append_column("attributes", pa.array(known, kind))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_attributes(tables: Sequence[Scores], names: Sequence[str]) -> Scores:
    """One table of the answers of all tables, whose attributes are their scores. Raises DataError, SpecError."""
    if len(names) != len(tables) or len(set(names)) < len(names):
        raise SpecError(f"`names` must give each of {len(tables)} tables a name of its own, not {list(names)}")
    first = tables[0].table
    values = np.full((len(first), len(tables)), np.nan)
    for j, scores in enumerate(tables):
        found = dict(zip(scores.table.column("completion_id").to_pylist(), scores.table.column("score").to_pylist(),
                         strict=True))  # fmt: skip
        missing = [i for i in first.column("completion_id").to_pylist() if i not in found]
        if missing or len(found) != len(first):
            raise DataError(f"the tables must score the same answers: {len(missing)} of {len(first)} answers of the "
                            f"first have no row in '{names[j]}', which has {len(found)}")  # fmt: skip
        values[:, j] = [np.nan if (x := found[i]) is None else x for i in first.column("completion_id").to_pylist()]
    rows = with_attributes(first.select(Completions.SCHEMA.names), values, [1 / len(names)] * len(names))
    metadata = {k: v for k, v in tables[0].metadata.items() if k != "attributes"}
    return Scores.of(rows, {**metadata, "attributes": json.dumps(list(names))})
