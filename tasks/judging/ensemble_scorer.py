"""An ensemble as a live scorer. `Ensemble.open` calls it; the task `ensemble` writes the files that it reads.

`baselines.arrow` holds, for each prompt with base samples, the members' mean scores of them and their mean feature;
`covariance.npy` the Cholesky factor of the features' covariance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tasks.arrow import open_table, write_table
from tasks.attributes import Blend
from tasks.columns import field
from tasks.contract import DataError, SpecError
from tasks.ids import prompt_id
from tasks.judging.ensembles import Floats, above, combined, disagreement, distance, vectors_of
from tasks.judging.opening import open_unbound
from tasks.kinds import RewardModel, Scorer
from tasks.training.texts import once_each

BASELINES, COVARIANCE = "baselines.arrow", "covariance.npy"
_LIST = pa.list_(pa.field("item", pa.float64(), False))
SCHEMA = pa.schema([
    field("prompt_id", pa.string(), "the prompt"),
    field("scores", _LIST, "each member's mean score of the base samples"),
    field("features", _LIST, "their mean feature; empty where the ensemble has no features"),
])  # fmt: skip
Values = Callable[[Sequence[Any], Sequence[str], Sequence[str | None]], Floats]


def ensemble_scorer(
    *, member: Sequence[Scorer], path: Path, how: str, weights: Sequence[float] | None, c: float,
    uncertainty: Literal["ensemble", "features"], names: Sequence[str] | None = None, dtype: str = "auto",
) -> Scorer:  # fmt: skip
    """The scorer that several make: P(a beats b) = σ(score(a) − score(b)), members scaled to the same form.

    All members are in memory at once. An answer that one of them does not score has no score. `blend` has the members'
    scores, but for a lower bound by features, which reads more than those. It knows its uncertainty
    (`Oracle.uncertainty`) where there are two members, or features:

        ensemble   std over the members of P(a beats b)
        features   ‖φ(x, a) − φ(x, b)‖ in Σ⁻¹

    Args:
        member: its members, opened from a store.
        path: folder of the ensemble.
        how: see `ensembles.combined`; with features the lower bound is mean − c·‖φ(x, a) − φ̄(x)‖ in Σ⁻¹.
        weights: of the members, for `weighted`.
        c: how many deviations, or distances, a lower bound lies below the mean.
        uncertainty: of what.
        names: of the members, for curves; default: see `names_of`.
        dtype: that models compute in.
    """
    live = [open_unbound(one, dtype) for one in member]
    scores, by_prompt = member_scores(live), read_baselines(path)
    by_features = uncertainty == "features"
    features = feature_values(member, live, dtype) if by_features else scores
    factor = np.load(path / COVARIANCE) if by_features else None
    score_means = {id: s for id, (s, _) in by_prompt.items()}
    feature_means = {id: f for id, (_, f) in by_prompt.items()}

    def combine(prompts: Sequence[Any], values: Floats) -> Floats:
        if how in ("worst", "lower_bound"):
            values = above(values, [prompt_id(p) for p in prompts], score_means)
        return combined(values, how, weights=weights, c=c)

    def score(prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]) -> list[float | None]:
        values = scores(prompts, completions, truths)
        if how == "lower_bound" and factor is not None:
            ids = [prompt_id(p) for p in prompts]
            offsets = above(features(prompts, completions, truths), ids, feature_means)
            return _or_none(values.mean(axis=1) - c * _distance(offsets, factor))
        return _or_none(combine(prompts, values))

    def by_member(prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]) -> Sequence[Any]:
        rows = scores(prompts, completions, truths)
        return [None if np.isnan(row).any() else row.tolist() for row in rows]

    def uncertain(
        prompts: Sequence[Any], a: Sequence[str], b: Sequence[str], truths: Sequence[str | None]
    ) -> list[float | None]:
        def rows(*distinct: Any) -> list[Floats]:
            return list(features(*distinct))

        both = np.array(once_each([*prompts, *prompts], [*a, *b], [*truths, *truths], rows))
        first, second = both[: len(a)], both[len(a) :]
        return _or_none(disagreement(first, second) if factor is None else _distance(first - second, factor))

    by_distance = how == "lower_bound" and by_features
    blend = None if by_distance else Blend(tuple(names or names_of(member)), by_member, combine)
    scorer = Scorer.scoring(score).with_live_members(live).with_blend(blend)
    return scorer.with_uncertainty(uncertain) if by_features or len(live) > 1 else scorer


def names_of(member: Sequence[Scorer]) -> list[str]:
    """A name of each member: of its choice (`toy_judge`), else of its kind (`reward_model`), numbered from the second
    with that name on (`reward_model_2`)."""
    plain = [_name_of(one) for one in member]
    before = [plain[:i].count(name) for i, name in enumerate(plain)]
    return [f"{name}_{n + 1}" if n else name for name, n in zip(plain, before, strict=True)]


def _name_of(member: Scorer) -> str:
    if type(member) is Scorer:
        with suppress(DataError):  # a live one, which no choice made
            return member.choice.name
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(member).__name__).lower()


def member_scores(live: Sequence[Scorer]) -> Values:
    """A function from rows to the scores of all members, `(A, M)`, each times the member's scale; NaN: no score."""

    def values(prompts: Sequence[Any], completions: Sequence[str], truths: Sequence[str | None]) -> Floats:
        columns = [vectors_of(one.score(prompts, completions, truths), 1) * one.scale for one in live]
        return np.concatenate(columns, axis=1)

    return values


def feature_values(member: Sequence[Scorer], live: Sequence[Scorer], dtype: str) -> Values:
    """A function from rows to features, `(A, d)`; NaN: none. Of one reward model: what its head reads; of several
    scorers: their scores."""
    if len(member) > 1:
        return member_scores(live)
    from tasks.training.features import feature_reader

    [model] = member
    if not isinstance(model, RewardModel):
        raise SpecError(f"a {type(model).__name__} has no features; a reward model has, or several scorers together")
    reader = feature_reader(model, dtype)
    return lambda prompts, completions, truths: vectors_of(reader.read(prompts, completions), reader.width)


def write_baselines(path: Path, scores: Mapping[str, Floats], features: Mapping[str, Floats]) -> None:
    """Write the baselines of an ensemble, by prompt_id; `features` may be empty."""
    rows = {
        "prompt_id": [*scores], "scores": [s.tolist() for s in scores.values()],
        "features": [features[id].tolist() if features else [] for id in scores],
    }  # fmt: skip
    write_table(path / BASELINES, SCHEMA, [pa.table(rows, SCHEMA)])


def read_baselines(path: Path) -> dict[str, tuple[Floats, Floats]]:
    """prompt_id → the members' mean scores and the mean feature; empty without base samples."""
    if not (path / BASELINES).exists():
        return {}
    with open_table(path / BASELINES) as reader:
        rows = reader.read_all().to_pylist()
    return {r["prompt_id"]: (np.array(r["scores"]), np.array(r["features"])) for r in rows}


def _distance(vectors: Floats, factor: Floats) -> Floats:
    """NaN for a vector with missing numbers."""
    known = ~np.isnan(vectors).any(axis=1)
    out = np.full(len(vectors), np.nan)
    out[known] = distance(vectors[known], factor)
    return out


def _or_none(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
